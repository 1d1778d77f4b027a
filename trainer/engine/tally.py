"""Image after image, what all scores of a set need; then what `scores.json` holds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from trainer.engine import metrics
from trainer.engine.boundaries import boundary_f1
from trainer.engine.intervals import bootstrap


class Tally:
    """Counts of images and their predictions.

    An image is kept as three counts and one boundary F-score a class, 16 bytes a class:
    at 59 classes a kilobyte, where its confusion matrix would take 27.

    Args:
      label_names: C names.
    """

    def __init__(self, label_names: Sequence[str]) -> None:
        self._names = list(label_names)
        classes = len(self._names)
        self._confusion = np.zeros((classes, classes), np.int64)
        self._counts: list[np.ndarray] = []
        self._boundary_f1: list[np.ndarray] = []

    def add(self, truth: np.ndarray, predicted: np.ndarray) -> None:
        """Counts one image.

        Args:
          truth: uint8 `[H, W]`, labels or `IGNORE_LABEL`.
          predicted: uint8 `[H, W]`, labels.
        """
        classes = len(self._names)
        confusion = metrics.confusion_matrix(truth, predicted, classes)
        self._confusion += confusion
        self._counts.append(metrics.class_counts(confusion).astype(np.int32))
        found = boundary_f1(truth, predicted, classes)
        self._boundary_f1.append(found.astype(np.float32))

    def summary(self) -> dict[str, Any]:
        """What `scores.json` holds, for one size; at least one image was added."""
        counts = np.stack(self._counts).astype(np.int64)
        boundary = np.stack(self._boundary_f1).astype(np.float64)
        intervals = bootstrap(counts, boundary)
        background = np.zeros_like(self._confusion)
        background[:, 0] = self._confusion.sum(axis=1)
        by_class = [_mean(column) for column in boundary.T.tolist()]
        return {
            "examples": len(counts),
            **metrics.scores(self._confusion),
            "boundary_f1": _mean(by_class) or 0.0,
            "interval": intervals.headline,
            # Where all is background, no boundary is predicted.
            "background_baseline": {**metrics.scores(background), "boundary_f1": 0.0},
            "per_class": [
                {**row, "boundary_f1": met, "iou_interval": ends}
                for row, met, ends in zip(
                    self._rows(counts), by_class, intervals.iou, strict=True
                )
            ],
            "confusion": self._confusion.tolist(),
        }

    def _rows(self, counts: np.ndarray) -> list[dict[str, Any]]:
        """What follows from counts, by class; None where a score says nothing."""
        total = counts.sum(axis=0)
        rows = metrics.class_scores_of_counts(total)
        _, truth, predicted = total

        def value(name: str, label: int, count: int) -> float | None:
            return float(rows[name][label]) if count else None

        return [
            {
                "name": name,
                "iou": value("iou", label, truth[label]),
                "recall": value("recall", label, truth[label]),
                "precision": value("precision", label, predicted[label]),
                "f1": value("f1", label, truth[label]),
                "pixels": int(truth[label]),
                "images": int((counts[:, 1, label] > 0).sum()),
            }
            for label, name in enumerate(self._names)
        ]


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean of those that are numbers, None without any."""
    known = [x for x in values if x is not None and math.isfinite(x)]
    return sum(known) / len(known) if known else None
