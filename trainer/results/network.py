"""The network as a picture, from the model itself."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from trainer.model.registry import ENCODERS
from trainer.results.diagram import model_diagram


def draw_network(model: keras.Model, *, title: str = "The network") -> bytes:
    """PNG of the U with its stages, and how many parameters there are and learn.

    Args:
      model: of `build_model`.
      title: heading of the picture.
    """
    return model_diagram(
        stages_of(model),
        parameters=_parameters(model),
        title=title,
        joined="concatenate" if _concatenates(model) else "add",
    )


def stages_of(model: keras.Model) -> list[dict[str, Any]]:
    """The network from top to bottom and up again, as `model_diagram` takes it."""
    [encoder] = [layer for layer in model.layers if layer.name in ENCODERS]
    stages = [
        {"name": "image", "side": "input", "shape": list(model.input_shape[1:])},
    ]
    skips = [skip for skip in ENCODERS[encoder.name].skips if skip]
    for skip, output in zip(skips, encoder.outputs, strict=True):
        stages.append(
            {"name": skip, "side": "encoder", "shape": list(output.shape[1:])}
        )
    for layer in model.layers:
        if layer.name.startswith("upsample_"):
            shape = list(layer.output.shape[1:])
            stages.append({"name": layer.name, "side": "decoder", "shape": shape})
    shape = list(model.output_shape[1:])
    return [*stages, {"name": "logits", "side": "output", "shape": shape}]


def _parameters(model: keras.Model) -> dict[str, int]:
    learned = sum(int(np.prod(x.shape)) for x in model.trainable_variables)
    return {"total": model.count_params(), "trainable": learned}


def _concatenates(model: keras.Model) -> bool:
    """Whether the decoder lays skips beside its features, as the article's does."""
    return any(isinstance(x, keras.layers.Concatenate) for x in model.layers)
