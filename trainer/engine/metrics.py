"""One confusion matrix; every score comes from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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


def scores(confusion: np.ndarray) -> dict[str, float]:
    """The scores of a confusion matrix, each in 0..1.

    - pixel_accuracy: correct pixels / labelled pixels
    - foreground_accuracy: the same over pixels whose truth is not class 0
    - mean_iou: mean over classes present in the truth of
      `true positives / (truth + predicted - true positives)`
    - mean_iou_all: the same over all classes, 0 for one that is neither present nor
      predicted
    - mean_recall, mean_f1: means over classes present in the truth

    Args:
      confusion: int `[C, C]`, rows are the truth.
    """
    rows = per_class_scores(confusion)
    present = confusion.sum(axis=1) > 0
    hits = np.diag(confusion)

    def mean(name: str, which: np.ndarray) -> float:
        values = rows[name][which]
        return float(values.mean()) if values.size else 0.0

    return {
        "pixel_accuracy": _ratio(hits.sum(), confusion.sum()),
        "foreground_accuracy": _ratio(hits[1:].sum(), confusion[1:].sum()),
        "mean_iou": mean("iou", present),
        "mean_iou_all": float(rows["iou"].mean()),
        "mean_recall": mean("recall", present),
        "mean_f1": mean("f1", present),
    }


def per_class_scores(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """IoU, recall, precision and F1 by class: float `[C]` each, 0 where undefined."""
    hits = np.diag(confusion).astype(np.float64)
    truth, predicted = confusion.sum(axis=1), confusion.sum(axis=0)

    def ratio(bottom: np.ndarray) -> np.ndarray:
        return np.divide(hits, bottom, out=np.zeros_like(hits), where=bottom > 0)

    return {
        "iou": ratio(truth + predicted - hits),
        "recall": ratio(truth),
        "precision": ratio(predicted),
        "f1": ratio((truth + predicted) / 2),
    }


def summary(
    confusion: np.ndarray,
    *,
    label_names: Sequence[str],
    images: Sequence[int] | np.ndarray,
) -> dict[str, Any]:
    """What `scores.json` holds, for one size.

    Args:
      confusion: int `[C, C]`, rows are the truth.
      label_names: C names.
      images: in how many images each class occurs.
    """
    rows = per_class_scores(confusion)
    truth, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    background = np.zeros_like(confusion)
    background[:, 0] = truth

    def value(name: str, label: int, count: int) -> float | None:
        return float(rows[name][label]) if count else None

    per_class = [
        {
            "name": name,
            "iou": value("iou", label, truth[label]),
            "recall": value("recall", label, truth[label]),
            "precision": value("precision", label, predicted[label]),
            "pixels": int(truth[label]),
            "images": int(images[label]),
        }
        for label, name in enumerate(label_names)
    ]
    return {
        **scores(confusion),
        "background_baseline": scores(background),
        "per_class": per_class,
        "confusion": confusion.tolist(),
    }


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0
