"""Rare classes are found oftener by lifting their logits, outside of training."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.engine.job import build_spec
from trainer.errors import SeamlineError
from trainer.model.adjustment import LogitAdjustment, rarity_offsets
from trainer.model.unet import ModelSpec, build_model
from trainer.recipes import RECIPES, resolve

SPEC = ModelSpec(
    encoder="mobilenetv2",
    encoder_training="full",
    preprocessing="encoder",
    image_size=64,
    batch_norm_momentum=0.9,
    precision="float32",
    label_names=["background", "shirt", "shoe"],
    decoder="lateral",
    test_scale=1.5,
)
SHARES = [0.75, 0.2, 0.05]
LIFTED = dataclasses.replace(SPEC, logit_adjustment=2.0, class_shares=SHARES)
OFFSETS = -2 * np.log(SHARES)


@pytest.fixture(scope="module", autouse=True)
def clean() -> Iterator[None]:
    yield
    keras.backend.clear_session()


def test_logits_adjusted_in_full_are_those_of_a_balanced_world() -> None:
    """Bayes: p(class | x) / p(class) is what a world with equal shares would show."""
    draw = np.random.default_rng(0)
    shares, likelihoods = draw.dirichlet([1.0] * 5), draw.random((100, 5))
    posterior = likelihoods * shares
    logits = np.log(posterior / posterior.sum(-1, keepdims=True))
    balanced = likelihoods / likelihoods.sum(-1, keepdims=True)
    adjusted = LogitAdjustment(rarity_offsets(list(shares), 1.0))(logits)
    np.testing.assert_allclose(tf.nn.softmax(adjusted), balanced, rtol=1e-5)


def test_a_class_that_never_occurs_is_not_lifted() -> None:
    found = rarity_offsets([0.5, 0.0, 0.25], 0.1)
    np.testing.assert_allclose(found, [0.0693147, 0, 0.1386294], rtol=1e-5)
    assert rarity_offsets([0.5, 0.0, 0.25], 0.0) == [0, 0, 0]


def _both(spec: ModelSpec) -> tuple[keras.Model, keras.Model]:
    """A model without and one with offsets, of equal weights."""
    plain = build_model(spec)
    lifted = dataclasses.replace(LIFTED, precision=spec.precision)
    adjusted = build_model(lifted)
    adjusted.set_weights(plain.get_weights())
    return plain, adjusted


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_offsets_are_added_outside_of_training_alone(precision: str) -> None:
    plain, adjusted = _both(dataclasses.replace(SPEC, precision=precision))
    images = np.random.default_rng(1).uniform(0, 255, (2, 64, 64, 3)).astype("float32")
    expected = plain(images, training=False) + np.float32(OFFSETS)
    np.testing.assert_allclose(adjusted(images, training=False), expected, atol=1e-5)
    np.testing.assert_array_equal(
        adjusted(images, training=True), plain(images, training=True)
    )


def test_a_checkpoint_fits_with_and_without_offsets(tmp_path: Path) -> None:
    plain, adjusted = _both(SPEC)
    path = tf.train.Checkpoint(model=plain).write(str(tmp_path / "ckpt"))
    for values in adjusted.weights:
        values.assign(tf.ones_like(values))
    tf.train.Checkpoint(model=adjusted).read(path).assert_consumed()
    for ours, theirs in zip(adjusted.weights, plain.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_saved_specification_holds_the_offsets_of_its_classes() -> None:
    recipe = resolve("default", {"logit_adjustment": 0.5})
    spec = build_spec(recipe, SPEC.label_names, "float32", SHARES)
    assert spec.logit_offsets == pytest.approx(OFFSETS / 4)
    assert ModelSpec.from_json(spec.to_json()) == spec


def test_models_saved_before_there_were_offsets_have_none() -> None:
    saved = json.loads(SPEC.to_json())
    del saved["logit_adjustment"], saved["class_shares"]
    assert ModelSpec.from_json(json.dumps(saved)) == SPEC
    assert SPEC.logit_offsets is None


def test_without_shares_or_strength_there_are_none() -> None:
    tutorial, names = RECIPES["tutorial"], SPEC.label_names
    assert build_spec(tutorial, names, "float32", [0.5, 0.3, 0.2]).logit_offsets is None
    lifted = resolve("default", {"logit_adjustment": 0.5})
    assert build_spec(lifted, names, "float32").logit_offsets is None


def test_a_negative_strength_is_refused() -> None:
    message = r"^--logit_adjustment=-0\.1: must be at least 0$"
    with pytest.raises(SeamlineError, match=message):
        resolve("default", {"logit_adjustment": -0.1})
