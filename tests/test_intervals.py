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


def bootstrap(truth: np.ndarray, guess: np.ndarray, resamples: int = 105) -> object:
    counts, boundary = [], []
    for pair in zip(truth, guess, strict=True):
        confusion = metrics.confusion_matrix(*pair, CLASSES)
        counts.append(metrics.class_counts(confusion))
        boundary.append(boundary_f1(*pair, CLASSES))
    return intervals.bootstrap(
        np.array(counts), np.array(boundary), resamples=resamples
    )


def class_scores(truth: np.ndarray, guess: np.ndarray) -> dict[str, list]:
    """Each of every class, from the pixels of all images; None where it is absent."""
    valid = truth != 255
    pair = truth[valid], guess[valid]
    over = {"labels": range(CLASSES), "average": None, "zero_division": 0}
    boundary = np.array(
        [boundary_f1(*x, CLASSES) for x in zip(truth, guess, strict=True)]
    )
    names = ("precision", "recall", "f1")
    measured = sklearn.metrics.precision_recall_fscore_support(*pair, **over)
    found = dict(zip(names, measured, strict=False))
    found["iou"] = sklearn.metrics.jaccard_score(*pair, **over)
    present = [(truth == label).any() for label in range(CLASSES)]
    bounded = [x[~np.isnan(x)] for x in boundary.T]
    return {
        name: [x if there else None for x, there in zip(values, present, strict=True)]
        for name, values in found.items()
    } | {"boundary_f1": [x.mean() if len(x) else None for x in bounded]}


def headline(
    truth: np.ndarray, guess: np.ndarray, whole: dict[str, list]
) -> dict[str, float]:
    """Scores of repeated images; a class that they lack keeps its score of the set."""
    valid = truth != 255
    pair = truth[valid], guess[valid]
    front = pair[0] > 0
    own = class_scores(truth, guess)
    kept = {
        name: [x if y is None else y for x, y in zip(values, own[name], strict=True)]
        for name, values in whole.items()
    }
    means = {name: np.mean([x for x in kept[name] if x is not None]) for name in kept}
    return {
        "pixel_accuracy": sklearn.metrics.accuracy_score(*pair),
        "foreground_accuracy": np.mean(pair[0][front] == pair[1][front]),
        "mean_iou": means["iou"],
        "mean_iou_all": sum(x or 0 for x in kept["iou"]) / CLASSES,
        "frequency_weighted_iou": sklearn.metrics.jaccard_score(
            *pair, labels=np.unique(pair[0]), average="weighted"
        ),
        "mean_recall": means["recall"],
        "mean_precision": means["precision"],
        "mean_f1": means["f1"],
        "boundary_f1": means["boundary_f1"],
    }


def test_intervals_are_percentiles_of_scores_of_repeated_images(
    images: tuple[np.ndarray, np.ndarray],
) -> None:
    random, whole = np.random.default_rng(0), class_scores(*images)
    rows, ious = [], []
    # More than are summed up at once.
    for _ in range(105):
        chosen = random.integers(IMAGES, size=IMAGES)
        drawn = [x[chosen] for x in images]
        rows.append(headline(*drawn, whole))
        ious.append(class_scores(*drawn)["iou"])
    found = bootstrap(*images)
    assert len(found.headline) == 9
    for name, ends in found.headline.items():
        expected = np.percentile([row[name] for row in rows], [2.5, 97.5])
        np.testing.assert_allclose(ends, expected, atol=1e-12, err_msg=name)
        assert ends[0] < ends[1]
    for label in range(4):
        values = [row[label] for row in ious if row[label] is not None]
        expected = np.percentile(values, [2.5, 97.5])
        np.testing.assert_allclose(found.iou[label], expected, atol=1e-12)
    assert any(row[3] is None for row in ious)


def test_a_rare_class_that_is_never_found_does_not_lift_the_interval() -> None:
    """Each of three classes is in one image: a third of all resamples lacks it."""
    truth = np.zeros((12, 6, 6), np.uint8)
    truth[:, 3:] = 1
    guess = truth.copy()
    for label in (2, 3, 4):
        truth[2 * label, :1] = label
    whole = metrics.confusion_matrix(truth, guess, CLASSES)
    score = metrics.scores(whole)["mean_iou"]
    low, high = bootstrap(truth, guess).headline["mean_iou"]
    assert low < score < high <= 2 / 5


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
