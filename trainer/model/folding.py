"""Batch norms that stay as they are, folded into the convolutions before them.

With statistics that do not move, `norm(convolve(x, kernel))` is `convolve(x, kernel *
scale) + shift`: a multiplication of the kernel in place of one of all outputs, and of
none of their gradients. docs/benchmarks.md has what it gains.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import tensorflow as tf

from trainer.model.normalization import FusedBatchNorm

_KINDS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)


def fold_batch_norms(network: keras.Model) -> int:
    """Folds each batch norm that does not learn, where a convolution leads to it alone.

    Weights, their names and files stay the same, and values within rounding. A batch
    norm that is made `trainable` afterwards works as `FusedBatchNorm`.

    Args:
      network: functional, such as an encoder; changed in place.

    Returns:
      How many were folded.
    """
    outputs = {id(x) for x in network.outputs}
    folded = 0
    for norm in network.layers:
        if type(norm) is not keras.layers.BatchNormalization or norm.trainable:
            continue
        convolution = norm.input._keras_history.operation
        seen = len(convolution._outbound_nodes) > 1 or id(norm.input) in outputs
        if type(convolution) not in _KINDS or seen or not _linear(convolution):
            continue
        pair = _Pair(convolution, norm)
        depthwise = type(convolution) is keras.layers.DepthwiseConv2D
        # keras.applications makes the layers. As other objects they would have other
        # names, and their weights would have to be copied.
        convolution.__class__ = _ScaledDepthwise if depthwise else _Scaled
        norm.__class__ = _Shift
        convolution.pair = norm.pair = pair
        folded += 1
    return folded


def _linear(convolution: keras.layers.Layer) -> bool:
    return convolution.activation in (None, keras.activations.linear)


@dataclasses.dataclass(frozen=True)
class _Pair:
    """Both layers. No layer itself, or Keras would count their weights twice."""

    convolution: keras.layers.Layer
    norm: keras.layers.Layer

    @property
    def scale(self) -> tf.Tensor:
        """float32 `[C]`: what the batch norm multiplies by."""
        norm = self.norm
        factor = tf.math.rsqrt(
            tf.convert_to_tensor(norm.moving_variance) + norm.epsilon
        )
        return factor * norm.gamma if norm.scale else factor

    @property
    def shift(self) -> tf.Tensor:
        """float32 `[C]`: what it adds to a scaled convolution without its bias."""
        norm, bias = self.norm, 0.0
        if self.convolution.use_bias:
            bias = tf.cast(self.convolution.bias, tf.float32)
        shift = (bias - norm.moving_mean) * self.scale
        return shift + norm.beta if norm.center else shift


class _Scaled(keras.layers.Conv2D):
    """By the kernel times the scale of the batch norm that follows."""

    pair: _Pair

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        if self.pair.norm.trainable:
            return super().call(inputs)
        kernel = tf.convert_to_tensor(self.kernel)
        scale = tf.cast(self.pair.scale, kernel.dtype)
        return self.convolution_op(inputs, kernel * scale)


class _ScaledDepthwise(keras.layers.DepthwiseConv2D):
    """As `_Scaled`, of a kernel `[H, W, C, M]` whose C·M outputs are scaled."""

    pair: _Pair

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        if self.pair.norm.trainable:
            return super().call(inputs)
        kernel = tf.convert_to_tensor(self.kernel)
        scale = tf.cast(tf.reshape(self.pair.scale, kernel.shape[2:]), kernel.dtype)
        return keras.ops.depthwise_conv(
            inputs,
            kernel * scale,
            strides=self.strides,
            padding=self.padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )


class _Shift(FusedBatchNorm):
    """Adds what is left of a batch norm whose scale is in the kernel before it."""

    pair: _Pair

    def call(
        self, inputs: tf.Tensor, training: bool | None = None, mask: Any = None
    ) -> tf.Tensor:
        if self.trainable:
            return super().call(inputs, training=training, mask=mask)
        # TensorFlow joins this op to the convolution and to the activation after it.
        shifted = tf.nn.bias_add(tf.cast(inputs, tf.float32), self.pair.shift)
        return tf.cast(shifted, self.compute_dtype)
