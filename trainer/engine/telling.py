"""What is told of an epoch, and of a loss that is no number."""

from __future__ import annotations

import logging
from typing import Any, NoReturn

import cv2
import numpy as np

from trainer import progress as bars
from trainer import storage
from trainer.engine import workers
from trainer.engine.job import Job
from trainer.engine.metrics import scores
from trainer.engine.state import Progress
from trainer.errors import SeamlineError

log = logging.getLogger("seamline")


def epoch_row(
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


def log_epoch(job: Job, row: dict[str, Any]) -> None:
    """Tells the row of an epoch in the log."""
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


def refuse_bad_loss(job: Job, when: str, step: int, done: int) -> NoReturn:
    """Stops a run whose loss is no number; saves a picture of the batch.

    Args:
      job: what is trained; of no use afterwards.
      when: it was so first.
      step: the one that is to blame.
      done: steps that have been made.

    Raises:
      SeamlineError: always.
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
