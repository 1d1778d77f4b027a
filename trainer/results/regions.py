"""Names on regions that are large enough to carry them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np

from trainer.labels import IGNORE_LABEL

_LETTER = 0.56
"""Width of a letter on average, as a share of the font size."""
_OVERHANG = 1.5
"""A name may be so many times as wide as its region: its rim keeps it readable."""
_INK, _RIM = (255, 255, 255), (16, 20, 26)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the name of a label goes: middle and room in shares 0..1 of the picture."""

    label: int
    x: float
    y: float
    width: float
    height: float


def find_places(mask: np.ndarray) -> list[Place]:
    """The roomiest place in the largest region of each class, the background aside.

    It is the point that is farthest from the region's border (its pole of
    inaccessibility, on the pixel grid), moved to the middle of its row.

    Args:
      mask: uint8 `[H, W]` labels.
    """
    present = np.unique(mask)
    return [
        _roomiest(mask == label, int(label))
        for label in present[(present > 0) & (present != IGNORE_LABEL)]
    ]


def _roomiest(region: np.ndarray, label: int) -> Place:
    """The place in the largest connected part of bool `[H, W]`."""
    _, parts, facts, _ = cv2.connectedComponentsWithStats(region.astype(np.uint8))
    largest = parts == 1 + int(np.argmax(facts[1:, cv2.CC_STAT_AREA]))
    padded = np.pad(largest, 1).astype(np.uint8)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
    row, column = np.unravel_index(int(np.argmax(depth)), depth.shape)
    gaps = np.flatnonzero(~np.pad(largest[row], 1)) - 1
    right = int(gaps[np.searchsorted(gaps, column)])
    left = int(gaps[np.searchsorted(gaps, column) - 1]) + 1
    height, width = region.shape
    return Place(
        label=label,
        x=(left + right) / 2 / width,
        y=(float(row) + 0.5) / height,
        width=(right - left) / width,
        height=2 * float(depth[row, column]) / height,
    )


def named_places(
    mask: np.ndarray, names: Sequence[str], size: float, shape: tuple[float, float]
) -> list[tuple[str, float, float]]:
    """Which names can be read on a picture and where: (name, x, y) in its units.

    Args:
      mask: uint8 `[H, W]` labels.
      names: of label 0, 1, ...
      size: of the font.
      shape: height and width of the picture, in the units of `size`.
    """
    height, width = shape
    return [
        (names[place.label], place.x * width, place.y * height)
        for place in find_places(mask)
        if place.label < len(names)
        and place.height * height >= 0.8 * size
        and place.width * width * _OVERHANG >= _LETTER * size * len(names[place.label])
    ]


def write_names(
    picture: np.ndarray, mask: np.ndarray, names: Sequence[str]
) -> np.ndarray:
    """A copy of uint8 `[H, W, 3]` with the names of uint8 `[H, W]` labels on it."""
    picture = np.ascontiguousarray(picture).copy()
    size = max(11, round(0.045 * min(mask.shape)))
    font = cv2.FontFace("sans")
    for name, x, y in named_places(mask, names, size, mask.shape):
        left, top, wide, high = cv2.getTextSize((0, 0), name, (0, 0), font, size, 600)
        spot = (round(x - wide / 2 - left), round(y - high / 2 - top))
        for across, down in ((-1, 0), (1, 0), (0, -1), (0, 1), (1, 1), (-1, -1)):
            near = (spot[0] + across, spot[1] + down)
            cv2.putText(picture, name, near, _RIM, font, size, 600)
        cv2.putText(picture, name, spot, _INK, font, size, 600)
    return picture
