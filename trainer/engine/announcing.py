"""Where a training stands, announced to the Kubernetes Job that it runs in."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import tensorflow as tf

from trainer.annotations import of_this_job
from trainer.engine import workers
from trainer.engine.job import Job
from trainer.engine.loop import Listener
from trainer.engine.state import Progress

_STOPPED_S = 1.0


@contextlib.contextmanager
def on_the_job(devices: tf.distribute.Strategy) -> Iterator[Listener]:
    """A listener for `loop.Training`; the last word is said at the end.

    The chief alone speaks, and outside a Job nobody.
    """
    chief = workers.is_chief(devices)
    announced = of_this_job(os.environ if chief else {})

    def report(job: Job, progress: Progress, left: float | None) -> None:
        announced.report(
            step=progress.step,
            total=job.epochs * job.steps_per_epoch,
            epoch=progress.epoch,
            epochs=job.epochs,
            eta=left,
            mean_iou=progress.best_score if progress.best_epoch else None,
        )

    try:
        yield report
    except BaseException:
        # Of the grace period only seconds may be left.
        announced.close("stopped", timeout_s=_STOPPED_S)
        raise
    announced.close("done")
