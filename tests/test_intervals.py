"""Bootstrap intervals against scores computed anew from the repeated images."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics

from trainer.engine import intervals, metrics
from trainer.engine.boundaries import boundary_f1

CLASSES = 6
IMAGES = 7


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray, np.ndarray]:
    """Class 3 in two images, class 4 in one, class 5 in none; ignored pixels."""
    random = np.random.default_rng(8)
    truth = random.choice([0, 0, 1, 2, 255], (IMAGES, 16, 12)).astype(np.uint8)
    truth[2:4, 3:9] = 3
    truth[5, :4] = 4
    guess = random.integers(0, CLASSES, truth.shape).astype(np.uint8)
    # Some images are easier than others.
    easy = np.linspace(0.2, 0.9, IMAGES)[:, np.newaxis, np.newaxis]
    agree = (random.random(truth.shape) < easy) & (truth != 255)
    guess[agree] = truth[agree]
    return truth, guess


def bootstrap(truth: np.ndarray, guess: np.ndarray, resamples: int = 120) -> object:
    counts, boundary = [], []
    for pair in zip(truth, guess, strict=True):
        confusion = metrics.confusion_matrix(*pair, CLASSES)
        counts.append(metrics.class_counts(confusion))
        boundary.append(boundary_f1(*pair, CLASSES))
    return intervals.bootstrap(
        np.array(counts), np.array(boundary), resamples=resamples
    )


def scores_of_pixels(truth: np.ndarray, guess: np.ndarray) -> dict[str, float]:
    """From the pixels of all images, by scikit-learn."""
    valid = truth != 255
    pair = truth[valid], guess[valid]
    front = pair[0] > 0
    present = np.unique(pair[0])
    over = {"labels": present, "average": "macro", "zero_division": 0}
    iou = sklearn.metrics.jaccard_score(
        *pair, labels=range(CLASSES), average=None, zero_division=0
    )
    boundary = [
        boundary_f1(*image, CLASSES) for image in zip(truth, guess, strict=True)
    ]
    classes = [
        np.mean([x[label] for x in boundary if not np.isnan(x[label])])
        for label in range(CLASSES)
        if any(not np.isnan(x[label]) for x in boundary)
    ]
    return {
        "pixel_accuracy": sklearn.metrics.accuracy_score(*pair),
        "foreground_accuracy": np.mean(pair[0][front] == pair[1][front]),
        "mean_iou": iou[present].mean(),
        "mean_iou_all": iou.mean(),
        "frequency_weighted_iou": sklearn.metrics.jaccard_score(
            *pair, labels=present, average="weighted"
        ),
        "mean_recall": sklearn.metrics.recall_score(*pair, **over),
        "mean_precision": sklearn.metrics.precision_score(*pair, **over),
        "mean_f1": sklearn.metrics.f1_score(*pair, **over),
        "boundary_f1": np.mean(classes),
        **{label: iou[label] for label in present},
    }


def test_intervals_are_percentiles_of_scores_of_repeated_images(
    images: tuple[np.ndarray, np.ndarray],
) -> None:
    truth, guess = images
    random = np.random.default_rng(0)
    rows = []
    # More than are summed up at once.
    for _ in range(120):
        chosen = random.integers(IMAGES, size=IMAGES)
        rows.append(scores_of_pixels(truth[chosen], guess[chosen]))
    found = bootstrap(truth, guess)
    assert len(found.headline) == 9
    for name, ends in found.headline.items():
        expected = np.percentile([row[name] for row in rows], [2.5, 97.5])
        np.testing.assert_allclose(ends, expected, atol=1e-12, err_msg=name)
        assert ends[0] < ends[1]
    for label in range(4):
        values = [row[label] for row in rows if label in row]
        expected = np.percentile(values, [2.5, 97.5])
        np.testing.assert_allclose(found.iou[label], expected, atol=1e-12)
    assert len([row for row in rows if 3 in row]) < 120


def test_one_image_says_nothing_of_others(
    images: tuple[np.ndarray, np.ndarray],
) -> None:
    found = bootstrap(*images)
    # Of one image, and of none.
    assert found.iou[4:] == [None, None]
    alone = bootstrap(images[0][:1], images[1][:1])
    assert set(alone.headline.values()) == {None}
    assert alone.iou == [None] * CLASSES


def test_images_without_a_boundary_leave_the_other_intervals(
    images: tuple[np.ndarray, np.ndarray],
) -> None:
    truth = np.repeat(np.array([0, 0, 1], np.uint8), 192).reshape(3, 16, 12)
    found = bootstrap(truth, images[1][:3])
    assert found.headline["boundary_f1"] is None
    assert found.headline["pixel_accuracy"] is not None


def test_the_same_images_have_the_same_intervals(
    images: tuple[np.ndarray, np.ndarray],
) -> None:
    assert bootstrap(*images) == bootstrap(*images)


def test_intervals_shrink_as_one_over_the_square_root_of_the_images(
    images: tuple[np.ndarray, np.ndarray],
) -> None:
    def width(times: int) -> float:
        repeated = (np.concatenate([x] * times) for x in images)
        low, high = bootstrap(*repeated, resamples=1000).headline["pixel_accuracy"]
        return high - low

    assert width(16) == pytest.approx(width(1) / 4, rel=0.1)
