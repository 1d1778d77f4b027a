"""Scores of counts: one confusion matrix gives all that ask how pixels are classed.

All of them follow from three counts a class, so images are kept by these alone: `hits`
(truth and prediction agree), `truth` and `predicted`, int `[..., 3, C]`.
"""

from __future__ import annotations

import numpy as np

from trainer.labels import IGNORE_LABEL


def confusion_matrix(
    truth: np.ndarray, predicted: np.ndarray, classes: int
) -> np.ndarray:
    """Counts pixels: int64 `[C, C]`, rows are the truth, columns the prediction.

    Args:
      truth: uint8, any shape; pixels of `IGNORE_LABEL` are left out.
      predicted: uint8, the same shape, ids below `classes`.
      classes: C.
    """
    valid = truth != IGNORE_LABEL
    pairs = truth[valid].astype(np.int64) * classes + predicted[valid]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def class_counts(confusion: np.ndarray) -> np.ndarray:
    """Hits, truth and predicted pixels of each class: int `[C, C]` -> `[3, C]`."""
    return np.stack([np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)])


def scores(confusion: np.ndarray) -> dict[str, float]:
    """The scores of a confusion matrix, each in 0..1; see `scores_of_counts`.

    Args:
      confusion: int `[C, C]`, rows are the truth.
    """
    found = scores_of_counts(class_counts(confusion))
    return {name: float(value) for name, value in found.items()}


def scores_of_counts(
    counts: np.ndarray, whole: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """The scores of counts, each in 0..1, float64 `[...]`; 0 without a labelled pixel.

    - pixel_accuracy: correct pixels / labelled pixels
    - foreground_accuracy: the same over pixels whose truth is not class 0
    - mean_iou: mean over classes present in the truth of
      `true positives / (truth + predicted - true positives)`
    - mean_iou_all: the same over all classes, 0 for one that is neither present nor
      predicted
    - frequency_weighted_iou: mean over classes, weighted by their pixels in the truth
      (Long, Shelhamer, Darrell, "Fully Convolutional Networks", CVPR 2015)
    - mean_recall, mean_precision, mean_f1: means over classes present in the truth; the
      precision of one that is never predicted counts as 0

    Args:
      counts: numbers `[..., 3, C]`, see `class_counts`.
      whole: numbers `[3, C]`, counts of the set that `counts` are resamples of. Means
        run over its classes, and one that a resample lacks keeps its score of the set;
        else a resample that lost a rare, badly learned class would seem better.
    """
    hits, truth, _ = np.moveaxis(counts, -2, 0)
    rows, present = class_scores_of_counts(counts), truth > 0
    if whole is not None:
        of_whole = class_scores_of_counts(whole)
        rows = {name: np.where(present, rows[name], of_whole[name]) for name in rows}
        present = whole[1] > 0

    def mean(name: str) -> np.ndarray:
        return _ratio((rows[name] * present).sum(axis=-1), present.sum(axis=-1))

    labelled = truth.sum(axis=-1)
    return {
        "pixel_accuracy": _ratio(hits.sum(axis=-1), labelled),
        "foreground_accuracy": _ratio(
            hits[..., 1:].sum(axis=-1), truth[..., 1:].sum(axis=-1)
        ),
        "mean_iou": mean("iou"),
        "mean_iou_all": rows["iou"].mean(axis=-1),
        "frequency_weighted_iou": _ratio((rows["iou"] * truth).sum(axis=-1), labelled),
        "mean_recall": mean("recall"),
        "mean_precision": mean("precision"),
        "mean_f1": mean("f1"),
    }


def class_scores_of_counts(counts: np.ndarray) -> dict[str, np.ndarray]:
    """IoU, recall, precision and F1 by class: float64 `[..., C]`, 0 where undefined.

    Args:
      counts: numbers `[..., 3, C]`, see `class_counts`.
    """
    hits, truth, predicted = np.moveaxis(counts, -2, 0)
    return {
        "iou": _ratio(hits, truth + predicted - hits),
        "recall": _ratio(hits, truth),
        "precision": _ratio(hits, predicted),
        "f1": _ratio(2 * hits, truth + predicted),
    }


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    part, whole = np.asarray(part, np.float64), np.asarray(whole)
    return np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)
