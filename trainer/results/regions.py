"""Names on regions that are large enough to carry them."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import cv2
import numpy as np

from trainer.data.images import resize_mask
from trainer.labels import IGNORE_LABEL

_LETTER = 0.56
"""Width of a letter on average, as a share of the font size."""
_OVERHANG = 1.5
"""A name may be so many times as wide as its region: its rim keeps it readable."""
_LOW = 0.8
"""A region must be so many times as high as the font."""
_FINE = 128
"""Places are looked for on masks of so many pixels a side at most."""
_MARGIN = 2
_INK, _RIM = (255, 255, 255), (16, 20, 26)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the name of a label goes: middle and room in shares 0..1 of the picture."""

    label: int
    x: float
    y: float
    width: float
    height: float


def find_places(mask: np.ndarray, least: float = 0) -> list[Place]:
    """The roomiest place in the largest region of each class, the background aside.

    It is the point that is farthest from the region's border (its pole of
    inaccessibility, on the pixel grid), moved to the middle of its row.

    Args:
      mask: uint8 `[H, W]` labels.
      least: pixels that a class must have.
    """
    counts = np.bincount(mask.ravel(), minlength=256)
    counts[[0, IGNORE_LABEL]] = 0
    return [
        _roomiest(mask == label, int(label)) for label in np.flatnonzero(counts > least)
    ]


def _roomiest(region: np.ndarray, label: int) -> Place:
    """The place in the largest connected part of bool `[H, W]`."""
    height, width = region.shape
    x, y, wide, high = cv2.boundingRect(region.view(np.uint8))
    found = region[y : y + high, x : x + wide].view(np.uint8)
    _, parts, facts, _ = cv2.connectedComponentsWithStats(found)
    number = 1 + int(np.argmax(facts[1:, cv2.CC_STAT_AREA]))
    across, down, wide, high = facts[number, : cv2.CC_STAT_AREA]
    largest = parts[down : down + high, across : across + wide] == number
    x, y = x + across, y + down
    padded = np.zeros((high + 2, wide + 2), np.uint8)
    padded[1:-1, 1:-1] = largest
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, 5)
    row, column = np.unravel_index(int(np.argmax(depth)), depth.shape)
    gaps = np.flatnonzero(padded[row] == 0) - 1
    place = int(np.searchsorted(gaps, column - 1))
    right, left = int(gaps[place]), int(gaps[place - 1]) + 1
    return Place(
        label=label,
        x=(x + (left + right) / 2) / width,
        y=(y + float(row) - 0.5) / height,
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
    # A region as high as is asked for below holds a circle of this diameter.
    circle = math.pi / 4 * (_LOW * size * len(mask) / height) ** 2
    return [
        (names[place.label], place.x * width, place.y * height)
        for place in find_places(mask, circle)
        if place.label < len(names)
        and place.height * height >= _LOW * size
        and place.width * width * _OVERHANG >= _LETTER * size * len(names[place.label])
    ]


def write_names(
    picture: np.ndarray, mask: np.ndarray, names: Sequence[str]
) -> np.ndarray:
    """A copy of uint8 `[H, W, 3]` with the names of uint8 `[H, W]` labels on it."""
    picture = np.ascontiguousarray(picture).copy()
    draw_names(picture, mask, names)
    return picture


def draw_names(picture: np.ndarray, mask: np.ndarray, names: Sequence[str]) -> None:
    """Writes the names of uint8 `[H, W]` labels on uint8 `[H, W, 3]` itself."""
    size = max(11, round(0.045 * min(mask.shape)))
    scale = min(1.0, _FINE / max(mask.shape))
    coarse = resize_mask(mask, *(max(1, round(scale * side)) for side in mask.shape))
    for name, x, y in named_places(coarse, names, size, mask.shape):
        _press(picture, _stamp(name, size), x, y)


@functools.lru_cache(maxsize=512)
def _stamp(text: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """What a name keeps of each pixel below it, in 0..1, and what it adds.

    Both float32 `[h, w, 3]`, so that NumPy has no short axis to repeat.
    """
    font = cv2.FontFace("sans")
    left, top, wide, high = cv2.getTextSize((0, 0), text, (0, 0), font, size, 600)
    letters = np.zeros((high + 2 * _MARGIN, wide + 2 * _MARGIN), np.uint8)
    spot = (_MARGIN - left, _MARGIN - top)
    cv2.putText(letters, text, spot, (255,), font, size, 600)
    around = cv2.dilate(letters, np.ones((3, 3), np.uint8))
    rim, ink = (
        np.repeat(layer[..., np.newaxis].astype(np.float32) / 255, 3, axis=-1)
        for layer in (around, letters)
    )
    colours = np.array([_RIM, _INK], np.float32)
    return (1 - rim) * (1 - ink), rim * (1 - ink) * colours[0] + ink * colours[1]


def _press(
    picture: np.ndarray, stamp: tuple[np.ndarray, np.ndarray], x: float, y: float
) -> None:
    """Puts a stamp on uint8 `[H, W, 3]`, its middle at x, y; what is outside is cut."""
    high, wide, _ = stamp[0].shape
    left, top = round(x - wide / 2), round(y - high / 2)
    rows = slice(max(-top, 0), max(min(high, len(picture) - top), 0))
    columns = slice(max(-left, 0), max(min(wide, picture.shape[1] - left), 0))
    part = picture[
        top + rows.start : top + rows.stop, left + columns.start : left + columns.stop
    ]
    kept, added = (layer[rows, columns] for layer in stamp)
    part[:] = np.rint(part * kept + added)
