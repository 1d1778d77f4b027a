"""A TensorFlow profile of some steps, for the tab Profile of TensorBoard."""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import Any

import tensorflow as tf

from trainer.engine import board, workers
from trainer.engine.job import Job
from trainer.errors import SeamlineError

log = logging.getLogger("seamline")


class Profile:
    """Traces the steps FIRST .. LAST of a training, each in a host call of its own.

    The profile goes to `plugins/profile` of the folder of TensorBoard. Of several
    workers the chief alone traces.

    Args:
      job: what is trained.
      done: steps that have been made.
      steps: FIRST and LAST, counted from 0; None: no profile.

    Raises:
      SeamlineError: FIRST is no step of the training.
    """

    def __init__(self, job: Job, done: int, steps: tuple[int, int] | None) -> None:
        self._folder = board.folder(job.run_dir)
        self._chief = workers.is_chief(job.strategy)
        self._steps, self._begun, self._running = range(0), False, False
        if steps is None:
            return
        first, last = steps
        total = job.epochs * job.steps_per_epoch
        if first >= total:
            raise SeamlineError(
                f"--profile_steps={first},{last}: the training has the steps 0 to "
                f"{total - 1}; give earlier ones"
            )
        if done > last:
            log.info(
                "Profile: none, --profile_steps=%d,%d were done before; the next step "
                "is %d",
                *(first, last, done),
            )
            return
        self._steps = range(max(first, done), last + 1)

    def most(self, step: int) -> int:
        """How many steps a host call from `step` on may make at most."""
        if step in self._steps:
            return 1
        return self._steps.start - step if step < self._steps.start else sys.maxsize

    def mark(self, step: int) -> contextlib.AbstractContextManager[Any]:
        """Starts ahead of the first step; within what it returns, `step` is made."""
        if not self._chief or step not in self._steps:
            return contextlib.nullcontext()
        if not self._running:
            log.info("Profile: steps %d to %d", step, self._steps[-1])
            tf.profiler.experimental.start(self._folder)
            self._begun = self._running = True
        return tf.profiler.experimental.Trace("train", step_num=step, _r=1)

    def end_after(self, step: int) -> None:
        """Saves the profile if the step before `step` was the last."""
        if step not in self._steps:
            self._save()

    def close(self) -> None:
        """Saves what there is of a profile; says so if there is none at all."""
        self._save()
        if self._steps and self._chief and not self._begun:
            log.info("Profile: none, the training ended before step %d", self._steps[0])

    def _save(self) -> None:
        if self._running:
            self._running = False
            tf.profiler.experimental.stop()
            log.info("Profile: %s", self._folder)
