"""Marks on photos: hatching of ignored pixels, one class that stands out."""

from __future__ import annotations

import cv2
import numpy as np

from trainer.labels import IGNORE_LABEL
from trainer.results.figures import overlay

_HALO = np.array([201, 42, 42], np.uint8)
_SMALL = 0.01
"""Regions below this share of their picture get a halo, or nobody would find them."""


def hatch(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A copy of uint8 `[h, w, 3]` with grey diagonal stripes where the mask is 255."""
    rows, columns = np.indices(mask.shape)
    stripes = np.where((rows + columns) // 4 % 2, 110, 190).astype(np.uint8)
    return np.where((mask == IGNORE_LABEL)[..., None], stripes[..., None], picture)


def _halo(region: np.ndarray) -> np.ndarray:
    """Where to draw a ring, three pixels wide, around bool `[h, w]`."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (23, 23))
    near = cv2.dilate(region.astype(np.uint8), disc)
    rim = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))
    return cv2.dilate(near, rim) > near


def emphasise(
    photo: np.ndarray, mask: np.ndarray, label: int, colour: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Makes one class stand out.

    Args:
      photo: uint8 `[h, w, 3]` RGB.
      mask: uint8 `[h, w]` labels.
      label: the class.
      colour: uint8 `[3]` for it.

    Returns:
      The photo, with a red ring around the class where it is small, and the same with
      the class in its colour and all else faint; both uint8 `[h, w, 3]`.
    """
    region = mask == label
    grey = photo.mean(-1, keepdims=True)
    faint = hatch(np.rint(0.3 * grey + 0.7 * 250 + 0 * photo).astype(np.uint8), mask)
    strong = overlay(photo, np.where(region, 1, 0), np.stack([colour] * 2), 0.8)
    labelled, ringed = np.where(region[..., None], strong, faint), photo.copy()
    if region.mean() < _SMALL:
        ring = _halo(region)
        labelled[ring], ringed[ring] = _HALO, _HALO
    return ringed, labelled


def resized_mask(
    mask: np.ndarray, size: tuple[int, int], label: int | None = None
) -> np.ndarray:
    """Labels at another (height, width); `label` never gets lost on the way."""
    resized = cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    if label is not None and not (resized == label).any():
        places = np.argwhere(mask == label) * np.divide(size, mask.shape)
        resized[tuple(places.astype(int).T)] = label
    return resized
