"""Which stage of the encoder a variable belongs to, and how fast each stage learns."""

from __future__ import annotations

import keras


def encoder_of(model: keras.Model, name: str) -> keras.Model:
    """The encoder inside a model of `build_model`.

    Args:
      model: the U-Net.
      name: of its encoder, a key of `ENCODERS`.
    """
    return model.get_layer(name)


def head_of(model: keras.Model) -> keras.layers.Layer:
    """The layer that gives the logits: the last one that has weights."""
    *_, last = [layer for layer in model.layers if layer.weights]
    return last


def encoder_stages(model: keras.Model, name: str) -> list[int | None]:
    """The stage of each trainable variable; None outside the encoder.

    Stage 0 leads to the skip at stride 2, stage 4 to the output at stride 32. A network
    without features at stride 2 begins with stage 1.

    Args:
      model: of `build_model`.
      name: of its encoder, a key of `ENCODERS`.
    """
    encoder = encoder_of(model, name)
    found: dict[int, int] = {}
    # From the deepest: each skip in turn claims all that leads to it.
    for stage, skip in zip((4, 3, 2, 1, 0), reversed(encoder.outputs), strict=False):
        leading = keras.Model(encoder.inputs, skip)
        found |= {id(variable): stage for variable in leading.trainable_variables}
    return [found.get(id(variable)) for variable in model.trainable_variables]


def rate_factors(
    stages: list[int | None], *, encoder: float, layer_decay: float
) -> tuple[float, ...]:
    """Factors of the learning rate: 1 outside the encoder.

    Its last stage has `encoder`, each one before it `layer_decay` times that of the
    next, as in "ELECTRA" (Clark et al., 2020) and "BEiT" (Bao et al., 2022).
    """
    return tuple(
        1.0 if stage is None else encoder * layer_decay ** (4 - stage)
        for stage in stages
    )
