"""Folded batch norms beside Keras' own."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.model import unet
from trainer.model.folding import fold_batch_norms
from trainer.model.stages import encoder_of
from trainer.model.unet import ModelSpec, batch_norms, build_model

RNG = np.random.default_rng(0)
SPEC = ModelSpec(
    encoder="mobilenetv2",
    encoder_training="finetune",
    preprocessing="encoder",
    image_size=32,
    batch_norm_momentum=0.9,
    precision="float32",
    label_names=["ground", "shirt"],
    decoder="lateral",
)


def network(*, trainable: bool = False, branch: bool = False) -> keras.Model:
    """Convolutions of all kinds, each before a batch norm of its own statistics."""
    x = inputs = keras.Input((16, 16, 3))
    for number, layer in enumerate(
        (
            keras.layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False),
            keras.layers.DepthwiseConv2D(3, depth_multiplier=2, padding="valid"),
            keras.layers.Conv2D(6, 1),
            keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False),
        )
    ):
        before = layer(x)
        norm = keras.layers.BatchNormalization(
            trainable=trainable, scale=number != 1, center=number != 2
        )
        x = keras.layers.ReLU()(norm(before))
        if branch:
            x = keras.layers.Concatenate()([x, before])
    return moved(keras.Model(inputs, x))


def moved(model: keras.Model) -> keras.Model:
    """With statistics, scales and biases that are not those of the start."""
    for weight in model.weights:
        if "kernel" not in weight.path:
            weight.assign(RNG.uniform(0.3, 2.0, weight.shape))
    return model


def outputs_and_gradients(
    model: keras.Model, images: np.ndarray, *, training: bool = True
) -> tuple[np.ndarray, list[np.ndarray]]:
    x = tf.constant(images, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = model(x, training=training)
        value = tf.reduce_sum(tf.math.sin(outputs))
    gradients = tape.gradient(value, [x, *model.trainable_variables])
    return outputs.numpy(), [g.numpy() for g in gradients]


def assert_alike(found: np.ndarray, right: np.ndarray) -> None:
    np.testing.assert_allclose(found, right, rtol=1e-3, atol=2e-5 * np.abs(right).max())


def test_a_folded_network_gives_the_same_outputs_and_gradients() -> None:
    images = RNG.normal(size=(2, 16, 16, 3))
    model = network()
    expected, right = outputs_and_gradients(model, images)
    assert fold_batch_norms(model) == 4
    outputs, gradients = outputs_and_gradients(model, images)
    assert_alike(outputs, expected)
    assert len(gradients) == len(right) == 1 + 4 + 2
    for found, true in zip(gradients, right, strict=True):
        assert_alike(found, true)


def test_a_folded_network_no_longer_multiplies_its_outputs() -> None:
    def products(model: keras.Model) -> list[tuple[int, ...]]:
        run = tf.function(lambda x: model(x, training=True))
        graph = run.get_concrete_function(tf.TensorSpec((2, 16, 16, 3))).graph
        found = [x for x in graph.get_operations() if x.type == "Mul"]
        return [tuple(x.outputs[0].shape) for x in found]

    model = network()
    images = [shape for shape in products(model) if shape[0] == 2]
    assert len(images) == 4, "one a batch norm"
    fold_batch_norms(model)
    assert not [shape for shape in products(model) if shape and shape[0] == 2]


def test_a_batch_norm_that_learns_or_whose_input_is_seen_elsewhere_is_left_alone() -> (
    None
):
    assert fold_batch_norms(network(trainable=True)) == 0
    assert fold_batch_norms(network(branch=True)) == 0
    seen = network()
    first = seen.layers[1]
    assert isinstance(first, keras.layers.Conv2D)
    assert fold_batch_norms(keras.Model(seen.inputs, [first.output, seen.output])) == 3


def test_names_and_weights_stay_as_they_were() -> None:
    model = network()
    before = [(x.path, x.shape, x.trainable) for x in model.weights]
    layers = [x.name for x in model.layers]
    fold_batch_norms(model)
    assert [(x.path, x.shape, x.trainable) for x in model.weights] == before
    assert [x.name for x in model.layers] == layers


def test_a_folded_batch_norm_that_is_made_to_learn_works_as_keras_own() -> None:
    images = RNG.normal(size=(2, 16, 16, 3))
    plain = network()
    folded = keras.models.clone_model(plain)
    folded.set_weights(plain.get_weights())
    fold_batch_norms(folded)
    for model in (plain, folded):
        for norm in batch_norms(model):
            norm.trainable = True
    expected, right = outputs_and_gradients(plain, images)
    outputs, gradients = outputs_and_gradients(folded, images)
    assert_alike(outputs, expected)
    for found, true in zip(gradients, right, strict=True):
        # Of a bias before a batch norm that learns it is zero, all else is rounding.
        np.testing.assert_allclose(found, true, rtol=1e-3, atol=1e-4)
    for found, true in zip(folded.weights, plain.weights, strict=True):
        assert_alike(found.numpy(), true.numpy())


ENCODERS = ("mobilenetv2", "resnet50", "densenet121")


@pytest.mark.parametrize("encoder", ENCODERS)
def test_an_encoder_with_still_batch_norms_gives_what_keras_gives(
    encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = dataclasses.replace(SPEC, encoder=encoder)
    ours = moved(encoder_of(build_model(spec), encoder))
    with monkeypatch.context() as patch:
        patch.setattr(unet, "fold_batch_norms", lambda network: 0)
        plain = encoder_of(build_model(spec), encoder)
    plain.set_weights(ours.get_weights())
    kinds = {type(x).__name__ for x in ours._flatten_layers()}
    assert "_Shift" in kinds
    images = RNG.normal(size=(1, 32, 32, 3)).astype(np.float32)
    for found, right in zip(ours(images), plain(images), strict=True):
        assert_alike(found.numpy(), right.numpy())


def test_in_bfloat16_a_folded_convolution_still_computes_in_bfloat16() -> None:
    model = build_model(dataclasses.replace(SPEC, precision="bfloat16"))
    encoder = encoder_of(model, "mobilenetv2")
    convolution = encoder.get_layer("block_3_expand")
    assert type(convolution).__name__ == "_Scaled"
    outputs = convolution(np.zeros((1, 8, 8, 24), np.float32))
    assert outputs.dtype == tf.bfloat16
    assert encoder.get_layer("block_3_expand_BN")(outputs).dtype == tf.float32
