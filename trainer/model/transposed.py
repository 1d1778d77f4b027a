"""A transposed convolution that does no work for inputs that do not learn."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


class SkipTranspose(keras.layers.Conv2DTranspose):
    """`Conv2DTranspose` by strides of 2, for inputs joined to a frozen encoder's skip.

    Same weights, same outputs, same gradients of the weights. Only the first channels
    of the input, those below the skip, get a gradient: TensorFlow would compute that of
    the skip as well, and throw it away. In the tutorial's decoder on DenseNet121 that
    is a fifth of all multiplications of a step; docs/benchmarks.md has what it gains.
    """

    def __init__(self, *args: Any, learning_channels: int, **kwargs: Any) -> None:
        """As `Conv2DTranspose`, padded "same" by strides of 2.

        Args:
          learning_channels: how many of the input's channels get a gradient.
        """
        super().__init__(*args, strides=2, padding="same", **kwargs)
        self.learning_channels = learning_channels

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """`[B, H, W, C]` -> `[B, 2H, 2W, filters]`."""
        kernel = tf.cast(self.kernel, self.compute_dtype)
        outputs = _transpose(inputs, kernel, self.learning_channels)
        if self.bias is None:
            return outputs
        return tf.nn.bias_add(outputs, tf.cast(self.bias, self.compute_dtype))


def _transpose(inputs: tf.Tensor, kernel: tf.Tensor, learning: int) -> tf.Tensor:
    batch, height, width = tf.shape(inputs)[0], 2 * inputs.shape[1], 2 * inputs.shape[2]
    missing = inputs.shape[-1] - learning

    @tf.custom_gradient
    def apply(inputs: tf.Tensor, kernel: tf.Tensor) -> Any:
        shape = [batch, height, width, kernel.shape[2]]
        outputs = tf.nn.conv2d_transpose(inputs, kernel, shape, 2, "SAME")

        def gradient(above: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            below = tf.nn.conv2d(above, kernel[..., :learning], 2, "SAME")
            # The forward pass of a transposed convolution is the backward pass of a
            # convolution, so inputs and gradients change places.
            of_kernel = tf.raw_ops.Conv2DBackpropFilter(
                input=above,
                filter_sizes=tf.shape(kernel),
                out_backprop=inputs,
                strides=[1, 2, 2, 1],
                padding="SAME",
            )
            return tf.pad(below, [[0, 0]] * 3 + [[0, missing]]), of_kernel

        return outputs, gradient

    return apply(inputs, kernel)
