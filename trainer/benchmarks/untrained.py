"""A recipe's model with random weights: it takes the same time as a trained one."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from trainer.benchmarks.settings import Settings
from trainer.model.unet import ModelSpec, build_model


def build(
    settings: Settings, label_names: Sequence[str]
) -> tuple[keras.Model, ModelSpec]:
    """Builds it; see `build_model`.

    Args:
      settings: of these, recipe and seed.
      label_names: C names.
    """
    recipe = settings.recipe
    keras.utils.set_random_seed(settings.seed)
    spec = ModelSpec(
        encoder=recipe.encoder,
        encoder_training=recipe.encoder_training,
        preprocessing=recipe.preprocessing,
        image_size=recipe.image_size,
        batch_norm_momentum=recipe.batch_norm_momentum,
        precision="float32",
        label_names=list(label_names),
        decoder=recipe.decoder,
    )
    return build_model(spec), spec
