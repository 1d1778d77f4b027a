"""An encoder that compiles in a moment."""

from __future__ import annotations

import keras
import tensorflow as tf

from trainer.model.encoders import ENCODERS, Encoder


def tiny(
    *, include_top: bool, weights: str | None, input_shape: tuple[int, ...]
) -> keras.Model:
    """Five strided convolutions with batch norm."""
    x = image = keras.Input(input_shape)
    for index in range(5):
        x = keras.layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(x)
        x = keras.layers.BatchNormalization()(x)
        x = keras.layers.ReLU(name=f"stage_{index}")(x)
    return keras.Model(image, x)


TINY = Encoder(tiny, tuple(f"stage_{k}" for k in range(5)), (1, 0), "")


def rewrite_no_graphs() -> None:
    """TensorFlow runs functions of this process as they are written.

    To rewrite them for speed (Grappler) takes longer than a test's few small steps.
    Commands in interpreters of their own rewrite them, as users' do.
    """
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def register() -> None:
    """Makes `--encoder=tiny` known to this process."""
    ENCODERS["tiny"] = TINY
