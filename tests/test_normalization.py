"""Fused batch norms beside Keras' own."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.test_folding import SPEC
from trainer.model.normalization import FusedBatchNorm, fuse_batch_norms
from trainer.model.unet import batch_norms, build_model

RNG = np.random.default_rng(0)


def norms(**given: object) -> tuple[keras.layers.Layer, keras.layers.Layer]:
    """One of Keras, and it fused, with weights that are not those of the start."""
    own, fused = (keras.layers.BatchNormalization(**given) for _ in range(2))
    for layer in (own, fused):
        layer.build([None, None, None, 5])
    for one, other in zip(own.weights, fused.weights, strict=True):
        one.assign(RNG.uniform(0.3, 2.0, one.shape))
        other.assign(one)
    fuse_batch_norms([fused])
    assert type(fused) is FusedBatchNorm
    return own, fused


def images(*shape: int) -> tf.Tensor:
    return tf.constant(RNG.normal(3.0, 2.0, shape), tf.float32)


def learned(
    layer: keras.layers.Layer, x: tf.Tensor
) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Outputs, gradients, and all weights after a step of training."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = layer(x, training=True)
        value = tf.reduce_sum(tf.math.sin(outputs))
    gradients = tape.gradient(value, [x, *(v.value for v in layer.trainable_variables)])
    return outputs.numpy(), [g.numpy() for g in gradients], layer.get_weights()


def assert_alike(found: np.ndarray, right: np.ndarray) -> None:
    np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("given", [{}, {"scale": False}, {"center": False}])
@pytest.mark.parametrize("shape", [(4, 6, 7, 5), (1, 1, 2, 5), (1, 1, 1, 5)])
def test_a_fused_batch_norm_learns_as_that_of_keras(
    given: dict[str, object], shape: tuple[int, ...]
) -> None:
    own, fused = norms(momentum=0.7, epsilon=0.01, **given)
    x = images(*shape)
    expected, right, moved = learned(own, x)
    outputs, gradients, weights = learned(fused, x)
    assert_alike(outputs, expected)
    for one, other in zip([*gradients, *weights], [*right, *moved], strict=True):
        assert_alike(one, other)


def test_its_statistics_are_those_of_the_batch() -> None:
    _, fused = norms(momentum=0.0)
    x = images(4, 6, 7, 5)
    fused(x, training=True)
    mean, variance = fused.moving_mean.numpy(), fused.moving_variance.numpy()
    assert_alike(mean, x.numpy().mean((0, 1, 2)))
    assert_alike(variance, x.numpy().var((0, 1, 2)))


@pytest.mark.parametrize(("trainable", "training"), [(False, True), (True, False)])
def test_one_that_does_not_learn_uses_its_statistics(
    trainable: bool, training: bool
) -> None:
    own, fused = norms()
    own.trainable = fused.trainable = trainable
    x, before = images(2, 3, 3, 5), fused.get_weights()
    assert_alike(fused(x, training=training), own(x, training=training))
    for one, other in zip(fused.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_low_precision_in_is_low_precision_out() -> None:
    own, fused = norms(dtype="mixed_bfloat16")
    x = tf.cast(images(2, 6, 6, 5), tf.bfloat16)
    found, right = fused(x, training=True), own(x, training=True)
    assert found.dtype == tf.bfloat16
    assert_alike(tf.cast(found, tf.float32), tf.cast(right, tf.float32))


def test_no_activations_are_cast_around_it() -> None:
    _, fused = norms(dtype="mixed_bfloat16")

    @tf.function
    def step(x: tf.Tensor) -> tf.Tensor:
        return fused(x, training=True)

    graph = step.get_concrete_function(tf.zeros([2, 6, 6, 5], tf.bfloat16)).graph
    [operation] = [x for x in graph.get_operations() if x.type == "FusedBatchNormV3"]
    assert operation.inputs[0].dtype == operation.outputs[0].dtype == tf.bfloat16


@pytest.mark.parametrize("training", ["frozen", "finetune", "full"])
def test_a_model_learns_by_fused_batch_norms_alone(training: str) -> None:
    model = build_model(dataclasses.replace(SPEC, encoder_training=training))

    @tf.function
    def step(x: tf.Tensor) -> tf.Tensor:
        return model(x, training=True)

    graph = step.get_concrete_function(tf.zeros([2, 32, 32, 3])).graph
    kinds = [x.type for x in graph.get_operations()]
    learning = sum(x.trainable for x in batch_norms(model))
    assert learning
    assert kinds.count("FusedBatchNormV3") == learning
    assert "SquaredDifference" not in kinds
