"""What is trained, on what, for how long: from a recipe and data to a `Job`."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
from collections.abc import Sequence

import keras
import tensorflow as tf

from trainer.data import augment
from trainer.data.card import Card
from trainer.data.examples import Examples
from trainer.data.inputs import Stream
from trainer.engine import options
from trainer.engine.averages import Averages
from trainer.model import losses, stages
from trainer.model.unet import ModelSpec, build_model
from trainer.recipes import Recipe

log = logging.getLogger("seamline")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What is trained, on what, for how long.

    Attributes:
      model: float32 `[B, S, S, 3]` -> float32 logits `[B, S, S, C]`, built in scope.
      optimizer: built in scope on the model's trainable variables.
      loss: see `trainer.model.losses`.
      strategy: the devices.
      stream: training examples, in batches.
      val: examples to validate on.
      classes: C.
      epochs, steps_per_epoch: how long.
      clip_norm: greatest norm of all gradients together, 0 for no limit.
      run_dir: where it all goes.
      accumulate: into how many parts, one after the other, each batch is cut.
      averages: of the weights; None: off.
      encoder: the part of the model that learns from `unfreeze_step` on and stays as it
        is before, statistics of its batch norms too; None: all learns from the start.
      unfreeze_step: see `encoder`.
      xla: whether XLA compiles the step, for one device only.
    """

    model: keras.Model
    optimizer: keras.optimizers.Optimizer
    loss: losses.Sum
    strategy: tf.distribute.Strategy
    stream: Stream
    val: Examples
    classes: int
    epochs: int
    steps_per_epoch: int
    clip_norm: float
    run_dir: str
    accumulate: int = 1
    averages: Averages | None = None
    encoder: keras.Model | None = None
    unfreeze_step: int = 0
    xla: bool = False

    @property
    def batch_size(self) -> int:
        """Global batch."""
        return self.stream.batch_size

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step."""
        return float(tf.convert_to_tensor(self.optimizer.learning_rate))

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Meanwhile the model holds the averages of its weights, if there are any."""
        if self.averages is None:
            return contextlib.nullcontext()
        return self.averages.in_model()


def build_spec(
    recipe: Recipe,
    label_names: list[str],
    precision: str,
    shares: Sequence[float] = (),
) -> ModelSpec:
    """What `model.json` holds.

    Args:
      shares: of pixels of each class among the training examples; without them rare
        classes are not lifted.
    """
    return ModelSpec(
        encoder=recipe.encoder,
        encoder_training=recipe.encoder_training,
        preprocessing=recipe.preprocessing,
        image_size=recipe.image_size,
        batch_norm_momentum=recipe.batch_norm_momentum,
        precision=precision,
        label_names=label_names,
        decoder=recipe.decoder,
        decoder_dropout=recipe.decoder_dropout,
        test_scale=recipe.test_scale or augment.enlargement(recipe.augment),
        logit_adjustment=recipe.logit_adjustment,
        class_shares=list(shares) or None,
    )


def build_job(
    run_dir: str,
    spec: ModelSpec,
    recipe: Recipe,
    card: Card,
    seed: int,
    devices: tf.distribute.Strategy,
    stream: Stream,
    val: Examples,
    xla: bool = False,
) -> Job:
    """Model, optimizer and loss on the devices, and all else that the loop needs."""
    steps = recipe.steps_per_epoch or stream.steps
    keras.utils.set_random_seed(seed)
    with devices.scope():
        model = build_model(
            spec,
            encoder_weights=recipe.encoder_weights,
            synchronized=devices.num_replicas_in_sync > 1,
        )
        optimizer = options.build_optimizer(
            recipe, model, steps * recipe.epochs, precision=spec.precision
        )
    learned = sum(math.prod(x.shape) for x in model.trainable_variables)
    log.info(
        "Model: %s U-Net at %d²%s, %s encoder, %d parameters, %d of them learn; "
        "%d steps of %d examples an epoch",
        recipe.encoder,
        recipe.image_size,
        f", {spec.seen_size}² outside of training"
        if spec.seen_size != spec.image_size
        else "",
        recipe.encoder_training,
        model.count_params(),
        learned,
        steps,
        recipe.batch_size,
    )
    late = recipe.unfreeze_epoch > 0
    return Job(
        model=model,
        optimizer=optimizer,
        loss=options.build_loss(recipe, card),
        strategy=devices,
        stream=stream,
        val=val,
        classes=spec.classes,
        epochs=recipe.epochs,
        steps_per_epoch=steps,
        clip_norm=recipe.clip_norm,
        run_dir=run_dir,
        accumulate=recipe.accumulate,
        averages=Averages(model, recipe.ema, devices) if recipe.ema else None,
        encoder=stages.encoder_of(model, recipe.encoder) if late else None,
        unfreeze_step=recipe.unfreeze_epoch * steps,
        xla=xla,
    )
