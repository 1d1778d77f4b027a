"""A recipe's model with random weights: it takes the same time as a trained one."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from trainer.benchmarks.settings import Settings
from trainer.engine.job import build_spec
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
    spec = build_spec(recipe, list(label_names), "float32")
    return build_model(spec), spec
