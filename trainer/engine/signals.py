"""SIGTERM and SIGINT: finish the step, save, stop."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

from trainer.engine.state import Progress
from trainer.errors import Stopped


class StopSignals:
    """Notes SIGTERM and SIGINT, so that the loop can save; a second one stops now.

    Args:
      alone: no other worker has to stop at the same step.

    Attributes:
      asked: number of the signal, or 0.
      insisted: a second one came.
    """

    def __init__(self, *, alone: bool = True) -> None:
        self._alone = alone
        self.asked, self.insisted = 0, False
        self._at_once = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *unused: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Within this, a signal raises `Stopped` where it finds the program.

        For what takes long and changes nothing that is to be saved. Not where other
        workers would be left waiting.
        """
        self._at_once = self._alone
        try:
            if self.asked and self._at_once:
                raise _stopped(self.asked)
            yield
        finally:
            self._at_once = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.asked:
            self.insisted = True
            raise Stopped(number, "stopped at once by a second signal")
        self.asked = number
        if self._at_once:
            raise _stopped(number)

    def check(self, progress: Progress, number: int) -> None:
        """Stops where a signal came, here or to another worker; the caller has saved.

        Args:
          progress: where the training stands.
          number: of the signal, 0: none.

        Raises:
          Stopped: it did.
        """
        if number:
            raise Stopped(
                number,
                f"stopped by {signal.Signals(number).name} after saving at step "
                f"{progress.step}; the same command goes on from there",
            )


def _stopped(number: int) -> Stopped:
    name = signal.Signals(number).name
    return Stopped(number, f"stopped by {name}; the same command goes on")
