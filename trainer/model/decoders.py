"""Decoders: from the encoder's outputs up to logits at the input's size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

from trainer.model.transposed import LightTranspose

UPSAMPLE_FILTERS = (512, 256, 128, 64)
"""Channels of the upsampling blocks, from stride 32 up (the tutorial's)."""

LATERAL_FILTERS = (256, 128, 96, 64)
"""Channels of the lateral decoder's stages, from stride 16 up."""


def upsample(
    filters: int,
    size: int = 3,
    *,
    momentum: float = 0.99,
    name: str | None = None,
    learning_channels: int | None = None,
) -> keras.Sequential:
    """Doubles height and width: Conv2DTranspose, batch norm, ReLU.

    `pix2pix.upsample(filters, size)` of tensorflow_examples, layer by layer: no bias,
    kernels from a normal distribution of standard deviation 0.02 (Isola et al.,
    "Image-to-Image Translation with Conditional Adversarial Networks", 2017).

    Args:
      filters, size: of the transposed convolution.
      momentum: of the batch norm.
      name: of the block.
      learning_channels: see `LightTranspose`; None: all of the input's channels get a
        gradient.
    """
    return keras.Sequential(
        [
            _transposed(
                filters,
                size,
                learning_channels=learning_channels,
                kernel_initializer=keras.initializers.RandomNormal(0.0, 0.02),
                use_bias=False,
            ),
            keras.layers.BatchNormalization(momentum=momentum),
            keras.layers.ReLU(),
        ],
        name=name,
    )


def _transposed(
    filters: int, size: int, *, learning_channels: int | None, **given: Any
) -> keras.layers.Conv2DTranspose:
    if learning_channels is None:
        return keras.layers.Conv2DTranspose(
            filters, size, strides=2, padding="same", **given
        )
    return LightTranspose(filters, size, learning_channels=learning_channels, **given)


def pix2pix(
    features: Sequence[keras.KerasTensor | None],
    *,
    classes: int,
    momentum: float,
    dropout: float,
    frozen: bool = False,
) -> keras.KerasTensor:
    """The tutorial's: four upsampling blocks, each joined to a skip; see `upsample`.

    Where the encoder has no skip, a block goes on alone.
    """
    *skips, x = features
    learning = None
    for filters, skip in zip(UPSAMPLE_FILTERS, reversed(skips), strict=True):
        up = upsample(
            filters,
            momentum=momentum,
            name=f"upsample_{filters}",
            learning_channels=learning,
        )
        x, learning = up(x), None
        if skip is not None:
            x = keras.layers.Concatenate()([x, skip])
            learning = filters if frozen else None
    logits = _transposed(classes, 3, learning_channels=learning, name="logits")
    return logits(_drop(x, dropout))


def lateral(
    features: Sequence[keras.KerasTensor | None],
    *,
    classes: int,
    momentum: float,
    dropout: float,
    frozen: bool = False,
) -> keras.KerasTensor:
    """Lateral 1×1 connections, bilinear upsampling, a 3×3 convolution a stage.

    The top-down pathway of "Feature Pyramid Networks for Object Detection" (Lin et al.,
    2017) with channels that shrink as a U-Net's do; logits come from stride 2.

    Where the encoder has no skip, a stage has no lateral connection.
    """
    del frozen  # Each skip has convolutions of its own: TensorFlow leaves out the rest.
    *skips, x = features
    for filters, skip in zip(LATERAL_FILTERS, reversed(skips), strict=True):
        # Fewer channels first: the same sum, and nothing wide is ever enlarged.
        deeper = keras.layers.Conv2D(filters, 1, use_bias=False)(x)
        deeper = keras.layers.UpSampling2D(interpolation="bilinear")(deeper)
        if skip is not None:
            own = keras.layers.Conv2D(filters, 1, use_bias=False)(skip)
            deeper = keras.layers.Add()([deeper, own])
        x = _normalized(deeper, momentum)
        x = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        x = _normalized(x, momentum, name=f"upsample_{filters}")
    x = keras.layers.Conv2D(classes, 1, name="coarse_logits")(_drop(x, dropout))
    return keras.layers.UpSampling2D(interpolation="bilinear", name="logits")(x)


def _normalized(
    x: keras.KerasTensor, momentum: float, name: str | None = None
) -> keras.KerasTensor:
    x = keras.layers.BatchNormalization(momentum=momentum)(x)
    return keras.layers.ReLU(name=name)(x)


def _drop(x: keras.KerasTensor, rate: float) -> keras.KerasTensor:
    return keras.layers.SpatialDropout2D(rate)(x) if rate else x


DECODERS: dict[str, Callable[..., keras.KerasTensor]] = {
    "pix2pix": pix2pix,
    "lateral": lateral,
}
"""Each takes `features`, float `[B, S/2^k, S/2^k, C_k]` for k = 1..5, None where the
encoder has none (ConvNeXt at stride 2; never at stride 32), and gives logits float
`[B, S, S, classes]`. `momentum` is that of batch norms; `dropout` the share of
channels dropped before the logits while learning ("Efficient Object Localization Using
Convolutional Networks", Tompson et al., 2015); `frozen`, whether all features come from
an encoder that does not learn: it changes no value, but how much work a step is."""
