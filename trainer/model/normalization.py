"""Batch norms that learn, by TensorFlow's one operation for them."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


def fuse_batch_norms(layers: list[keras.layers.Layer]) -> None:
    """Has Keras' own batch norms among these layers do the same in less time.

    Weights, their names and files stay the same, and values within rounding.
    """
    for layer in layers:
        # Renormalization is of later versions of Keras.
        plain = not getattr(layer, "renorm", False)
        if plain and type(layer) is keras.layers.BatchNormalization:
            # keras.applications makes the layers; see `folding`.
            layer.__class__ = FusedBatchNorm


class FusedBatchNorm(keras.layers.BatchNormalization):
    """`BatchNormalization` whose statistics, outputs and gradients are one operation.

    Keras makes them of a dozen, each of which goes through all activations: of a step
    of MobileNetV2 that learns as a whole they take a fifth (docs/benchmarks.md).
    """

    def call(
        self, inputs: tf.Tensor, training: bool | None = None, mask: Any = None
    ) -> tf.Tensor:
        """`[B, H, W, C]` -> the same shape; else as Keras' own."""
        learning = training and self.trainable
        # The operation knows one replica alone, and images.
        if not learning or self.synchronized or len(inputs.shape) != 4:
            return super().call(inputs, training=training, mask=mask)
        # It reads and writes 16 bits as they are, and reckons in float32.
        ones = tf.ones([inputs.shape[-1]])
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.convert_to_tensor(self.gamma) if self.scale else ones,
            offset=tf.convert_to_tensor(self.beta) if self.center else 0 * ones,
            mean=[],
            variance=[],
            epsilon=self.epsilon,
            is_training=True,
        )
        count = tf.cast(tf.size(inputs) // inputs.shape[-1], tf.float32)
        # Its variance is that of a sample, n / (n - 1) times that of Keras.
        self._follow(self.moving_mean, mean)
        self._follow(self.moving_variance, variance * (count - 1) / count)
        return outputs

    def _follow(self, moving: keras.Variable, now: tf.Tensor) -> None:
        moving.assign(moving * self.momentum + now * (1.0 - self.momentum))
