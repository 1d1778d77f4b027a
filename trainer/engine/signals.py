"""SIGTERM and SIGINT: finish the step, save, stop."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

from trainer.engine.state import Progress
from trainer.errors import Stopped


class StopSignals:
    """Notes SIGTERM and SIGINT, so that the loop can save; a second one stops now."""

    def __init__(self) -> None:
        self.asked = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *unused: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.asked:
            raise Stopped(number, "stopped at once by a second signal")
        self.asked = number

    def check(self, progress: Progress) -> None:
        """Stops if a signal came; the caller has saved.

        Raises:
          Stopped: it did.
        """
        if self.asked:
            raise Stopped(
                self.asked,
                f"stopped by {signal.Signals(self.asked).name} after saving at step "
                f"{progress.step}; the same command goes on from there",
            )
