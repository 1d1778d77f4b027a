"""What a run leaves behind to go on from: checkpoints, the best model, history."""

from __future__ import annotations

import dataclasses
import json
import logging
from typing import Any

import keras
import tensorflow as tf

from trainer import storage
from trainer.engine import workers
from trainer.engine.averages import Averages
from trainer.engine.shelf import Shelf, holds_any, read_newest
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
      best_epoch, best_step: where that was, 0 before the first.
      trained_s: seconds that all processes together have trained.
      loss_sum, correct, labelled, input_wait, seconds: sums over the steps of the epoch
        under way: global loss, right pixels, labelled pixels, seconds waited for
        input, seconds in all.
    """

    epoch: int = 0
    step: int = 0
    best_score: float = -1.0
    best_epoch: int = 0
    best_step: int = 0
    trained_s: float = 0.0
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
    """The checkpoints of a run: the last few in `last/`, the best models in `best/`.

    Their numbers are steps. As many of the best are kept as of the last, so that
    whichever of the last is restored, the model that was best then is there.
    """

    def __init__(
        self,
        run_dir: str,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        *,
        strategy: tf.distribute.Strategy | None = None,
        averages: Averages | None = None,
    ) -> None:
        self._strategy = strategy or tf.distribute.get_strategy()
        folder = storage.join(run_dir, "checkpoints")
        with tf.device("/cpu:0"):
            self._progress = tf.Variable("", dtype=tf.string, trainable=False)
        self._whole = tf.train.Checkpoint(
            model=model,
            optimizer=optimizer,
            progress=self._progress,
            **({"averages": averages} if averages else {}),
        )
        self._last = Shelf(
            self._whole,
            storage.join(folder, "last"),
            keep=_KEEP,
        )
        self._best = Shelf(
            tf.train.Checkpoint(model=model), storage.join(folder, "best"), keep=_KEEP
        )

    def restore(self) -> Progress:
        """Restores the newest readable checkpoint into model and optimizer, if any.

        A best model of a later epoch is removed: that epoch is trained again. The chief
        reads, the other workers get it from the chief.

        Raises:
          SeamlineError: there are checkpoints, but none can be read.
          Unavailable: the bucket does not answer.
        """
        progress = self._restore() if workers.is_chief(self._strategy) else Progress()
        workers.copy_chief(self._strategy, self._whole)
        text = json.dumps(dataclasses.asdict(progress))
        return Progress(**json.loads(workers.from_chief(self._strategy, text)))

    def _restore(self) -> Progress:
        number = self._last.restore()
        progress = Progress()
        if number is not None:
            progress = Progress(**json.loads(self._progress.numpy()))
            log.info(
                "Resuming from %s: %d epochs, %d steps done",
                self._last.path(number),
                progress.epoch,
                progress.step,
            )
        self._best.remove_after(progress.best_step)
        return progress

    def save(self, progress: Progress) -> None:
        """Saves everything that the next step depends on.

        A checkpoint of the same step that is there stays: the same follows from it. The
        chief alone writes.
        """
        if not workers.is_chief(self._strategy):
            return
        self._progress.assign(json.dumps(dataclasses.asdict(progress)))
        self._last.save(progress.step)

    def save_best(self, progress: Progress) -> None:
        """Keeps the model as the best so far."""
        if not workers.is_chief(self._strategy):
            return
        self._best.save(progress.step)


def has_begun(run_dir: str) -> bool:
    """True where a run has finished its first checkpoint."""
    return holds_any(storage.join(run_dir, "checkpoints", "last"))


def load_best(run_dir: str, model: keras.Model) -> None:
    """Restores the weights of a run's best model.

    Raises:
      SeamlineError: there is none yet, or it cannot be read.
    """
    _load(run_dir, "best", tf.train.Checkpoint(model=model))


def load_last(run_dir: str, model: keras.Model, *, averaged: bool) -> None:
    """Restores the weights of a run's newest checkpoint, as validation saw them.

    Args:
      run_dir: of the run.
      model: as the run's own.
      averaged: the run keeps averages of its weights (`ema`): those, then.

    Raises:
      SeamlineError: there is none yet, or it cannot be read.
    """
    if not averaged:
        return _load(run_dir, "last", tf.train.Checkpoint(model=model))
    averages = Averages(model, 0.0, tf.distribute.get_strategy())
    _load(run_dir, "last", tf.train.Checkpoint(model=model, averages=averages))
    averages.replace_weights()


def _load(run_dir: str, which: str, checkpoint: tf.train.Checkpoint) -> None:
    folder = storage.join(run_dir, "checkpoints", which)
    if not read_newest(checkpoint, folder):
        raise SeamlineError(
            f"{run_dir}: holds no trained model ({folder} is empty); train one with "
            f"python -m trainer.task --run_dir={run_dir}"
        )


def load_model(
    run_dir: str, *, logit_adjustment: float | None = None
) -> tuple[keras.Model, ModelSpec]:
    """Builds a run's model from `model.json`, with its best weights.

    Args:
      run_dir: of the run.
      logit_adjustment: in place of the run's own.

    Raises:
      SeamlineError: not a run directory, nothing trained in it yet, or a model that
        does not know how often its classes occur.
    """
    path = storage.join(run_dir, "model.json")
    if not storage.exists(path):
        raise SeamlineError(
            f"{path}: not there, so {run_dir} is not a run directory; give the "
            "--run_dir of a training"
        )
    spec = ModelSpec.from_json(storage.read_text(path))
    if logit_adjustment is not None:
        if spec.class_shares is None:
            raise SeamlineError(
                f"--logit_adjustment={logit_adjustment}: {path} has no class_shares, "
                "being of an older release; leave the flag out"
            )
        spec = dataclasses.replace(spec, logit_adjustment=logit_adjustment)
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
