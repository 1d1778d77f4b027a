"""What a training does next: so many steps, a checkpoint, or its end."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable

from trainer import progress as bars
from trainer.engine import workers
from trainer.engine.job import Job
from trainer.engine.pace import Pace
from trainer.engine.signals import StopSignals
from trainer.engine.state import Progress

log = logging.getLogger("seamline")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What all workers do next. Where one is ahead of the others, it counts for all.

    Attributes:
      count: steps of the next host call.
      save: a checkpoint within the epoch is due.
      enough: the time is up.
      signal: number of the one that a worker has been asked to stop by, or 0.
    """

    count: int
    save: int
    enough: int
    signal: int


class Planner:
    """Settles what comes next, from the time and where the training stands.

    Args:
      job: what is trained.
      progress: where it stands, kept up to date by the loop.
      stop: signals that have come.
      patience, save_minutes, max_minutes, clock: see `loop.Training`.
      most_steps: a step -> how many a host call from there on may make at most.

    Attributes:
      next: what was settled last.
      pace: how long steps take.
    """

    next: Plan

    def __init__(
        self,
        job: Job,
        progress: Progress,
        stop: StopSignals,
        *,
        patience: int,
        save_minutes: float,
        max_minutes: float,
        most_steps: Callable[[int], int],
        clock: Callable[[], float],
    ) -> None:
        self._job, self._progress, self._stop = job, progress, stop
        self._patience, self._clock = patience, clock
        self._most_steps = most_steps
        self._save_s, self._most_s = 60 * save_minutes, 60 * max_minutes
        self._began = clock() - progress.trained_s
        self._saved_at = clock()
        self.pace = Pace()
        self._agree = workers.compile_agreement(job.strategy)

    @property
    def within_epoch(self) -> bool:
        """An epoch has begun and is not counted yet."""
        return self._progress.step > self._progress.epoch * self._job.steps_per_epoch

    @property
    def end_of_epoch(self) -> int:
        """The step after the last one of the epoch under way, or of the next one."""
        return (self._progress.epoch + 1) * self._job.steps_per_epoch

    @property
    def trained_s(self) -> float:
        """Seconds of training so far, earlier processes' included."""
        return self._clock() - self._began

    def note_save(self) -> None:
        """All so far has just been saved."""
        self._saved_at = self._clock()

    def settle(self) -> None:
        """Settles what comes next. All workers must come here together."""
        step = self._progress.step
        if step and step == self._job.unfreeze_step:
            # The next call compiles, as the first one did, and all so far is saved.
            self.pace = Pace()
        since = self._clock() - self._saved_at
        self.next = Plan(
            *self._agree(
                self.pace.count(min(self.end_of_epoch - step, self._most_steps(step))),
                bool(self._save_s) and since >= self._save_s,
                bool(self._most_s) and self.trained_s >= self._most_s,
                self._stop.asked,
            )
        )

    def is_over(self) -> bool:
        """At the end of an epoch: whether it was the last; says why if it is early."""
        progress, epochs = self._progress, self._job.epochs
        if progress.epoch >= epochs:
            return True
        stale = progress.epoch - progress.best_epoch
        if self._patience and stale >= self._patience:
            log.info(
                "Ending after epoch %d of %d: mean IoU was best at epoch %d "
                "(--patience=%d)",
                *(progress.epoch, epochs, progress.best_epoch, self._patience),
            )
            return True
        if progress.step and self.next.enough:
            log.info(
                "Ending at step %d of %d: trained for %s (--max_minutes=%g)",
                *(progress.step, epochs * self._job.steps_per_epoch),
                *(bars.duration(self.trained_s), self._most_s / 60),
            )
            return True
        return False
