"""How long a step takes: how many fit in a host call, and which took too long."""

from __future__ import annotations

import collections
import logging
import math
import statistics

log = logging.getLogger("seamline")

FIRST_STEP = "First step"
"""How the line begins that says it is done; start-up is measured by it."""

_HOST_CALL_S = 1.0
_MOST_STEPS_A_CALL = 50
_REMEMBERED, _ENOUGH = 50, 5
_SLOW = 20


class Pace:
    """Watches the calls of the training step.

    Attributes:
      first: no call has ended yet. The first one is no measure: it compiles.
    """

    def __init__(self) -> None:
        self._last = math.inf
        self._usual: collections.deque[float] = collections.deque(maxlen=_REMEMBERED)
        self.first, self._was_slow = True, False

    def count(self, left: int) -> int:
        """How many steps the next call makes: about a second's worth, one at least.

        Signals are looked at between calls.

        Args:
          left: most steps.
        """
        fitting = int(_HOST_CALL_S / max(self._last, 1e-9))
        return max(1, min(fitting, _MOST_STEPS_A_CALL, left))

    def add(self, step: int, count: int, seconds: float) -> None:
        """Notes a call of `count` steps from `step` on; reports one that was slow.

        A call is slow when one of its steps may have taken 20 times the usual and the
        call itself more than twice what it should. Of slow calls in a row the first
        one is reported.
        """
        self._last = seconds / count
        if self.first:
            self.first = False
            return
        slow = False
        if len(self._usual) >= _ENOUGH:
            usual = statistics.median(self._usual)
            longest = seconds - (count - 1) * usual
            slow = longest > _SLOW * usual and seconds > 2 * count * usual
            if slow and not self._was_slow:
                log.warning(
                    "Warning: step %d to %d took %.1f s; the usual is %.3f s a step",
                    step,
                    step + count - 1,
                    seconds,
                    usual,
                )
        self._was_slow = slow
        self._usual.append(self._last)
