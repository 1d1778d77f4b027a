"""The training loop, read top to bottom as a story."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from trainer import progress as bars
from trainer.engine import telling, workers
from trainer.engine.board import Board
from trainer.engine.pace import FIRST_STEP
from trainer.engine.plan import Planner
from trainer.engine.profiling import Profile
from trainer.engine.signals import StopSignals
from trainer.engine.state import Checkpoints, History, Progress
from trainer.engine.steps import (
    Job,
    compile_training,
    compile_validation,
    training_iterator,
)
from trainer.errors import Stopped

log = logging.getLogger("seamline")

Listener = Callable[[Job, Progress, float | None], None]
"""Is told of a job where it stands and the seconds left, None where nobody knows."""

Painter = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]
"""Confusion matrix int64 `[C, C]` and labels of `steps.watched` -> pictures by name."""


def train(job: Job, **options: Any) -> list[dict[str, Any]]:
    """`Training(job, **options).run()`."""
    return Training(job, **options).run()


class Training:
    """A training, from the newest checkpoint if there is one.

    Args:
      job: what is trained.
      patience: end after so many epochs without a better validation mean IoU; 0: never.
      save_minutes: time between checkpoints within an epoch; 0: at its end alone.
      max_minutes: end after so much training, earlier processes' included; 0: never.
      still_ours: called before every save; raises where another process has taken the
        run directory.
      report: called after every host call and every epoch.
      paint: draws for TensorBoard what an epoch's validation found.
      about: Markdown on the run for TensorBoard, if anything is new since it began.
      profile_steps: see `profiling.Profile`.
      clock: seconds from any start.

    Raises:
      SeamlineError: no checkpoint can be read, or no step that is to be profiled;
        nothing has been written.
      Unavailable: the bucket does not answer.
    """

    def __init__(
        self,
        job: Job,
        *,
        patience: int = 0,
        save_minutes: float = 0.0,
        max_minutes: float = 0.0,
        still_ours: Callable[[], None] = lambda: None,
        report: Listener = lambda job, progress, left: None,
        paint: Painter = lambda confusion, labels: {},
        about: str = "",
        profile_steps: tuple[int, int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._job, self._clock = job, clock
        self._still_ours, self._report = still_ours, report
        self._paint, self._about = paint, about
        self._checkpoints = Checkpoints(
            job.run_dir,
            job.model,
            job.optimizer,
            strategy=job.strategy,
            averages=job.averages,
        )
        self._progress = self._checkpoints.restore()
        self._profile = Profile(job, self._progress.step, profile_steps)
        self._stop = StopSignals(alone=workers.count(job.strategy) == 1)
        self._planner = Planner(
            job,
            self._progress,
            self._stop,
            patience=patience,
            save_minutes=save_minutes,
            max_minutes=max_minutes,
            most_steps=self._profile.most,
            clock=clock,
        )

    def run(self) -> list[dict[str, Any]]:
        """Trains to the end.

        Returns:
          The rows of `history.jsonl`.

        Raises:
          Stopped: by SIGTERM or SIGINT, after saving.
          SeamlineError: the loss is not finite.
        """
        self.open()
        with self._stop, contextlib.closing(self._profile):
            while self._planner.within_epoch or not self._planner.is_over():
                self.train_epoch()
                self.finish_epoch()
        self.close()
        return self._history.rows

    def open(self) -> None:
        """Opens the input, the history and what else an epoch needs."""
        job, progress = self._job, self._progress
        self._history = History(job.run_dir, epochs_done=progress.epoch)
        self._batches = training_iterator(job, progress.step)
        self._run_steps = compile_training(job)
        self._validate = compile_validation(job)
        self._board = Board(job.run_dir, progress.epoch * job.steps_per_epoch)
        if self._about:
            self._board.text("settings", self._about)
        total = job.epochs * job.steps_per_epoch
        self._bar = bars.Bar(
            "training",
            total=total,
            unit="steps",
            initial=progress.step,
            scale=job.batch_size,
            scale_unit="images",
        )
        if progress.step < total:
            log.info(
                "Compiling the training step, then %d steps", total - progress.step
            )
        self._planner.settle()

    def close(self) -> None:
        """Takes the bar off the terminal and ends the events of TensorBoard."""
        self._bar.close()
        self._board.close()

    def train_epoch(self) -> None:
        """Runs the steps that are left of the epoch under way, or of the time."""
        progress, planner = self._progress, self._planner
        end = planner.end_of_epoch
        while progress.step < end and not (
            planner.within_epoch and planner.next.enough
        ):
            self._call()
            planner.settle()
            # The end of the epoch is saved with its scores.
            if planner.next.signal or (planner.next.save and progress.step < end):
                self._save()
            self._stop.check(progress, planner.next.signal)
        if progress.step < end:
            self._save()

    def _call(self) -> None:
        """Runs a second's worth of steps in one host call."""
        job, progress, pace = self._job, self._progress, self._planner.pace
        count = self._planner.next.count
        # Before a first call is done there is nothing to save.
        stop = self._stop.at_once() if pace.first else contextlib.nullcontext()
        marked = self._profile.mark(progress.step)
        began = self._clock()
        with job.stream.examples.explained(), stop, marked:
            totals = self._run_steps(
                self._batches, tf.constant(count), tf.constant(progress.step)
            )
            loss, correct, labelled, wait, first_bad = (x.numpy() for x in totals)
        took = self._clock() - began
        if first_bad >= 0:
            step = int(first_bad)
            telling.refuse_bad_loss(job, f"at step {step}", step, progress.step + count)
        if pace.first:
            log.info("%s done after %s", FIRST_STEP, bars.duration(took))
        pace.add(progress.step, count, took)
        progress.step += count
        self._profile.end_after(progress.step)
        progress.loss_sum += float(loss)
        progress.correct += int(correct)
        progress.labelled += int(labelled)
        progress.input_wait += float(wait)
        progress.seconds += took
        note = f"epoch {progress.epoch + 1}/{job.epochs}, loss {loss / count:.3f}"
        self._bar.update(count, note)
        self._report(job, progress, self._bar.seconds_left())

    def skip_validation(self) -> None:
        """Counts the epoch as done without a look at it, for measurements."""
        self._progress.epoch += 1
        self._progress.start_epoch()
        self._planner.settle()

    def finish_epoch(self) -> None:
        """Validates, counts the epoch and saves.

        A signal during validation saves the epoch as not yet validated. One cut short
        by `max_minutes` was saved before: with more time it would be trained in full,
        and its line in the history and its best model replaced.
        """
        progress = self._progress
        found = None
        with self._job.averaged():
            # A second signal may come when averages are in the model: not to be saved.
            try:
                with self._stop.at_once():
                    found = self._validate()
            except Stopped:
                if self._stop.insisted:
                    raise
        if found is None:
            self._save()
            self._stop.check(progress, self._stop.asked)
        assert found is not None, "only a signal ends a validation"
        if not math.isfinite(found.loss):
            when = f"in the validation after step {progress.step}"
            telling.refuse_bad_loss(self._job, when, progress.step - 1, progress.step)
        progress.epoch += 1
        row = telling.epoch_row(self._job, progress, found.confusion, found.loss)
        if row["val_mean_iou"] > progress.best_score:
            progress.best_score = row["val_mean_iou"]
            progress.best_epoch, progress.best_step = progress.epoch, progress.step
            self._still_ours()
            with self._job.averaged():
                self._checkpoints.save_best(progress)
        self._history.append(row)
        telling.log_epoch(self._job, row)
        self._board.epoch(row, self._paint(found.confusion, found.labels))
        self._report(self._job, progress, self._bar.seconds_left())
        self._save()
        self._planner.settle()
        self._stop.check(progress, self._planner.next.signal)

    def _save(self) -> None:
        self._still_ours()
        self._progress.trained_s = self._planner.trained_s
        self._checkpoints.save(self._progress)
        self._planner.note_save()
