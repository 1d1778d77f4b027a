"""Transposed convolutions whose gradients take less work."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

_KNOWN = ((2, 2), "same", None)
_AS_MATRICES_UP_TO = 16
"""Height of inputs up to which a product of matrices is the faster gradient."""


def lighten_transposes(layers: list[keras.layers.Layer]) -> None:
    """Has Keras' own transposed convolutions among these layers do less work.

    Those by strides of 2, which decoders are made of. Weights, their names and files
    stay the same, and values within rounding.
    """
    for layer in layers:
        if type(layer) is not keras.layers.Conv2DTranspose:
            continue
        if (layer.strides, layer.padding, layer.output_padding) == _KNOWN:
            # As a batch norm is fused, see `normalization`.
            layer.__class__ = LightTranspose
            layer.learning_channels = None


class LightTranspose(keras.layers.Conv2DTranspose):
    """`Conv2DTranspose` by strides of 2, also for inputs joined to a frozen skip.

    Same weights, same outputs, same gradients of the weights. Where only the first
    channels of the input learn, those below the skip of a frozen encoder, they alone
    get a gradient: TensorFlow would compute that of the skip as well, and throw it
    away. In the tutorial's decoder on DenseNet121 that is a fifth of all
    multiplications of a step; docs/benchmarks.md has what it gains.

    On CPUs the gradients of the bias and, where images are small, of the kernel are
    products of matrices: TensorFlow's own take three times as long in bfloat16.
    """

    def __init__(
        self, *args: Any, learning_channels: int | None = None, **kwargs: Any
    ) -> None:
        """As `Conv2DTranspose`, padded "same" by strides of 2.

        Args:
          learning_channels: how many of the input's channels get a gradient; None: all.
        """
        super().__init__(*args, strides=2, padding="same", **kwargs)
        self.learning_channels = learning_channels

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """`[B, H, W, C]` -> `[B, 2H, 2W, filters]`."""
        kernel = tf.cast(self.kernel, self.compute_dtype)
        learning = self.learning_channels or inputs.shape[-1]
        outputs = _transpose(inputs, kernel, learning)
        if self.bias is not None:
            outputs = _biased(outputs, tf.cast(self.bias, self.compute_dtype))
        return self.activation(outputs)


def _transpose(inputs: tf.Tensor, kernel: tf.Tensor, learning: int) -> tf.Tensor:
    batch, height, width = tf.shape(inputs)[0], 2 * inputs.shape[1], 2 * inputs.shape[2]
    missing = inputs.shape[-1] - learning

    @tf.custom_gradient
    def apply(inputs: tf.Tensor, kernel: tf.Tensor) -> Any:
        shape = [batch, height, width, kernel.shape[2]]
        outputs = tf.nn.conv2d_transpose(inputs, kernel, shape, 2, "SAME")

        def gradient(above: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            # The forward pass of a transposed convolution is the backward pass of a
            # convolution, so inputs and gradients change places.
            below = tf.nn.conv2d(above, kernel[..., :learning], 2, "SAME")
            if missing:
                below = tf.pad(below, [[0, 0]] * 3 + [[0, missing]])
            return below, _of_kernel(inputs, above, kernel.shape)

        return outputs, gradient

    return apply(inputs, kernel)


def _of_kernel(inputs: tf.Tensor, above: tf.Tensor, shape: tf.TensorShape) -> tf.Tensor:
    """`[B, H, W, C]`, gradient `[B, 2H, 2W, F]` -> gradient `[K, K, F, C]`."""
    small = inputs.shape[1] <= _AS_MATRICES_UP_TO
    if not small or tf.config.list_physical_devices("GPU"):
        return tf.raw_ops.Conv2DBackpropFilter(
            input=above,
            filter_sizes=shape,
            out_backprop=inputs,
            strides=[1, 2, 2, 1],
            padding="SAME",
        )
    window = [1, *shape[:2], 1]
    patches = tf.image.extract_patches(above, window, [1, 2, 2, 1], [1] * 4, "SAME")
    rows = [tf.reshape(x, [-1, x.shape[-1]]) for x in (patches, inputs)]
    return tf.reshape(tf.matmul(*rows, transpose_a=True), shape)


def _biased(values: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """`tf.nn.bias_add`."""
    if tf.config.list_physical_devices("GPU"):
        return tf.nn.bias_add(values, bias)

    @tf.custom_gradient
    def apply(values: tf.Tensor, bias: tf.Tensor) -> Any:
        def gradient(above: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            rows = tf.reshape(above, [-1, above.shape[-1]])
            ones = tf.ones([1, tf.shape(rows)[0]], rows.dtype)
            return above, tf.matmul(ones, rows)[0]

        return tf.nn.bias_add(values, bias), gradient

    return apply(values, bias)
