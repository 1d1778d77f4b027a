"""The layer beside Keras' own, which computes all gradients."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.model.transposed import SkipTranspose
from trainer.model.unet import ModelSpec, build_model

LEARNING = 3


def pair(**given: object) -> tuple[keras.layers.Layer, keras.layers.Layer]:
    """The layer and Keras' own, of the same weights."""
    ours = SkipTranspose(4, 3, learning_channels=LEARNING, **given)
    keras_own = keras.layers.Conv2DTranspose(4, 3, strides=2, padding="same", **given)
    for layer in (ours, keras_own):
        layer.build((None, 5, 7, 8))
    ours.set_weights(
        [np.random.default_rng(0).normal(size=w.shape) for w in ours.weights]
    )
    keras_own.set_weights(ours.get_weights())
    return ours, keras_own


def gradients(
    layer: keras.layers.Layer, inputs: tf.Tensor, above: tf.Tensor
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Outputs, and gradients of the inputs and of each weight."""
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs)
        value = tf.reduce_sum(tf.cast(outputs, tf.float32) * above)
    of_inputs, of_weights = tape.gradient(value, [inputs, layer.trainable_variables])
    return outputs.numpy(), of_inputs.numpy(), [x.numpy() for x in of_weights]


@pytest.mark.parametrize("use_bias", [True, False])
def test_it_is_keras_transposed_convolution_but_for_the_gradient_of_the_skip(
    use_bias: bool,
) -> None:
    ours, keras_own = pair(use_bias=use_bias)
    rng = np.random.default_rng(1)
    inputs = tf.constant(rng.normal(size=(2, 5, 7, 8)), tf.float32)
    above = tf.constant(rng.normal(size=(2, 10, 14, 4)), tf.float32)
    outputs, of_inputs, of_weights = gradients(ours, inputs, above)
    expected, of_all_inputs, expected_weights = gradients(keras_own, inputs, above)
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)
    for found, right in zip(of_weights, expected_weights, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-4)
    below = of_all_inputs[..., :LEARNING]
    np.testing.assert_allclose(of_inputs[..., :LEARNING], below, rtol=1e-5, atol=1e-4)
    assert not of_inputs[..., LEARNING:].any()
    assert of_all_inputs[..., LEARNING:].all()


def model(encoder_training: str, precision: str = "float32") -> keras.Model:
    keras.utils.set_random_seed(0)
    return build_model(
        ModelSpec(
            encoder="mobilenetv2",
            encoder_training=encoder_training,
            preprocessing="unit",
            image_size=32,
            batch_norm_momentum=0.9,
            precision=precision,
            label_names=["ground", "shirt", "shoe"],
        )
    )


def test_a_frozen_encoder_changes_no_gradient_of_the_decoder() -> None:
    ours, keras_own = model("frozen"), model("finetune")
    keras_own.set_weights(ours.get_weights())
    keras_own.get_layer("mobilenetv2").trainable = False
    assert any(isinstance(x, SkipTranspose) for x in ours._flatten_layers())
    assert not any(isinstance(x, SkipTranspose) for x in keras_own._flatten_layers())
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    found = []
    for network in (ours, keras_own):
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(network(pixels, training=True) ** 2)
        found.append(tape.gradient(value, network.trainable_variables))
    assert len(found[0]) == len(found[1])
    for mine, other in zip(*found, strict=True):
        scale = float(tf.reduce_max(tf.abs(other)))
        np.testing.assert_allclose(mine / scale, other / scale, atol=1e-5)


def convolution_widths(network: keras.Model) -> set[int]:
    """Output channels of all convolutions of a step."""

    @tf.function
    def step(pixels: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(network(pixels, training=True))
        return tape.gradient(value, network.trainable_variables)

    graph = step.get_concrete_function(tf.TensorSpec((2, 32, 32, 3))).graph
    kernels = [op for op in graph.get_operations() if op.type == "Conv2D"]
    return {op.outputs[0].shape[-1] for op in kernels}


def test_no_step_computes_the_gradient_of_frozen_skips() -> None:
    # The upper three blocks: channels from below, and of MobileNetV2's skips.
    joined = {512 + 576, 256 + 192, 128 + 144}
    keras_own = model("finetune")
    keras_own.get_layer("mobilenetv2").trainable = False
    assert joined <= convolution_widths(keras_own)
    assert not joined & convolution_widths(model("frozen"))


def test_in_bfloat16_it_computes_as_keras_own_does() -> None:
    policy = keras.DTypePolicy("mixed_bfloat16")
    ours, keras_own = pair(use_bias=False, dtype=policy)
    inputs = tf.cast(np.random.default_rng(1).normal(size=(2, 5, 7, 8)), tf.bfloat16)
    above = tf.ones((2, 10, 14, 4))
    outputs, of_inputs, of_weights = gradients(ours, inputs, above)
    expected, of_all_inputs, expected_weights = gradients(keras_own, inputs, above)
    assert outputs.dtype == expected.dtype == of_inputs.dtype
    np.testing.assert_array_equal(outputs, expected)
    np.testing.assert_array_equal(
        of_inputs[..., :LEARNING], of_all_inputs[..., :LEARNING]
    )
    assert of_weights[0].dtype == np.float32
    np.testing.assert_array_equal(of_weights[0], expected_weights[0])
