"""The training loop, read top to bottom as a story."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import tensorflow as tf

from trainer import progress as bars
from trainer import storage
from trainer.engine import workers
from trainer.engine.metrics import scores
from trainer.engine.pace import FIRST_STEP, Pace
from trainer.engine.signals import StopSignals
from trainer.engine.state import Checkpoints, History, Progress
from trainer.engine.steps import (
    Job,
    compile_training,
    compile_validation,
    training_iterator,
)
from trainer.errors import SeamlineError, Stopped

log = logging.getLogger("seamline")

Listener = Callable[[Job, Progress, float | None], None]
"""Is told of a job where it stands and the seconds left, None where nobody knows."""


def train(job: Job, **options: Any) -> list[dict[str, Any]]:
    """`Training(job, **options).run()`."""
    return Training(job, **options).run()


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
      clock: seconds from any start.

    Raises:
      SeamlineError: no checkpoint can be read; nothing has been written.
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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._job, self._patience = job, patience
        self._save_s, self._most_s = 60 * save_minutes, 60 * max_minutes
        self._still_ours, self._report, self._clock = still_ours, report, clock
        self._checkpoints = Checkpoints(
            job.run_dir,
            job.model,
            job.optimizer,
            strategy=job.strategy,
            averages=job.averages,
        )
        self._progress = self._checkpoints.restore()
        self._began = clock() - self._progress.trained_s
        self._saved_at = clock()
        self._pace = Pace()
        self._stop = StopSignals(alone=workers.count(job.strategy) == 1)
        self._agree = workers.compile_agreement(job.strategy)

    def run(self) -> list[dict[str, Any]]:
        """Trains to the end.

        Returns:
          The rows of `history.jsonl`.

        Raises:
          Stopped: by SIGTERM or SIGINT, after saving.
          SeamlineError: the loss is not finite.
        """
        self.open()
        with self._stop:
            while self._within_epoch() or not self._is_over():
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
        events = storage.join(job.run_dir, "tensorboard")
        self._board = tf.summary.create_file_writer(events)
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
        self._look_around()

    def close(self) -> None:
        """Takes the bar off the terminal and ends the events of TensorBoard."""
        self._bar.close()
        self._board.close()

    def _is_over(self) -> bool:
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
        if progress.step and self._plan.enough:
            log.info(
                "Ending at step %d of %d: trained for %s (--max_minutes=%g)",
                *(progress.step, epochs * self._job.steps_per_epoch),
                *(bars.duration(self._trained_s()), self._most_s / 60),
            )
            return True
        return False

    def _within_epoch(self) -> bool:
        """True where an epoch has begun and is not counted yet."""
        return self._progress.step > self._progress.epoch * self._job.steps_per_epoch

    def _trained_s(self) -> float:
        return self._clock() - self._began

    def _look_around(self) -> None:
        """Settles what comes next. All workers must come here together."""
        if self._progress.step and self._progress.step == self._job.unfreeze_step:
            # The next call compiles, as the first one did, and all so far is saved.
            self._pace = Pace()
        left = (self._progress.epoch + 1) * self._job.steps_per_epoch
        left -= self._progress.step
        since = self._clock() - self._saved_at
        self._plan = Plan(
            *self._agree(
                self._pace.count(left),
                bool(self._save_s) and since >= self._save_s,
                bool(self._most_s) and self._trained_s() >= self._most_s,
                self._stop.asked,
            )
        )

    def train_epoch(self) -> None:
        """Runs the steps that are left of the epoch under way, or of the time."""
        progress = self._progress
        end = (progress.epoch + 1) * self._job.steps_per_epoch
        while progress.step < end and not (self._within_epoch() and self._plan.enough):
            self._call()
            self._look_around()
            # The end of the epoch is saved with its scores.
            if self._plan.signal or (self._plan.save and progress.step < end):
                self._save()
            self._stop.check(progress, self._plan.signal)
        if progress.step < end:
            self._save()

    def _call(self) -> None:
        """Runs a second's worth of steps in one host call."""
        job, progress, count = self._job, self._progress, self._plan.count
        # Before a first call is done there is nothing to save.
        stop = self._stop.at_once() if self._pace.first else contextlib.nullcontext()
        began = self._clock()
        with job.stream.examples.explained(), stop:
            totals = self._run_steps(
                self._batches, tf.constant(count), tf.constant(progress.step)
            )
            loss, correct, labelled, wait, first_bad = (x.numpy() for x in totals)
        took = self._clock() - began
        if first_bad >= 0:
            step = int(first_bad)
            _refuse_bad_loss(job, f"at step {step}", step, progress.step + count)
        if self._pace.first:
            log.info("%s done after %s", FIRST_STEP, bars.duration(took))
        self._pace.add(progress.step, count, took)
        progress.step += count
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
        self._look_around()

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
        confusion, val_loss = found
        if not math.isfinite(val_loss):
            when = f"in the validation after step {progress.step}"
            _refuse_bad_loss(self._job, when, progress.step - 1, progress.step)
        progress.epoch += 1
        row = _epoch_row(self._job, progress, confusion, val_loss)
        if row["val_mean_iou"] > progress.best_score:
            progress.best_score = row["val_mean_iou"]
            progress.best_epoch, progress.best_step = progress.epoch, progress.step
            self._still_ours()
            with self._job.averaged():
                self._checkpoints.save_best(progress)
        self._history.append(row)
        _log_epoch(self._job, row, self._board)
        self._report(self._job, progress, self._bar.seconds_left())
        self._save()
        self._look_around()
        self._stop.check(progress, self._plan.signal)

    def _save(self) -> None:
        self._still_ours()
        self._progress.trained_s = self._trained_s()
        self._checkpoints.save(self._progress)
        self._saved_at = self._clock()


