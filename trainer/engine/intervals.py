"""How far scores would move on other images of the same kind: bootstrap intervals.

Percentile intervals (Efron, Tibshirani, "An Introduction to the Bootstrap", 1993,
chapter 13) over images, since pixels of one image are not independent.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from trainer.engine.metrics import class_scores_of_counts, scores_of_counts

RESAMPLES = 1000
LEVEL = 0.95
SEED = 0
_AT_ONCE = 100
_LEAST_IMAGES = 2

Interval = list[float] | None
"""Lower and upper end; None where fewer than two images say anything."""


@dataclasses.dataclass(frozen=True)
class Intervals:
    """Intervals of the scores of a set.

    Attributes:
      headline: by name, those of `scores_of_counts` and of `boundary_f1`.
      iou: C, by class.
    """

    headline: dict[str, Interval]
    iou: list[Interval]


def bootstrap(
    counts: np.ndarray, boundary_f1: np.ndarray, *, resamples: int = RESAMPLES
) -> Intervals:
    """95 % intervals from scores of resamples: N of the N images, with repetition.

    Resample r holds the images `rng.integers(N, size=N)`, the r-th such draw of
    `numpy.random.default_rng(SEED)`. Means run over the classes of the whole set, see
    `scores_of_counts`; the IoU of a class alone counts in the resamples that have it.

    Args:
      counts: int `[N, 3, C]`, `class_counts` of each image.
      boundary_f1: float `[N, C]`, see `boundaries.boundary_f1`; NaN where a class has
        no boundary.
      resamples: how many.
    """
    images, _, classes = counts.shape
    known = np.isfinite(boundary_f1)
    # Sums over a resample's images are all that its scores need.
    table = np.concatenate(
        [counts.reshape(images, -1), np.where(known, boundary_f1, 0), known], axis=1
    ).astype(np.float64)
    random, parts = np.random.default_rng(SEED), []
    for start in range(0, resamples, _AT_ONCE):
        draws = min(_AT_ONCE, resamples - start)
        parts.append(_weights(random, images, draws) @ table)
    sums = np.concatenate(parts)
    drawn = sums[:, : 3 * classes].reshape(-1, 3, classes)
    headline = {
        **scores_of_counts(drawn, counts.sum(axis=0)),
        "boundary_f1": _mean_boundary(sums[:, 3 * classes :], boundary_f1),
    }
    iou = np.where(drawn[:, 1] > 0, class_scores_of_counts(drawn)["iou"], np.nan)
    supports = (counts[:, 1] > 0).sum(axis=0)
    bounded = int(known.any(axis=1).sum())
    return Intervals(
        headline={
            name: _interval(values, bounded if name == "boundary_f1" else images)
            for name, values in headline.items()
        },
        iou=[_interval(*pair) for pair in zip(iou.T, supports, strict=True)],
    )


def _weights(random: np.random.Generator, images: int, draws: int) -> np.ndarray:
    """How often each image comes in each resample: float64 `[draws, images]`."""
    rows = [
        np.bincount(random.integers(images, size=images), minlength=images)
        for _ in range(draws)
    ]
    return np.array(rows, np.float64)


def _mean_boundary(sums: np.ndarray, boundary_f1: np.ndarray) -> np.ndarray:
    """The boundary F-score of each resample, float64 `[R]`; NaN without a boundary.

    Args:
      sums: float64 `[R, 2C]`, by class: scores added up, and in how many images.
      boundary_f1: float `[N, C]` of the whole set, with NaN.
    """
    total, count = np.split(sums, 2, axis=1)
    known = np.isfinite(boundary_f1)
    there = known.any(axis=0)
    if not there.any():
        return np.full(len(sums), np.nan)
    whole = np.where(known, boundary_f1, 0).sum(axis=0) / np.maximum(
        known.sum(axis=0), 1
    )
    means = np.where(count > 0, total / np.maximum(count, 1), whole)
    return means[:, there].mean(axis=1)


def _interval(values: np.ndarray, images: int) -> Interval:
    values = values[np.isfinite(values)]
    if images < _LEAST_IMAGES or not values.size:
        return None
    tail = 50 * (1 - LEVEL)
    return [float(x) for x in np.percentile(values, [tail, 100 - tail])]
