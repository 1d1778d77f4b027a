"""The training loop, read top to bottom as a story."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import tensorflow as tf

from trainer import progress as bars
from trainer import storage
from trainer.engine.metrics import scores
from trainer.engine.signals import StopSignals
from trainer.engine.state import Checkpoints, History, Progress
from trainer.engine.steps import (
    Job,
    compile_training,
    compile_validation,
    training_iterator,
)
from trainer.errors import SeamlineError

log = logging.getLogger("seamline")

_HOST_CALL_S = 1.0
_MOST_STEPS_A_CALL = 50


def train(job: Job) -> list[dict[str, Any]]:
    """Trains to the last epoch, from the newest checkpoint if there is one.

    Returns:
      The rows of `history.jsonl`.

    Raises:
      Stopped: by SIGTERM or SIGINT, after saving.
      SeamlineError: the loss is not finite.
    """
    checkpoints = Checkpoints(job.run_dir, job.model, job.optimizer)
    progress = checkpoints.restore()
    history = History(job.run_dir, epochs_done=progress.epoch)
    batches = training_iterator(job, progress.step)
    run_steps, validate = compile_training(job), compile_validation(job)
    board = tf.summary.create_file_writer(storage.join(job.run_dir, "tensorboard"))
    total = job.epochs * job.steps_per_epoch
    bar = bars.Bar(
        "training",
        total=total,
        unit="steps",
        initial=progress.step,
        scale=job.batch_size,
        scale_unit="images",
    )
    log.info("Compiling the training step, then %d steps", total - progress.step)
    with StopSignals() as stop:
        while progress.epoch < job.epochs:
            _train_epoch(job, progress, batches, run_steps, bar, stop, checkpoints)
            confusion, val_loss = validate()
            row = _epoch_row(job, progress, confusion, val_loss)
            if row["val_mean_iou"] > progress.best_score:
                progress.best_score = row["val_mean_iou"]
                checkpoints.save_best(progress)
            history.append(row)
            _log_epoch(job, row, board)
            checkpoints.save(progress)
            stop.check(progress)
    bar.close()
    board.close()
    return history.rows


def _train_epoch(
    job: Job,
    progress: Progress,
    batches: Iterator,
    run_steps: Callable,
    bar: bars.Bar,
    stop: StopSignals,
    checkpoints: Checkpoints,
) -> None:
    """Runs the steps that are left of the epoch under way; counts it as done."""
    end = (progress.epoch + 1) * job.steps_per_epoch
    seconds_a_step = math.inf
    while progress.step < end:
        count = int(_HOST_CALL_S / seconds_a_step)
        count = max(1, min(count, _MOST_STEPS_A_CALL, end - progress.step))
        began = time.monotonic()
        with job.stream.examples.explained():
            totals = run_steps(batches, tf.constant(count), tf.constant(progress.step))
            loss, correct, labelled, wait, first_bad = (x.numpy() for x in totals)
        took = time.monotonic() - began
        seconds_a_step = took / count
        if first_bad >= 0:
            _refuse_bad_loss(job, int(first_bad))
        progress.step += count
        progress.loss_sum += float(loss)
        progress.correct += int(correct)
        progress.labelled += int(labelled)
        progress.input_wait += float(wait)
        progress.seconds += took
        bar.update(
            count, f"epoch {progress.epoch + 1}/{job.epochs}, loss {loss / count:.3f}"
        )
        if stop.asked:
            checkpoints.save(progress)
            stop.check(progress)
    progress.epoch += 1


def _epoch_row(
    job: Job, progress: Progress, confusion: np.ndarray, val_loss: float
) -> dict[str, Any]:
    """The line of `history.jsonl`; clears the sums of the epoch."""
    result = scores(confusion)
    steps, seconds = job.steps_per_epoch, max(progress.seconds, 1e-9)
    row = {
        "epoch": progress.epoch,
        "step": progress.step,
        "seconds": round(progress.seconds, 3),
        "loss": progress.loss_sum / steps,
        "accuracy": progress.correct / max(progress.labelled, 1),
        "learning_rate": float(job.optimizer.learning_rate),
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
    with board.as_default(step=row["step"]):
        for name, value in row.items():
            tf.summary.scalar(name, value)
    board.flush()


def _refuse_bad_loss(job: Job, step: int) -> None:
    """Stops a run whose loss is no number; saves a picture of the batch."""
    with job.stream.examples.explained():
        [(images, _)] = job.stream.batches(step, step + 1).as_numpy_iterator()
    strip = np.concatenate(list(np.clip(images, 0, 255).astype(np.uint8)), axis=1)
    path = storage.join(job.run_dir, "figures", "bad_batch.png")
    storage.make_folder(storage.join(job.run_dir, "figures"))
    picture = cv2.imencode(".png", cv2.cvtColor(strip, cv2.COLOR_RGB2BGR))[1]
    storage.write_bytes(path, picture.tobytes())
    raise SeamlineError(
        f"--learning_rate={float(job.optimizer.learning_rate):.3g}: the loss is not "
        f"finite at step {step} (its batch: {path}); try a lower one, or "
        "--clip_norm=1, with another --run_dir"
    )