def _epoch_row(
    job: Job, progress: Progress, confusion: np.ndarray, val_loss: float
) -> dict[str, Any]:
    """The line of `history.jsonl`; clears the sums of the epoch."""
    result = scores(confusion)
    steps = progress.step - (progress.epoch - 1) * job.steps_per_epoch
    seconds = max(progress.seconds, 1e-9)
    row = {
        "epoch": progress.epoch,
        "step": progress.step,
        "seconds": round(progress.seconds, 3),
        "loss": progress.loss_sum / steps,
        "accuracy": progress.correct / max(progress.labelled, 1),
        "learning_rate": job.learning_rate,
        "images_per_second": round(steps * job.batch_size / seconds, 2),
        "input_wait_fraction": round(progress.input_wait / seconds, 4),
        "val_loss": val_loss,
        "val_accuracy": result["pixel_accuracy"],
        "val_foreground_accuracy": result["foreground_accuracy"],
        "val_mean_iou": result["mean_iou"],
        "val_mean_recall": result["mean_recall"],
    }
    progress.start_epoch()
    return row


def _log_epoch(job: Job, row: dict[str, Any], board: tf.summary.SummaryWriter) -> None:
    log.info(
        "epoch %d/%d: loss %.3f, accuracy %.3f | validation: loss %.3f, accuracy %.3f, "
        "foreground %.3f, mean IoU %.3f | %.1f images/s, %s",
        row["epoch"],
        job.epochs,
        *(row[name] for name in ("loss", "accuracy", "val_loss", "val_accuracy")),
        row["val_foreground_accuracy"],
        row["val_mean_iou"],
        row["images_per_second"],
        bars.duration(row["seconds"]),
    )
    overflown = row["step"] - int(job.optimizer.iterations.numpy())
    if overflown:
        log.info(
            "Precision: in %d of %d steps so far gradients overflowed; those moved "
            "nothing",
            *(overflown, row["step"]),
        )
    with board.as_default(step=row["step"]):
        for name, value in row.items():
            tf.summary.scalar(name, value)
    board.flush()


def _refuse_bad_loss(job: Job, when: str, step: int, done: int) -> None:
    """Stops a run whose loss is no number; saves a picture of the batch.

    Args:
      job: what is trained; of no use afterwards.
      when: it was so first.
      step: the one that is to blame.
      done: steps that have been made.
    """
    picture = "worker 0 saves a picture of it"
    if workers.is_chief(job.strategy):
        picture = _draw_batch(job, step)
    # The schedule counts on within a host call.
    iterations = job.optimizer.iterations
    iterations.assign(max(int(iterations.numpy()) - (done - step), 0))
    raise SeamlineError(
        f"--learning_rate={job.learning_rate:.3g}: the loss is not "
        f"finite {when} (its batch: {picture}); try a lower one, or "
        "--clip_norm=1, with another --run_dir"
    )


def _draw_batch(job: Job, step: int) -> str:
    """Saves the images of a global batch side by side; returns where."""
    with job.stream.examples.explained():
        [(images, _)] = job.stream.batches(step, step + 1).as_numpy_iterator()
    strip = np.concatenate(list(np.clip(images, 0, 255).astype(np.uint8)), axis=1)
    path = storage.join(job.run_dir, "figures", "bad_batch.png")
    storage.make_folder(storage.join(job.run_dir, "figures"))
    picture = cv2.imencode(".png", cv2.cvtColor(strip, cv2.COLOR_RGB2BGR))[1]
    storage.write_bytes(path, picture.tobytes())
    return path
