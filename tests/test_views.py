"""Test-time augmentation against the same by hand, in NumPy."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import keras
import numpy as np
import pytest

from tests.tiny import tiny
from trainer.engine import evaluation, views
from trainer.errors import SeamlineError
from trainer.model import decoders
from trainer.model.encoders import ENCODERS, Encoder
from trainer.model.unet import ModelSpec, build_model

SPEC = ModelSpec(
    encoder="tiny",
    encoder_training="full",
    preprocessing="unit",
    image_size=64,
    batch_norm_momentum=0.9,
    precision="float32",
    label_names=[str(label) for label in range(5)],
)


@pytest.fixture(scope="module")
def model() -> Iterator[keras.Model]:
    """A small U-Net whose answers depend on the place, and differ if mirrored."""
    skips = tuple(f"stage_{index}" for index in range(5))
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(ENCODERS, "tiny", Encoder(tiny, skips, (1 / 255, 0.0), ""))
        patched.setattr(decoders, "UPSAMPLE_FILTERS", (16, 12, 8, 6))
        keras.utils.set_random_seed(3)
        built = build_model(SPEC)
        logits = built.get_layer("logits")
        seen = np.random.default_rng(3).integers(0, 256, (4, 64, 64, 3))
        logits.kernel.assign(logits.kernel * (2 / np.std(built(seen.astype("f4")))))
        yield built


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Seventeen: a batch and one more."""
    random = np.random.default_rng(4)
    coarse = random.integers(0, 256, (17, 8, 8, 3))
    return np.kron(coarse, np.ones((1, 8, 8, 1), int)).astype(np.uint8)


def resize(values: np.ndarray, size: int) -> np.ndarray:
    """Bilinear with half-pixel centres; a wider triangle where it shrinks."""
    old = values.shape[1]
    ratio = old / size
    centres = (np.arange(size) + 0.5) * ratio
    away = (np.arange(old) + 0.5)[np.newaxis] - centres[:, np.newaxis]
    weights = np.maximum(0, 1 - np.abs(away) / max(ratio, 1))
    weights /= weights.sum(axis=1, keepdims=True)
    rows = np.einsum("yi,bijc->byjc", weights, values)
    return np.einsum("xj,byjc->byxc", weights, rows)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def by_hand(
    model: keras.Model,
    images: np.ndarray,
    sizes: list[int],
    *,
    flip: bool,
    known: np.ndarray | None = None,
) -> np.ndarray:
    """Mean probabilities of all views, float64 `[N, S, S, C]`, over `known` classes."""
    unknown = np.zeros(5) if known is None else np.where(known, 0, -np.inf)
    parts = []
    for size in sizes:
        net = build_model(dataclasses.replace(SPEC, image_size=size))
        net.set_weights(model.get_weights())
        for mirrored in (False, True) if flip else (False,):
            seen = resize(images.astype(float), size)
            seen = seen[:, :, ::-1] if mirrored else seen
            found = softmax(np.array(net(seen, training=False), float) + unknown)
            found = found[:, :, ::-1] if mirrored else found
            parts.append(resize(found, SPEC.image_size))
    return np.mean(parts, axis=0)


def assert_labels(labels: np.ndarray, expected: np.ndarray) -> None:
    """Equal, but where the two best classes are as good as alike."""
    best = np.sort(expected, axis=-1)
    clear = best[..., -1] - best[..., -2] > 1e-5
    assert clear.mean() > 0.99
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels[clear], expected.argmax(axis=-1)[clear])


@pytest.mark.parametrize(
    ("sizes", "flip"),
    [([64], True), ([96, 32], True)],
)
def test_labels_are_those_of_the_mean_probabilities(
    sizes: list[int], flip: bool, model: keras.Model, images: np.ndarray
) -> None:
    predict = views.compile_views(model, SPEC, flip=flip, sizes=sizes)
    labels, scored = predict(images)
    np.testing.assert_array_equal(labels, scored)
    assert_labels(labels, by_hand(model, images, sizes, flip=flip))
    plain = evaluation.compile_predictor(model)(images)
    assert 0.01 < (labels != plain).mean() < 0.9


@pytest.mark.parametrize(
    ("score_size", "sizes", "flip"),
    [(32, [64], False), (20, [96, 32], True), (96, [64], True), (64, [96], False)],
)
def test_labels_at_another_size_are_those_of_the_resized_mean_probabilities(
    score_size: int,
    sizes: list[int],
    flip: bool,
    model: keras.Model,
    images: np.ndarray,
) -> None:
    values = {"flip": flip, "sizes": sizes, "score_size": score_size}
    labels, scored = views.compile_views(model, SPEC, **values)(images)
    mean = by_hand(model, images, sizes, flip=flip)
    assert_labels(labels, mean)
    assert scored.shape == (17, score_size, score_size)
    assert_labels(scored, resize(mean, score_size))


def test_one_view_is_the_plain_prediction(
    model: keras.Model, images: np.ndarray
) -> None:
    labels, _ = views.compile_views(model, SPEC)(images)
    np.testing.assert_array_equal(labels, evaluation.compile_predictor(model)(images))


def test_a_barred_class_gives_way_to_the_next_best(
    model: keras.Model, images: np.ndarray
) -> None:
    plain = by_hand(model, images, [64], flip=False).argmax(axis=-1)
    often = int(np.bincount(plain.ravel()).argmax())
    barred = np.arange(5) == often
    values = {"flip": True, "barred": barred, "score_size": 96}
    labels, larger = views.compile_views(model, SPEC, **values)(images)
    expected = by_hand(model, images, [64], flip=True, known=~barred)
    assert_labels(labels, expected)
    assert_labels(larger, resize(expected, 96))
    assert not (labels == often).any()
    assert not (larger == often).any()


@pytest.mark.parametrize(
    ("scales", "image_size", "sizes"),
    [
        ("1", 128, [128]),
        ("0.75,1,1.25", 128, [96, 128, 160]),
        ("1.25,0.5", 96, [128, 64]),
        ("0.1", 64, [32]),
    ],
)
def test_scales_are_sizes_in_multiples_of_32(
    scales: str, image_size: int, sizes: list[int]
) -> None:
    assert views.view_sizes(scales, image_size) == sizes


@pytest.mark.parametrize(
    ("scales", "line"),
    [
        ("", "--scales=: '' is no number above 0; give numbers joined by commas"),
        ("1,big", "--scales=1,big: 'big' is no number above 0; give numbers"),
        ("0", "--scales=0: '0' is no number above 0"),
        ("1,inf", "--scales=1,inf: 'inf' is no number above 0"),
        ("nan", "--scales=nan: 'nan' is no number above 0"),
        (
            "1,1.1",
            "--scales=1,1.1: 1 and 1.1 both come to 64 pixels, the nearest multiple of "
            "32; leave one of them out",
        ),
    ],
)
def test_scales_that_cannot_be_are_one_line(scales: str, line: str) -> None:
    with pytest.raises(SeamlineError) as caught:
        views.view_sizes(scales, 64)
    assert str(caught.value).startswith(line)
