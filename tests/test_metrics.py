from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics

from trainer.engine import evaluation, metrics
from trainer.engine.boundaries import boundary_f1
from trainer.engine.tally import Tally

CLASSES = 9


def truth_and_guess(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """With ignored pixels, classes absent from the truth and from the prediction."""
    random = np.random.default_rng(seed)
    truth = random.choice([0, 1, 2, 3, 5, 8, 255], (4, 20, 30)).astype(np.uint8)
    guess = random.integers(0, CLASSES - 1, truth.shape).astype(np.uint8)
    agree = random.random(truth.shape) < 0.5
    guess[agree & (truth != 255)] = truth[agree & (truth != 255)]
    guess[guess == 3] = 2
    return truth, guess


@pytest.mark.parametrize("seed", range(5))
def test_the_confusion_matrix_is_scikit_learns_without_ignored_pixels(
    seed: int,
) -> None:
    truth, guess = truth_and_guess(seed)
    valid = truth != 255
    theirs = sklearn.metrics.confusion_matrix(
        truth[valid], guess[valid], labels=range(CLASSES)
    )
    ours = metrics.confusion_matrix(truth, guess, CLASSES)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_scikit_learns(seed: int) -> None:
    truth, guess = truth_and_guess(seed)
    ours = metrics.scores(metrics.confusion_matrix(truth, guess, CLASSES))
    valid = truth != 255
    pair = truth[valid], guess[valid]
    present = np.unique(pair[0])
    foreground = pair[0] > 0
    theirs = {
        "pixel_accuracy": sklearn.metrics.accuracy_score(*pair),
        "foreground_accuracy": sklearn.metrics.accuracy_score(
            pair[0][foreground], pair[1][foreground]
        ),
        "mean_iou": sklearn.metrics.jaccard_score(
            *pair, labels=present, average="macro"
        ),
        "mean_iou_all": sklearn.metrics.jaccard_score(
            *pair, labels=range(CLASSES), average="macro", zero_division=0
        ),
        "mean_recall": sklearn.metrics.recall_score(
            *pair, labels=present, average="macro"
        ),
        "frequency_weighted_iou": sklearn.metrics.jaccard_score(
            *pair, labels=present, average="weighted"
        ),
        "mean_precision": sklearn.metrics.precision_score(
            *pair, labels=present, average="macro", zero_division=0
        ),
        "mean_f1": sklearn.metrics.f1_score(*pair, labels=present, average="macro"),
    }
    assert ours == pytest.approx(theirs)


def summary_of(truth: np.ndarray, guess: np.ndarray) -> dict:
    """Of the images of `truth_and_guess`, one added after the other."""
    tally = Tally([f"class {label}" for label in range(CLASSES)])
    for pair in zip(truth, guess, strict=True):
        tally.add(*pair)
    return tally.summary()


@pytest.mark.parametrize("seed", range(3))
def test_the_summary_is_that_of_all_images_together(seed: int) -> None:
    truth, guess = truth_and_guess(seed)
    confusion = metrics.confusion_matrix(truth, guess, CLASSES)
    summary = summary_of(truth, guess)
    assert summary["confusion"] == confusion.tolist()
    assert summary["examples"] == 4
    assert {name: summary[name] for name in metrics.scores(confusion)} == (
        metrics.scores(confusion)
    )
    valid = truth != 255
    found = sklearn.metrics.precision_recall_fscore_support(
        truth[valid], guess[valid], labels=range(CLASSES), zero_division=0
    )
    for label, row in enumerate(summary["per_class"]):
        precision, recall, f1, pixels = (float(x[label]) for x in found)
        assert row["name"] == f"class {label}"
        assert row["pixels"] == pixels
        assert row["images"] == sum(bool((mask == label).any()) for mask in truth)
        predicted = (guess[valid] == label).any()
        assert row["precision"] == (pytest.approx(precision) if predicted else None)
        assert row["recall"] == (pytest.approx(recall) if pixels else None)
        assert row["f1"] == (pytest.approx(f1) if pixels else None)


def test_boundary_scores_are_means_over_images_then_over_classes() -> None:
    truth, guess = truth_and_guess(1)
    truth[0, truth[0] == 3] = 255
    summary = summary_of(truth, guess)
    images = [boundary_f1(*pair, CLASSES) for pair in zip(truth, guess, strict=True)]
    expected = []
    for label, row in enumerate(summary["per_class"]):
        values = [image[label] for image in images if not np.isnan(image[label])]
        assert len(values) == (0 if label in (4, 6, 7) else 3 if label == 3 else 4)
        if values:
            expected.append(np.mean(values))
            assert row["boundary_f1"] == pytest.approx(expected[-1])
        else:
            assert row["boundary_f1"] is None
    assert summary["boundary_f1"] == pytest.approx(np.mean(expected))


def test_the_summary_has_the_all_background_row_beside() -> None:
    truth, guess = truth_and_guess(0)
    summary = summary_of(truth, guess)
    nothing = np.zeros_like(guess)
    confusion = metrics.confusion_matrix(truth, nothing, CLASSES)
    everywhere = summary_of(truth, nothing)
    row = summary["background_baseline"]
    assert row == {**metrics.scores(confusion), "boundary_f1": 0}
    assert row == {name: everywhere[name] for name in row}
    absent, unpredicted = summary["per_class"][4], summary["per_class"][3]
    assert (absent["iou"], absent["recall"], absent["pixels"]) == (None, None, 0)
    assert (absent["f1"], absent["boundary_f1"], absent["iou_interval"]) == (None,) * 3
    assert absent["precision"] == 0
    assert unpredicted["precision"] is None
    assert unpredicted["iou"] == 0


def test_an_empty_matrix_scores_zero_without_a_warning() -> None:
    assert set(metrics.scores(np.zeros((3, 3), int)).values()) == {0.0}


def test_evaluation_scores_both_sizes_and_counts_every_example() -> None:
    from trainer.data.examples import in_memory

    small = np.zeros((2, 32, 32), np.uint8)
    small[:, 16:] = 1
    native = [np.zeros((64, 48), np.uint8), np.zeros((96, 32), np.uint8)]
    for mask in native:
        mask[mask.shape[0] // 2 :] = 1
    native[1][:] = 255
    native[1][0, 0] = 2
    # Images that hold their labels: the "model" reads them off.
    images = np.repeat(small[..., np.newaxis], 3, axis=-1)
    found, names = in_memory(["a", "b"], images, small), ["x", "y", "z"]
    scores = evaluation.evaluate(
        lambda photos: (photos[..., 0], photos[..., 0]),
        found,
        native,
        label_names=names,
    )
    assert scores["examples"] == 2
    assert scores["score_size"] == 32
    assert scores["mean_iou"] == 1
    assert scores["per_class"][1]["images"] == 2
    assert scores["native"]["confusion"] == [[1536, 0, 0], [0, 1536, 0], [1, 0, 0]]
    assert [row["images"] for row in scores["native"]["per_class"]] == [1, 1, 1]
    # At another size, other truths; the original size does not know of it.
    tiny = np.zeros((2, 4, 4), np.uint8)
    tiny[:, 3] = 2
    sized = evaluation.evaluate(
        lambda photos: (photos[..., 0], photos[:, ::8, ::8, 0]),
        found,
        native,
        label_names=names,
        truths=in_memory(["a", "b"], np.repeat(tiny[..., np.newaxis], 3, -1), tiny),
    )
    assert sized["score_size"] == 4
    assert sized["confusion"] == [[16, 8, 0], [0, 0, 0], [0, 8, 0]]
    assert sized["native"] == scores["native"]
