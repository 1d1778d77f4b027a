"""The batch of one training step as a sheet: what the model is about to learn from."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from trainer.labels import IGNORE_LABEL, palette
from trainer.results.balance import widest
from trainer.results.drawing import (
    DPI,
    MARGIN,
    MUTED,
    new_figure,
    place_page,
    plain,
)
from trainer.results.figures import legend_labels, overlay
from trainer.results.marking import hatch, resized_mask
from trainer.results.sheets import draw_legend, legend_columns, paste

_LAYOUTS = ((1, 512, 1), (4, 384, 2), (32, 256, 4))
"""Up to so many examples: pixels of a tile's side, about, and the most columns."""
_SMALL = (128, 8)
_SEAM, _CAPTION, _TOP = 6, 34, 128
"""Pixels between the two tiles of a pair, below them for the id, above all of them."""


@dataclasses.dataclass(frozen=True)
class _Grid:
    """Pairs of square tiles, `columns` a row; all sizes in pixels of the sheet."""

    count: int
    tile: int
    columns: int
    gap: int

    @property
    def pair(self) -> int:
        """Width of a photo and its overlay."""
        return 2 * self.tile + _SEAM

    @property
    def width(self) -> int:
        """Of a whole row."""
        return self.columns * (self.pair + self.gap) - self.gap

    @property
    def row(self) -> int:
        """From the top of a row to that of the next."""
        return self.tile + _CAPTION + self.gap // 2

    @property
    def bottom(self) -> int:
        """Where the last row's ids end."""
        rows = math.ceil(self.count / self.columns)
        return _TOP + rows * self.row - self.gap // 2

    def place(self, number: int) -> tuple[int, int]:
        """Top and left of a pair."""
        row, column = divmod(number, self.columns)
        left = round(MARGIN * DPI) + column * (self.pair + self.gap)
        return _TOP + row * self.row, left


def _fit_grid(count: int, size: int, layout: tuple[int, int] | None) -> _Grid:
    """A grid for `count` examples of `size` pixels a side; `layout` as `batch_sheet`.

    Small pictures are enlarged by whole factors alone, so that all their pixels are
    seen, and are all of one size.
    """
    fitting = (found[1:] for found in _LAYOUTS if count <= found[0])
    side, most = layout or next(fitting, _SMALL)
    tile = size * int(1.2 * side / size) or side
    gap = 30 if side == _SMALL[0] else 45
    rows = math.ceil(count / most)
    # No more columns than these rows need: 3 + 2 looks better than 4 + 1.
    return _Grid(count, tile, math.ceil(count / rows), gap)


def _pair(image: np.ndarray, mask: np.ndarray, tile: int) -> list[np.ndarray]:
    """Photo and overlay, uint8 `[tile, tile, 3]`."""
    way = cv2.INTER_AREA if tile < len(image) else cv2.INTER_NEAREST_EXACT
    photo = np.rint(np.clip(image, 0, 255)).astype(np.uint8)
    photo = cv2.resize(photo, (tile, tile), interpolation=way)
    labels = resized_mask(mask, (tile, tile))
    return [photo, hatch(overlay(photo, labels, palette(IGNORE_LABEL)), labels)]


def _alike(texts: Iterable[str]) -> int:
    """How many characters all texts begin with alike."""
    places = zip(*texts, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda x: len({*x}) == 1, places))


def _caption(image_id: str, copy: int, shared: tuple[int, int], width: float) -> str:
    """Id and copy in `width` inches.

    Of a long id what all share is cut away first, since it tells none apart: from its
    start, then from its end.
    """
    tail = f" · copy {copy}" if copy else ""

    def cut(dropped: int) -> str:
        end = min(shared[1], max(0, dropped - shared[0]))
        kept = image_id[dropped - end : len(image_id) - end]
        return ("…" if dropped > end else "") + kept + ("…" if end else "") + tail

    least = bisect.bisect_left(
        range(len(image_id)), True, key=lambda x: widest([cut(x)], 7.5) <= width
    )
    text = cut(least)
    return plain(text, len(text))


def _legend(masks: np.ndarray, names: Sequence[str]) -> list[tuple[int, str]]:
    """Labels and names of the classes that occur, the largest area first."""
    named = dict(enumerate(names)) | {IGNORE_LABEL: "ignored"}
    named[0] = f"{named[0]} (not coloured)"
    return [(x, plain(named.get(x, f"label {x}"))) for x in legend_labels(masks)]


def batch_sheet(
    images: np.ndarray,
    masks: np.ndarray,
    ids: Sequence[str],
    copies: Sequence[int],
    names: Sequence[str],
    *,
    title: str,
    note: str,
    layout: tuple[int, int] | None = None,
) -> bytes:
    """PNG with each example of a batch: image and overlay, its id below them.

    Args:
      images: float32 `[B, S, S, 3]` RGB, B at least 1; what augmentation pushed out of
        0..255 is clipped.
      masks: uint8 `[B, S, S]` labels, 255 = ignored (hatched).
      ids: B of them.
      copies: which copy of its photo each example is; 0, the photo itself, is not said.
      names: name of label 0, 1, ...
      title: heading of the sheet.
      note: one line below it.
      layout: pixels of a picture's side, about, and the most pairs a row; None: by the
        number of examples.
    """
    grid = _fit_grid(len(images), images.shape[1], layout)
    entries = _legend(masks, names)
    note = note if len(note) <= 150 else note[:149] + "…"
    inner = max(grid.width / DPI, widest([note], 8), 5.0)
    lines = math.ceil(len(entries) / legend_columns(entries, inner)[0])
    legend = grid.bottom / DPI + 0.3
    down = legend + 0.2 * lines + 0.2
    figure = new_figure(inner + 2 * MARGIN, down, title)
    page = place_page(figure, 0, 0, *figure.get_size_inches())
    page.text(MARGIN, 0.58, plain(note, 150), size=8, color=MUTED, va="center")
    placed = draw_legend(page, entries, inner, legend)
    shared = _alike(ids), _alike(text[::-1] for text in ids)
    rows = zip(images, masks, ids, copies, strict=True)
    for number, (image, mask, image_id, copy) in enumerate(rows):
        top, left = grid.place(number)
        for side, picture in enumerate(_pair(image, mask, grid.tile)):
            placed.append((top, left + side * (grid.tile + _SEAM), picture))
        caption = _caption(image_id, copy, shared, grid.pair / DPI)
        place = (left / DPI, (top + grid.tile + _CAPTION / 2) / DPI)
        page.text(*place, caption, size=7.5, color=MUTED, va="center")
    return paste(figure, placed)
