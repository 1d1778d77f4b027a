"""Values of a recipe that cannot work, alone, together or on some replicas."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from trainer.errors import SeamlineError

if TYPE_CHECKING:
    # `recipes` checks what it resolves.
    from trainer.recipes import Recipe


def check(recipe: Recipe) -> None:
    """Refuses values that cannot work, before anything is read or written.

    Raises:
      SeamlineError: names the flag, the value and what would do.
    """
    _check_sizes(recipe)
    for knob, least in (
        ("batch_size", 1),
        ("accumulate", 1),
        ("epochs", 1),
        ("unfreeze_epoch", 0),
        ("steps_per_epoch", 0),
        ("patience", 0),
        ("warmup_steps", -1),
        ("learning_rate_floor", 0),
        ("weight_decay", 0),
        ("clip_norm", 0),
        ("class_weight_power", 0),
        ("class_weight_floor", 0),
        ("focal_gamma", 0),
        ("repeat_threshold", 0),
        ("logit_adjustment", 0),
    ):
        if getattr(recipe, knob) < least:
            raise SeamlineError(
                f"--{knob}={getattr(recipe, knob)}: must be at least {least}"
            )
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise SeamlineError(f"--{field.name}={value}: must be a finite number")
    if recipe.repeat_threshold > 1:
        raise SeamlineError(
            f"--repeat_threshold={recipe.repeat_threshold}: a share of the images, "
            "must lie in 0..1"
        )
    for knob in (
        *("learning_rate", "schedule_power", "class_weight_cap"),
        *("encoder_learning_rate_factor", "layer_decay"),
    ):
        if not getattr(recipe, knob) > 0:
            raise SeamlineError(
                f"--{knob}={getattr(recipe, knob)}: must be greater than 0"
            )
    for knob in (
        *("batch_norm_momentum", "momentum", "ema", "decoder_dropout"),
        *("class_weight_beta", "label_smoothing"),
    ):
        if not 0 <= getattr(recipe, knob) < 1:
            raise SeamlineError(f"--{knob}={getattr(recipe, knob)}: must lie in [0, 1)")
    for field in dataclasses.fields(recipe):
        choices = field.metadata["choices"]
        value = getattr(recipe, field.name)
        if choices and value not in choices:
            raise SeamlineError(
                f"--{field.name}={value}: choose one of {', '.join(choices)}"
            )
    _check_together(recipe)


def _check_sizes(recipe: Recipe) -> None:
    size = recipe.image_size
    if size < 32 or size % 32:
        raise SeamlineError(
            f"--image_size={size}: must be a multiple of 32, since the encoder halves "
            f"it five times; nearest: {nearest_multiples(size, 32)}"
        )
    if recipe.test_scale and not 1 <= recipe.test_scale <= 2:
        raise SeamlineError(
            f"--test_scale={recipe.test_scale}: must lie in 1..2, or be 0 for what the "
            "augmentation's crops ask for"
        )
    nearest = (size + 16) / size
    if 1 < recipe.test_scale < nearest:
        raise SeamlineError(
            f"--test_scale={recipe.test_scale}: to the nearest multiple of 32 that is "
            f"--image_size={size} itself; give {nearest:g} or more, or 1"
        )


def _check_together(recipe: Recipe) -> None:
    """Refuses values that cannot work beside another."""
    if recipe.batch_size % recipe.accumulate:
        raise SeamlineError(
            f"--accumulate={recipe.accumulate}: does not divide "
            f"--batch_size={recipe.batch_size}; change one of the two"
        )
    if recipe.learning_rate_floor > recipe.learning_rate:
        raise SeamlineError(
            f"--learning_rate_floor={recipe.learning_rate_floor}: is above "
            f"--learning_rate={recipe.learning_rate}; give less"
        )
    if recipe.class_weight_floor > recipe.class_weight_cap:
        raise SeamlineError(
            f"--class_weight_floor={recipe.class_weight_floor}: is above "
            f"--class_weight_cap={recipe.class_weight_cap}; give less"
        )
    if recipe.decoder_dropout and recipe.accumulate > 1 and "dice" in recipe.loss:
        raise SeamlineError(
            f"--decoder_dropout={recipe.decoder_dropout}: --accumulate with dice looks "
            "at each part twice, and would drop other channels the second time; give a "
            "--loss without dice, or one of the two"
        )
    if recipe.nesterov and recipe.optimizer != "sgd":
        raise SeamlineError(
            f"--nesterov: is a kind of sgd, and --optimizer={recipe.optimizer}; leave "
            "it out or give --optimizer=sgd"
        )
    steps = recipe.epochs * recipe.steps_per_epoch
    if 0 < steps <= recipe.warmup_steps:
        raise SeamlineError(
            f"--warmup_steps={recipe.warmup_steps}: the training has {steps} steps in "
            "all; give fewer"
        )
    if recipe.unfreeze_epoch >= recipe.epochs:
        raise SeamlineError(
            f"--unfreeze_epoch={recipe.unfreeze_epoch}: --epochs={recipe.epochs} end "
            "before the encoder learns; give fewer, or --encoder_training=frozen"
        )


def refuse_idle(recipe: Recipe, given: list[str]) -> None:
    """Refuses knobs that were given and would do nothing beside another.

    Raises:
      SeamlineError: names both flags.
    """
    weighted, focal = "weighted" in recipe.loss, "focal" in recipe.loss
    learns = recipe.encoder_training != "frozen"
    factor = recipe.encoder_learning_rate_factor
    for knob, other, does in (
        ("weight_decay", "optimizer", recipe.optimizer == "adamw"),
        ("momentum", "optimizer", recipe.optimizer == "sgd"),
        ("unfreeze_epoch", "encoder_training", learns),
        ("encoder_learning_rate_factor", "encoder_training", learns or factor == 1),
        ("layer_decay", "encoder_training", learns),
        ("nesterov", "momentum", recipe.momentum > 0),
        ("schedule_power", "schedule", recipe.schedule == "polynomial"),
        ("learning_rate_floor", "schedule", recipe.schedule != "constant"),
        ("label_smoothing", "loss", "cross_entropy" in recipe.loss or focal),
        ("focal_gamma", "loss", focal),
        ("class_weights", "loss", weighted),
        ("class_weight_power", "loss", weighted),
        ("class_weight_beta", "loss", weighted),
        ("class_weight_floor", "loss", weighted),
        ("class_weight_cap", "loss", weighted),
        ("class_weight_power", "class_weights", recipe.class_weights == "median"),
        ("class_weight_beta", "class_weights", recipe.class_weights == "effective"),
    ):
        if knob in given and not does:
            raise SeamlineError(
                f"--{knob}={getattr(recipe, knob)}: does nothing with "
                f"--{other}={getattr(recipe, other)}; leave one of them out"
            )


def check_batch_size(
    batch_size: int, replicas: int, *, made_of: str = "", where: str = ""
) -> None:
    """Refuses a global batch that the replicas cannot share alike.

    Args:
      batch_size: global.
      replicas: of the whole job.
      made_of: what to say of their number.
      where: what to say of the place for a better value.

    Raises:
      SeamlineError: names the nearest that they can.
    """
    if batch_size % replicas:
        raise SeamlineError(
            f"--batch_size={batch_size}: must be a multiple of the {replicas} replicas"
            f"{made_of}; nearest: {nearest_multiples(batch_size, replicas)}{where}"
        )


def nearest_multiples(value: int, factor: int) -> str:
    """Multiples of `factor` around `value`: "96 or 128", say; none below `factor`."""
    low = max(value // factor, 1) * factor
    return f"{low} or {low + factor}"
