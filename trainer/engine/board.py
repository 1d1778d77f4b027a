"""What TensorBoard reads of a run: events in `RUN_DIR/tensorboard`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

# Nothing public writes the mark of a restart.
from tensorflow.python.ops.summary_ops_v2 import import_event

from trainer import storage

_EPOCHS_A_FILE = 16
"""In a bucket, all of a file is sent again whenever something is added to it."""
_PICTURES = {
    "examples": "The same validation examples in every epoch. A colour that the legend "
    "lacks is a class that none of them holds.",
    "confusion": "All validation examples: what the pixels of each class were taken "
    "for.",
}
"""Names of pictures, and what is said of them."""


def folder(run_dir: str) -> str:
    """Where TensorBoard finds a run."""
    return storage.join(run_dir, "tensorboard")


class Board:
    """Writes numbers and pictures of epochs, and text.

    Args:
      run_dir: of the run.
      step: at which the last finished epoch ended. What an earlier process told of
        later ones is void: they are trained again.
    """

    def __init__(self, run_dir: str, step: int) -> None:
        self._folder, self._step, self._epochs = folder(run_dir), step, 0
        self._writer = tf.summary.create_file_writer(self._folder)
        log = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)
        # As `SummaryWriter(purge_step=…)` of PyTorch does.
        mark = tf.compat.v1.Event(
            wall_time=time.time(), step=step + 1 if step else 0, session_log=log
        )
        with self._writer.as_default():
            import_event(mark.SerializeToString())

    def text(self, name: str, markdown: str) -> None:
        """Writes a text for what comes next."""
        with self._writer.as_default(step=self._step):
            tf.summary.text(name, markdown)
        self._writer.flush()

    def epoch(self, row: Mapping[str, Any], pictures: Mapping[str, np.ndarray]) -> None:
        """Writes the numbers and pictures of an epoch at its last step.

        Args:
          row: line of `history.jsonl`.
          pictures: uint8 `[H, W, 3]` RGB by name.
        """
        if self._epochs == _EPOCHS_A_FILE:
            self._writer.close()
            self._writer = tf.summary.create_file_writer(self._folder)
            self._epochs = 0
        self._epochs += 1
        with self._writer.as_default(step=row["step"]):
            for name, value in row.items():
                tf.summary.scalar(name, value)
            for name, picture in pictures.items():
                told = _PICTURES[name]
                tf.summary.image(name, picture[np.newaxis], description=told)
        self._writer.flush()

    def close(self) -> None:
        """Ends the events."""
        self._writer.close()
