"""Networks that see photos enlarged where they do not learn."""

from __future__ import annotations

import dataclasses
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.data import augment
from trainer.engine import evaluation
from trainer.engine.job import build_spec
from trainer.errors import SeamlineError
from trainer.model import encoders
from trainer.model.unet import ModelSpec, build_model
from trainer.recipes import RECIPES, resolve
from trainer.results.export import Serving
from trainer.scoring import build_predictor

SPEC = ModelSpec(
    encoder="mobilenetv2",
    encoder_training="finetune",
    preprocessing="encoder",
    image_size=64,
    batch_norm_momentum=0.9,
    precision="float32",
    label_names=["ground", "shirt", "shoe"],
    decoder="lateral",
    test_scale=1.5,
)
PHOTOS = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)


def twin(model: keras.Model, spec: ModelSpec, size: int) -> keras.Model:
    """The same weights in a plain network of another size."""
    other = build_model(dataclasses.replace(spec, image_size=size, test_scale=1.0))
    other.set_weights(model.get_weights())
    return other


EVERY = sorted(encoders.ENCODERS) if os.environ.get("ENCODERS") == "full" else ()
PAIRS = [
    *[(encoder, "lateral") for encoder in EVERY or ("mobilenetv2", "inceptionv3")],
    ("mobilenetv2", "pix2pix"),
]


@pytest.mark.parametrize(("encoder", "decoder"), PAIRS)
def test_without_training_logits_are_those_of_a_larger_network_made_smaller(
    encoder: str, decoder: str
) -> None:
    spec = dataclasses.replace(SPEC, encoder=encoder, decoder=decoder)
    model = build_model(spec)
    larger = twin(model, spec, 96)
    enlarged = tf.image.resize(PHOTOS, (96, 96))
    expected = tf.image.resize(larger(enlarged, training=False), (64, 64))
    found = model(PHOTOS.astype(np.float32), training=False)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_step_of_training_is_that_of_the_plain_network() -> None:
    model = build_model(SPEC)
    plain = twin(model, SPEC, 64)
    images = PHOTOS.astype(np.float32)
    found, expected = model(images, training=True), plain(images, training=True)
    np.testing.assert_array_equal(found, expected)
    assert not np.allclose(model(images, training=False), expected)
    assert [x.shape for x in model.weights] == [x.shape for x in plain.weights]


def test_scores_predictions_and_exports_see_photos_enlarged() -> None:
    model = build_model(SPEC)
    serving = Serving(model, SPEC)
    logits = model(PHOTOS.astype(np.float32), training=False)
    expected = np.argmax(logits, axis=-1)
    for labels in (
        evaluation.compile_predictor(model)(PHOTOS),
        build_predictor(model, SPEC)(PHOTOS)[0],
        serving.serve(PHOTOS)["labels"].numpy(),
    ):
        np.testing.assert_array_equal(labels, expected)


def test_views_of_several_sizes_mirrored_are_their_mean_at_the_size_of_the_scores() -> (
    None
):
    model = build_model(SPEC)
    images, shares = PHOTOS.astype(np.float32), []
    for net in (model, twin(model, SPEC, 64)):
        shares.append(tf.nn.softmax(net(images, training=False)))
        mirrored = tf.nn.softmax(net(images[:, :, ::-1], training=False))
        shares.append(mirrored[:, :, ::-1])
    mean = tf.image.resize(sum(shares), (48, 48), antialias=True)
    options = {"sizes": [96, 64], "flip": True, "score_size": 48}
    own, sized = build_predictor(model, SPEC, **options)(PHOTOS)
    assert np.mean(own == np.argmax(sum(shares), axis=-1)) > 0.999
    assert np.mean(sized == np.argmax(mean, axis=-1)) > 0.999
    assert np.mean(own == np.argmax(shares[0], axis=-1)) < 0.999


def test_views_of_other_sizes_are_those_of_plain_networks() -> None:
    model = build_model(SPEC)
    labels, _ = build_predictor(model, SPEC, sizes=[64])(PHOTOS)
    plain = twin(model, SPEC, 64)(PHOTOS.astype(np.float32), training=False)
    np.testing.assert_array_equal(labels, np.argmax(plain, axis=-1))


@pytest.mark.parametrize(
    ("policy", "scale"),
    [
        ("none", 1),
        ("tutorial", 1),
        ("flip=0.5", 1),
        ("strong", 1.25),
        ("crop=0.8", 5 / 3),
    ],
)
def test_left_to_itself_the_scale_is_that_of_the_crops(
    policy: str, scale: float
) -> None:
    assert augment.enlargement(policy) == pytest.approx(scale)
    recipe = resolve("default", {"augment": policy, "test_scale": 0.0})
    assert build_spec(recipe, ["a", "b"], "float32").test_scale == pytest.approx(scale)


def test_enlargement_is_the_mean_side_of_crops_turned_over() -> None:
    sides = 1 - 0.4 * np.random.default_rng(0).random(100_000)
    assert augment.enlargement("crop=0.4") == pytest.approx(1 / sides.mean(), rel=1e-3)


def test_the_seen_size_is_a_multiple_of_32() -> None:
    for size, scale, seen in (
        *((128, 1.25, 160), (32, 1.25, 32), (96, 1.25, 128)),
        *((64, 1.25, 96), (192, 1.25, 256), (320, 1.25, 416)),
    ):
        spec = dataclasses.replace(SPEC, image_size=size, test_scale=scale)
        assert spec.seen_size == seen


def test_the_tutorial_sees_photos_as_they_are() -> None:
    assert build_spec(RECIPES["tutorial"], ["a"], "float32").test_scale == 1


def test_a_scale_given_by_name_that_changes_no_size_is_refused() -> None:
    message = (
        r"^--test_scale=1\.1: .* --image_size=128 itself; give 1\.125 or more, or 1$"
    )
    with pytest.raises(SeamlineError, match=message):
        resolve("default", {"test_scale": 1.1})
    recipe = resolve("default", {"test_scale": 1.125})
    assert build_spec(recipe, ["a", "b"], "float32").seen_size == 160


@pytest.mark.parametrize("scale", [-1.0, 0.5, 2.5])
def test_a_scale_that_makes_no_sense_is_refused(scale: float) -> None:
    with pytest.raises(SeamlineError, match=f"--test_scale={scale}: must lie in 1..2"):
        resolve("default", {"test_scale": scale})
