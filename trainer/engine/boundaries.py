"""How well boundaries are met: the boundary F-score of an image.

Csurka, Larlus, Perronnin, "What is a good evaluation measure for semantic
segmentation?", BMVC 2013.
"""

from __future__ import annotations

import math

import numpy as np

from trainer.labels import IGNORE_LABEL

TOLERANCE = 0.0075
"""How far boundaries may lie apart, as a share of the image's diagonal."""
_MOVES = 8
"""Looks between two clearings of the pixels that have met another."""


def boundary_f1(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """The boundary F-score of each class in one image.

    Precision is the share of the predicted boundary's pixels that lie closer than
    `TOLERANCE` times the diagonal to the same class's true boundary, recall the share
    of the true boundary's that lie so close to the predicted one; the score is their
    harmonic mean, and 0 where nothing is met. See `boundary_map` for what a boundary
    is; predictions on ignored pixels have none.

    Args:
      truth: uint8 `[H, W]`, labels below `classes` or `IGNORE_LABEL`.
      predicted: uint8 `[H, W]`, labels below `classes`.
      classes: C.

    Returns:
      float64 `[C]` in 0..1; NaN for a class without a boundary in the truth.
    """
    ignored = truth == IGNORE_LABEL
    steps = _steps_within(TOLERANCE * math.hypot(*truth.shape))
    true_map, predicted_map = (
        np.pad(boundary_map(labels), steps.max(), constant_values=IGNORE_LABEL)
        for labels in (truth, np.where(ignored, np.uint8(IGNORE_LABEL), predicted))
    )
    moves = (steps @ [true_map.shape[1], 1]).astype(np.int32)
    true, guess = true_map.ravel(), predicted_map.ravel()
    recall = _share_met(true, guess, moves, classes)
    precision = _share_met(guess, true, moves, classes)
    both = precision + recall
    found = np.zeros(classes)
    np.divide(2 * precision * recall, both, out=found, where=both > 0)
    # Without a predicted boundary there is no precision, and nothing is met.
    return np.where(np.isnan(recall), np.nan, found)


def boundary_map(labels: np.ndarray) -> np.ndarray:
    """The label of each boundary pixel, `IGNORE_LABEL` elsewhere: uint8 `[H, W]`.

    A pixel is on the boundary of its class if it touches, by an edge, a pixel of
    another class. Neither the border of the image nor ignored pixels bound anything:
    nobody knows what lies there.

    Args:
      labels: uint8 `[H, W]`.
    """
    known = labels != IGNORE_LABEL
    edge = np.zeros(labels.shape, bool)
    for near, far in (
        (np.s_[:-1, :], np.s_[1:, :]),
        (np.s_[:, :-1], np.s_[:, 1:]),
    ):
        differ = (labels[near] != labels[far]) & known[near] & known[far]
        edge[near] |= differ
        edge[far] |= differ
    return np.where(edge, labels, np.uint8(IGNORE_LABEL))


def _steps_within(distance: float) -> np.ndarray:
    """Steps (down, right) shorter than `distance`, the shortest first: int `[K, 2]`."""
    reach = math.ceil(distance)
    axis = np.arange(-reach, reach + 1)
    steps = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    length = (steps**2).sum(axis=1)
    order = np.argsort(length, kind="stable")
    return steps[order][length[order] < distance**2]


def _share_met(
    boundary: np.ndarray, other: np.ndarray, moves: np.ndarray, classes: int
) -> np.ndarray:
    """By class, the share of boundary pixels that have one of the other map around.

    A pixel is on the boundary of one class alone, so one look at the other map tells
    for all classes; and boundary pixels alone look around, until they have met one. A
    distance transform visits all pixels of the image once a class: it takes four times
    as long at 825x550.

    Args:
      boundary, other: uint8 `[P]`, flattened maps with a margin as wide as any move.
      moves: int32 `[K]`, from a pixel to those around it, the nearest first.
      classes: C.

    Returns:
      float64 `[C]`, NaN for a class without a boundary pixel.
    """
    place = np.flatnonzero(boundary != IGNORE_LABEL).astype(np.int32)
    labels = boundary[place]
    total = np.bincount(labels, minlength=classes)
    there = np.zeros(classes, bool)
    there[other[other != IGNORE_LABEL]] = True
    hopeful = there[labels]
    unmet = np.bincount(labels[~hopeful], minlength=classes)
    place, labels = place[hopeful], labels[hopeful]
    for start in range(0, len(moves), _MOVES):
        met = np.zeros(len(place), bool)
        for move in moves[start : start + _MOVES]:
            met |= other.take(place + move) == labels
        place, labels = place[~met], labels[~met]
        if not place.size:
            break
    unmet += np.bincount(labels, minlength=classes)
    shares = np.full(classes, np.nan)
    return np.divide(total - unmet, total, out=shares, where=total > 0)
