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
    """Notes SIGTERM and SIGINT, so that the loop can save; a second one stops now."""

    def __init__(self) -> None:
        self.asked = 0
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

        For what takes long and changes nothing that is to be saved.
        """
        self._at_once = True
        try:
            if self.asked:
                raise _stopped(self.asked)
            yield
        finally:
            self._at_once = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.asked:
            raise Stopped(number, "stopped at once by a second signal")
        self.asked = number
        if self._at_once:
            raise _stopped(number)

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


def _stopped(number: int) -> Stopped:
    name = signal.Signals(number).name
    return Stopped(number, f"stopped by {name}; the same command goes on")
