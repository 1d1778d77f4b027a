"""Labels as see-through pictures that a page lays over a photo. All are PNG.

A `shape` is the height and width of the photo: the model's masks are square, photos
are not.
"""

from __future__ import annotations

import io

import cv2
import numpy as np
from PIL import Image

from trainer.labels import IGNORE_LABEL
from trainer.results.figures import paint

_SIDE = 384
"""Pixels of a layer's longer side."""
WRONG = (255, 45, 85)
_IGNORED = (128, 128, 128, 190)


def label_layer(mask: np.ndarray, colours: np.ndarray, shape: tuple[int, int]) -> bytes:
    """Each class in its colour with an outline; the background is see-through.

    Args:
      mask: uint8 `[H, W]` labels, 255 = ignored (grey).
      colours: uint8 `[256, 3]` RGB.
      shape: of the photo.
    """
    return _encode(paint(_fit(mask, shape), colours))


def error_layer(truth: np.ndarray, labels: np.ndarray, shape: tuple[int, int]) -> bytes:
    """Wrong pixels in red, ignored ones in grey, right ones see-through.

    Args:
      truth, labels: uint8 `[H, W]`; 255 in the truth counts as neither.
      shape: of the photo.
    """
    wrong = (truth != labels) & (truth != IGNORE_LABEL)
    colours = np.array([WRONG] * 256, np.uint8)
    painted = paint(_fit(wrong.astype(np.uint8), shape), colours)
    painted[_fit(truth, shape) == IGNORE_LABEL] = _IGNORED
    return _encode(painted)


def spot_layer(region: np.ndarray, colour: np.ndarray, shape: tuple[int, int]) -> bytes:
    """A region of bool `[H, W]` in its uint8 `[3]` colour, all else darkened."""
    shown = _fit(region.astype(np.uint8), shape)
    painted = paint(shown, np.stack([colour] * 256), opacity=0.75)
    painted[shown == 0] = (10, 13, 18, 150)
    return _encode(painted)


def label_map(mask: np.ndarray) -> bytes:
    """The labels themselves as grey values, for the page to read."""
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def read_map(png: bytes) -> np.ndarray:
    """The uint8 `[H, W]` labels of `label_map`."""
    return np.array(Image.open(io.BytesIO(png)))


def _fit(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The mask in the photo's form, by nearest neighbour: its pixels stay visible."""
    size = [max(1, round(_SIDE * side / max(shape))) for side in shape[::-1]]
    return cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT)


def _encode(painted: np.ndarray) -> bytes:
    """uint8 `[H, W, 4]` RGBA as PNG, by way of a colour table where one is enough."""
    buffer = io.BytesIO()
    words = np.ascontiguousarray(painted).view(np.uint32)[..., 0]
    table, places = np.unique(words, return_inverse=True)
    if len(table) > 256:
        Image.fromarray(painted).save(buffer, "PNG", optimize=True)
        return buffer.getvalue()
    rows = table.view(np.uint8).reshape(-1, 4)
    picture = Image.fromarray(places.reshape(words.shape).astype(np.uint8), "P")
    picture.putpalette(rows[:, :3].tobytes())
    alpha = rows[:, 3].tobytes()
    picture.save(buffer, "PNG", transparency=alpha, optimize=True)
    return buffer.getvalue()
