"""Resizing in TensorFlow against OpenCV's own: equal in every bit."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies

from trainer.data import images, resizing

SIZE = 32

in_tensorflow = tf.function(
    lambda photos: resizing.resize_images(photos, SIZE),
    input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)],
)
labels_in_tensorflow = tf.function(
    resizing.resize_labels,
    input_signature=[
        tf.TensorSpec([None, None, None], tf.uint8),
        *[tf.TensorSpec([], tf.int32)] * 2,
    ],
)


def assert_as_opencv(height: int, width: int, seed: int = 0) -> None:
    random = np.random.default_rng(seed)
    photos = random.integers(0, 256, (2, height, width, 3), np.uint8)
    found = in_tensorflow(photos).numpy()
    assert found.dtype == np.float32
    expected = [images.resize_image(photo, SIZE, SIZE) for photo in photos]
    np.testing.assert_array_equal(found, expected)


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(
    strategies.integers(1, 300), strategies.integers(1, 300), strategies.integers(0, 9)
)
def test_photos_of_any_size_come_out_as_from_opencv(
    height: int, width: int, seed: int
) -> None:
    assert_as_opencv(height, width, seed)


@pytest.mark.parametrize(
    "size",
    [
        *[(32, 32), (64, 64), (96, 96), (96, 160), (64, 96), (128, 32), (33, 31)],
        *[(20, 20), (63, 63), (50, 40), (20, 90), (31, 64), (415, 275), (386, 256)],
    ],
    ids=lambda size: "x".join(map(str, size)),
)
def test_every_kind_of_resizing_comes_out_as_from_opencv(size: tuple[int, int]) -> None:
    assert_as_opencv(*size)


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(strategies.integers(1, 999), strategies.integers(1, 999))
def test_labels_of_any_size_come_out_as_from_opencv(height: int, width: int) -> None:
    labels = np.random.default_rng(0).integers(0, 256, (1, SIZE, SIZE), np.uint8)
    found = labels_in_tensorflow(labels, height, width).numpy()
    expected = images.resize_mask(labels[0], height, width)
    np.testing.assert_array_equal(found[0], expected)
