"""Weights of classes from how often they occur.

A class that never occurs weighs 1: no pixel asks for its weight.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def median_frequency(shares: Sequence[float], power: float) -> np.ndarray:
    """`(median / share) ** power`.

    Median-frequency balancing (Eigen, Fergus, "Predicting Depth, Surface Normals and
    Semantic Labels with a Common Multi-Scale Convolutional Architecture", 2015),
    softened by the power: at 1 the rarest of CCP's classes would weigh 10^5 times as
    much as its background.

    Args:
      shares: share of pixels of each of C classes.
      power: 0 weighs all classes alike.

    Returns:
      float64 `[C]`.
    """
    values = np.asarray(shares, np.float64)
    present = values > 0
    weights = np.ones(values.shape)
    if present.any():
        weights[present] = (np.median(values[present]) / values[present]) ** power
    return weights


def effective_number(images: Sequence[int], beta: float) -> np.ndarray:
    """`(1 - beta) / (1 - beta ** n)`, scaled to a mean of 1 over classes that occur.

    Cui, Jia, Lin, Song, Belongie, "Class-Balanced Loss Based on Effective Number of
    Samples", CVPR 2019. Its samples are images, n those that hold the class: the pixels
    of one image are so much alike that they add next to nothing to each other.

    Args:
      images: number of images that hold each of C classes.
      beta: in [0, 1); 0 weighs all classes alike, near 1 by one over n.

    Returns:
      float64 `[C]`.
    """
    counts = np.asarray(images, np.float64)
    present = counts > 0
    weights = np.ones(counts.shape)
    if present.any():
        inverse = (1 - beta) / (1 - beta ** counts[present])
        weights[present] = inverse / inverse.mean()
    return weights
