"""The boundary F-score against distances of all pairs of boundary pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trainer.engine.boundaries import boundary_f1, boundary_map

CLASSES = 7


def pixels_on_boundary(labels: np.ndarray, label: int) -> np.ndarray:
    """By the definition, pixel after pixel: int `[K, 2]`."""
    height, width = labels.shape
    found = []
    for y, x in np.argwhere(labels == label).tolist():
        for other_y, other_x in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            inside = 0 <= other_y < height and 0 <= other_x < width
            if inside and labels[other_y, other_x] not in (label, 255):
                found.append((y, x))
                break
    return np.array(found).reshape(-1, 2)


def share_near(points: np.ndarray, others: np.ndarray, tolerance: float) -> float:
    """The share of points closer than `tolerance` to another, by all distances."""
    if not len(others):
        return 0.0
    between = points[:, np.newaxis].astype(float) - others[np.newaxis]
    nearest = np.sqrt((between**2).sum(axis=-1)).min(axis=1)
    return float((nearest < tolerance).mean())


def brute_force(truth: np.ndarray, guess: np.ndarray) -> list[float]:
    tolerance = 0.0075 * math.sqrt(truth.shape[0] ** 2 + truth.shape[1] ** 2)
    guess = np.where(truth == 255, 255, guess)
    scores = []
    for label in range(CLASSES):
        true, predicted = (pixels_on_boundary(x, label) for x in (truth, guess))
        if not len(true):
            scores.append(math.nan)
            continue
        recall = share_near(true, predicted, tolerance)
        precision = share_near(predicted, true, tolerance) if len(predicted) else 0.0
        both = precision + recall
        scores.append(2 * precision * recall / both if both else 0.0)
    return scores


def shapes(random: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Blocks of labels with noise, pixels that are ignored, and none of class 5."""
    blocks = random.choice([0, 0, 0, 1, 2, 3, 6, 255], (9, 7)).astype(np.uint8)
    rows, columns = (np.arange(n) * k // n for n, k in zip(size, (9, 7), strict=True))
    labels = blocks[np.ix_(rows, columns)]
    noisy = random.random(size) < 0.02
    labels[noisy] = random.choice([0, 1, 4, 255], noisy.sum())
    return labels


@pytest.mark.parametrize(
    ("size", "reach"),
    [((24, 30), 1), ((128, 128), 2), ((230, 150), 3), ((9, 700), 6)],
)
def test_the_boundary_f_score_is_that_of_all_pairs(
    size: tuple[int, int], reach: int
) -> None:
    assert math.ceil(0.0075 * math.hypot(*size)) == reach
    random = np.random.default_rng(reach)
    truth = shapes(random, size)
    # The same shapes a little lower, one class mistaken for one that is not there.
    guess = np.roll(truth, 2, axis=0)
    guess[guess == 3] = 5
    guess[guess == 255] = 1
    expected = brute_force(truth, guess)
    np.testing.assert_allclose(boundary_f1(truth, guess, CLASSES), expected)
    assert 0 < expected[0] < 1
    assert expected[3] == 0
    assert math.isnan(expected[5])


def half(size: tuple[int, int], column: int) -> np.ndarray:
    labels = np.zeros(size, np.uint8)
    labels[:, column:] = 1
    return labels


def test_what_lies_exactly_at_the_tolerance_is_not_met() -> None:
    size = (240, 320)
    truth = half(size, 100)
    assert 0.0075 * math.hypot(*size) == 3
    for away, score in ((0, 1), (2, 1), (3, 0)):
        found = boundary_f1(truth, half(size, 100 + away), 2)
        np.testing.assert_array_equal(found, [score, score])


def test_the_border_of_the_image_and_ignored_pixels_bound_nothing() -> None:
    labels = half((6, 8), 4)
    labels[2] = 255
    expected = np.full((6, 8), 255, np.uint8)
    expected[:, 3], expected[:, 4], expected[2] = 0, 1, 255
    np.testing.assert_array_equal(boundary_map(labels), expected)
    labels[:, 3:5] = 255
    assert (boundary_map(labels) == 255).all()


def test_predictions_on_ignored_pixels_do_not_count() -> None:
    truth = half((30, 40), 20)
    truth[:10] = 255
    guess = half((30, 40), 20)
    guess[:9, 3:9] = 1
    np.testing.assert_array_equal(boundary_f1(truth, guess, 3)[:2], [1, 1])


def test_an_image_of_one_class_has_no_boundary_to_score() -> None:
    plain = np.zeros((20, 20), np.uint8)
    assert np.isnan(boundary_f1(plain, half((20, 20), 5), 2)).all()
    np.testing.assert_array_equal(boundary_f1(half((20, 20), 5), plain, 2), [0, 0])
