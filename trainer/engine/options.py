"""From a recipe and a machine to what the engine needs; refuses what cannot work."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from trainer.data.card import Card
from trainer.engine import compilation, precisions, schedules
from trainer.engine.optimizers import Rates
from trainer.errors import SeamlineError
from trainer.model import class_weights, losses, stages
from trainer.recipe_checks import check_batch_size, nearest_multiples
from trainer.recipes import Recipe


def settle(
    recipe: Recipe, devices: tf.distribute.Strategy, precision: str, xla: str
) -> tuple[str, bool]:
    """The precision to train in, and whether XLA compiles the step.

    Args:
      recipe: checked.
      devices: to train on.
      precision: see `precisions.settle`.
      xla: see `compilation.settle`.

    Raises:
      SeamlineError: see `check`.
    """
    replicas = devices.num_replicas_in_sync
    precision = precisions.settle(precision)
    compiled = compilation.settle(xla, recipe, replicas, precision)
    check(recipe, compiled, replicas, precision)
    return precision, compiled


def check(recipe: Recipe, xla: bool, replicas: int, precision: str = "float32") -> None:
    """Refuses what cannot work on these devices, before data is touched.

    Raises:
      SeamlineError: names the flag, the value, the reason and what would do.
    """
    check_batch_size(recipe.batch_size, replicas)
    if xla and (problem := compilation.obstacle(recipe, replicas, precision)):
        raise SeamlineError(f"--xla=true: {problem}")
    no_gpu = not tf.config.list_physical_devices("GPU")
    if precision == "bfloat16" and no_gpu and not precisions.bfloat16_speed():
        raise SeamlineError(
            "--precision=bfloat16: there is no GPU, and this CPU cannot convolve so; "
            "give --precision=float32"
        )
    pieces = replicas * recipe.accumulate
    if recipe.accumulate > 1 and recipe.batch_size % pieces:
        raise SeamlineError(
            f"--accumulate={recipe.accumulate}: {replicas} replicas of so many parts "
            f"do not divide --batch_size={recipe.batch_size}; nearest: "
            f"{nearest_multiples(recipe.batch_size, pieces)}"
        )


def build_optimizer(
    recipe: Recipe, model: keras.Model, total_steps: int, *, precision: str
) -> keras.optimizers.Optimizer:
    """The recipe's optimizer with all its variables; called in the strategy's scope.

    Args:
      recipe: checked.
      model: of `build_model`.
      total_steps: of the whole training.
      precision: settled.
    """
    found = stages.encoder_stages(model, recipe.encoder)
    late = recipe.unfreeze_epoch > 0
    rates = Rates(
        factors=stages.rate_factors(
            found,
            encoder=recipe.encoder_learning_rate_factor,
            layer_decay=recipe.layer_decay,
        ),
        late=tuple(late and stage is not None for stage in found),
    )
    optimizer = schedules.build_optimizer(
        recipe.optimizer,
        learning_rate=recipe.learning_rate,
        schedule=recipe.schedule,
        total_steps=total_steps,
        weight_decay=recipe.weight_decay,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        floor=recipe.learning_rate_floor,
        power=recipe.schedule_power,
        warmup_steps=recipe.warmup_steps,
        rates=rates,
        loss_scaling=precision == "float16",
    )
    optimizer.build(model.trainable_variables)
    return optimizer


def needs_image_counts(recipe: Recipe) -> bool:
    """Whether class weights follow from images that hold a class, not from pixels."""
    return recipe.class_weights == "effective"


def build_loss(recipe: Recipe, card: Card) -> losses.Sum:
    """The recipe's loss, with class weights from the training examples of the card."""
    if needs_image_counts(recipe):
        images = card.image_counts("train")
        weights = class_weights.effective_number(images, recipe.class_weight_beta)
    else:
        shares = card.frequencies("train")
        weights = class_weights.median_frequency(shares, recipe.class_weight_power)
    bounds = (recipe.class_weight_floor, recipe.class_weight_cap)
    return losses.build_loss(
        recipe.loss,
        weights=np.clip(weights, *bounds),
        smoothing=recipe.label_smoothing,
        gamma=recipe.focal_gamma,
    )
