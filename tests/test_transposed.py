"""The layer beside Keras' own, which computes all gradients."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.model.transposed import LightTranspose, lighten_transposes
from trainer.model.unet import ModelSpec, as_of_keras, build_model

LEARNING = 3
SIZES = [(5, 7), (17, 3)]
"""Height and width below and above that where a product of matrices is slower."""


def pair(
    learning_channels: int | None = LEARNING, **given: object
) -> tuple[keras.layers.Layer, keras.layers.Layer]:
    """The layer and Keras' own, of the same weights."""
    ours = LightTranspose(4, 3, learning_channels=learning_channels, **given)
    keras_own = keras.layers.Conv2DTranspose(4, 3, strides=2, padding="same", **given)
    for layer in (ours, keras_own):
        layer.build((None, None, None, 8))
    ours.set_weights(
        [np.random.default_rng(0).normal(size=w.shape) for w in ours.weights]
    )
    keras_own.set_weights(ours.get_weights())
    return ours, keras_own


def tensors(height: int, width: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Inputs of the layer, and a gradient of its outputs."""
    rng = np.random.default_rng(1)
    shapes = [(2, height, width, 8), (2, 2 * height, 2 * width, 4)]
    inputs, above = (tf.constant(rng.normal(size=x), tf.float32) for x in shapes)
    return inputs, above


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


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("given", [{}, {"use_bias": False}, {"activation": "relu"}])
def test_it_is_keras_transposed_convolution_but_for_the_gradient_of_the_skip(
    size: tuple[int, int], given: dict[str, object]
) -> None:
    ours, keras_own = pair(**given)
    inputs, above = tensors(*size)
    outputs, of_inputs, of_weights = gradients(ours, inputs, above)
    expected, of_all_inputs, expected_weights = gradients(keras_own, inputs, above)
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)
    for found, right in zip(of_weights, expected_weights, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-4)
    below = of_all_inputs[..., :LEARNING]
    np.testing.assert_allclose(of_inputs[..., :LEARNING], below, rtol=1e-5, atol=1e-4)
    assert not of_inputs[..., LEARNING:].any()
    assert of_all_inputs[..., LEARNING:].all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kernel", [2, 3, 4])
def test_one_of_keras_that_is_lightened_computes_the_same(
    size: tuple[int, int], kernel: int
) -> None:
    given = {"strides": 2, "padding": "same", "activation": "tanh"}
    keras_own = keras.layers.Conv2DTranspose(4, kernel, **given)
    inputs, above = tensors(*size)
    expected = gradients(keras_own, inputs, above)
    lighten_transposes([keras_own])
    assert type(keras_own) is LightTranspose
    for found, right in zip(
        tf.nest.flatten(gradients(keras_own, inputs, above)),
        tf.nest.flatten(expected),
        strict=True,
    ):
        np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "given",
    [
        {"strides": 1, "padding": "same"},
        {"strides": (2, 1), "padding": "same"},
        {"strides": 2, "padding": "valid"},
        {"strides": 2, "padding": "same", "output_padding": 0},
    ],
)
def test_other_transposed_convolutions_stay_those_of_keras(
    given: dict[str, object],
) -> None:
    layer = keras.layers.Conv2DTranspose(4, 3, **given)
    lighten_transposes([layer])
    assert type(layer) is keras.layers.Conv2DTranspose


def test_small_images_make_the_gradient_of_a_kernel_a_product_of_matrices() -> None:
    ours, _ = pair()
    kinds = []
    for height, width in SIZES:
        inputs, above = tensors(height, width)

        @tf.function
        def step(inputs: tf.Tensor, above: tf.Tensor) -> list[tf.Tensor]:
            with tf.GradientTape() as tape:
                value = tf.reduce_sum(ours(inputs) * above)
            return tape.gradient(value, ours.trainable_variables)

        graph = step.get_concrete_function(inputs, above).graph
        kinds.append({x.type for x in graph.get_operations()})
    both = {"ExtractImagePatches", "Conv2DBackpropFilter"}
    assert [both & x for x in kinds] == [
        {"ExtractImagePatches"},
        {"Conv2DBackpropFilter"},
    ]


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
    as_of_keras(keras_own)
    kinds = [type(x) for x in ours._flatten_layers()]
    assert kinds.count(LightTranspose) == 5
    assert keras.layers.Conv2DTranspose not in kinds
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
    ours, keras_own = pair(dtype=policy)
    inputs, above = tensors(5, 7)
    inputs = tf.cast(inputs, tf.bfloat16)
    outputs, of_inputs, of_weights = gradients(ours, inputs, above)
    expected, of_all_inputs, expected_weights = gradients(keras_own, inputs, above)
    assert outputs.dtype == expected.dtype == of_inputs.dtype
    np.testing.assert_array_equal(outputs, expected)
    np.testing.assert_array_equal(
        of_inputs[..., :LEARNING], of_all_inputs[..., :LEARNING]
    )
    # Sums are rounded to the 8 bits of bfloat16 once. That of TensorFlow for the bias
    # is one of bfloat16 numbers, so it is compared with the exact one.
    exact = above.numpy().sum((0, 1, 2))
    for found, right in zip(of_weights, [expected_weights[0], exact], strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, right, rtol=2**-7, atol=2**-7)
