"""What a run leaves behind to go on from: checkpoints, the best model, history."""

from __future__ import annotations

import dataclasses
import json
import logging
from typing import Any

import keras
import tensorflow as tf

from trainer import storage
from trainer.errors import SeamlineError
from trainer.model.unet import ModelSpec, build_model

log = logging.getLogger("seamline")

_KEEP = 3


@dataclasses.dataclass
class Progress:
    """Where a training stands; saved with every checkpoint.

    Attributes:
      epoch: finished epochs.
      step: finished steps.
      best_score: highest validation mean IoU so far, -1 before the first.
      loss_sum, correct, labelled, input_wait, seconds: sums over the steps of the epoch
        under way: global loss, right pixels, labelled pixels, seconds waited for
        input, seconds in all.
    """

    epoch: int = 0
    step: int = 0
    best_score: float = -1.0
    loss_sum: float = 0.0
    correct: int = 0
    labelled: int = 0
    input_wait: float = 0.0
    seconds: float = 0.0

    def start_epoch(self) -> None:
        """Clears the sums."""
        self.loss_sum = self.input_wait = self.seconds = 0.0
        self.correct = self.labelled = 0


class Checkpoints:
    """The checkpoints of a run: the last few in `last/`, the best model in `best/`.

    TensorFlow writes the data first and the list of valid checkpoints last, by rename,
    so a torn write leaves the checkpoint before as the newest one.
    """

    def __init__(
        self, run_dir: str, model: keras.Model, optimizer: keras.optimizers.Optimizer
    ) -> None:
        folder = storage.join(run_dir, "checkpoints")
        for part in ("last", "best"):
            _remove_torn(storage.join(folder, part))
        with tf.device("/cpu:0"):
            self._progress = tf.Variable("", dtype=tf.string, trainable=False)
        self._last = tf.train.CheckpointManager(
            tf.train.Checkpoint(
                model=model, optimizer=optimizer, progress=self._progress
            ),
            storage.join(folder, "last"),
            max_to_keep=_KEEP,
        )
        self._best = tf.train.CheckpointManager(
            tf.train.Checkpoint(model=model), storage.join(folder, "best"), 1
        )

    def restore(self) -> Progress:
        """Restores the newest checkpoint into model and optimizer, if there is one."""
        newest = self._last.latest_checkpoint
        if newest is None:
            return Progress()
        self._last.checkpoint.restore(newest).assert_existing_objects_matched()
        progress = Progress(**json.loads(self._progress.numpy()))
        log.info(
            "Resuming from %s: %d epochs, %d steps done",
            newest,
            progress.epoch,
            progress.step,
        )
        return progress

    def save(self, progress: Progress) -> None:
        """Saves everything that the next step depends on."""
        self._progress.assign(json.dumps(dataclasses.asdict(progress)))
        self._last.save(checkpoint_number=progress.step)

    def save_best(self, progress: Progress) -> None:
        """Keeps the model as the best so far."""
        self._best.save(checkpoint_number=progress.step)


def _remove_torn(folder: str) -> None:
    """Removes what a save that was killed has left; nothing refers to it."""
    for name in storage.list_folder(folder):
        path = storage.join(folder, name)
        if name.endswith("_temp"):
            storage.remove_folder(path)
        elif name.startswith("checkpoint.tmp"):
            storage.remove_file(path)


def load_best(run_dir: str, model: keras.Model) -> None:
    """Restores the weights of a run's best model.

    Raises:
      SeamlineError: there is none yet.
    """
    folder = storage.join(run_dir, "checkpoints", "best")
    newest = tf.train.latest_checkpoint(folder)
    if newest is None:
        raise SeamlineError(
            f"{run_dir}: holds no trained model ({folder} is empty); train one with "
            f"python -m trainer.task --run_dir={run_dir}"
        )
    checkpoint = tf.train.Checkpoint(model=model)
    checkpoint.restore(newest).assert_existing_objects_matched().expect_partial()


def load_model(run_dir: str) -> tuple[keras.Model, ModelSpec]:
    """Builds a run's model from `model.json`, with its best weights.

    Raises:
      SeamlineError: not a run directory, or nothing trained in it yet.
    """
    path = storage.join(run_dir, "model.json")
    if not storage.exists(path):
        raise SeamlineError(
            f"{path}: not there, so {run_dir} is not a run directory; give the "
            "--run_dir of a training"
        )
    spec = ModelSpec.from_json(storage.read_text(path))
    model = build_model(spec)
    load_best(run_dir, model)
    return model, spec


class History:
    """`history.jsonl`: one line an epoch, each epoch once.

    A line is written before the checkpoint of its epoch; after a crash between the two
    the epoch is trained again, so lines beyond the checkpoint are dropped first.
    """

    def __init__(self, run_dir: str, *, epochs_done: int) -> None:
        self._path = storage.join(run_dir, "history.jsonl")
        self.rows = [x for x in read_history(run_dir) if x["epoch"] <= epochs_done]
        self._write()

    def append(self, row: dict[str, Any]) -> None:
        """Adds the line of an epoch."""
        self.rows.append(row)
        self._write()

    def _write(self) -> None:
        lines = [json.dumps(row) + "\n" for row in self.rows]
        storage.write_text(self._path, "".join(lines))


def read_history(run_dir: str) -> list[dict[str, Any]]:
    """The lines of `history.jsonl`, `[]` when there is none."""
    path = storage.join(run_dir, "history.jsonl")
    if not storage.exists(path):
        return []
    return [json.loads(line) for line in storage.read_text(path).splitlines()]
