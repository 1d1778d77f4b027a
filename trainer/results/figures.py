"""Pictures as PNG bytes: sheets of examples here, charts and the diagram beside it.

Images are uint8 RGB, masks uint8 label ids with 255 = ignored. No TensorFlow here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from trainer.labels import IGNORE_LABEL, palette
from trainer.results.charts import class_bars, curves
from trainer.results.diagram import model_diagram
from trainer.results.drawing import (
    DPI,
    INK,
    MARGIN,
    MUTED,
    new_figure,
    pixels,
    place_page,
    plain,
    png,
    text_width,
)
from trainer.results.regions import write_names

__all__ = [
    "EpochSheet",
    "class_bars",
    "curves",
    "legend_labels",
    "model_diagram",
    "overlay",
    "prediction_sheet",
    "sample_sheet",
]

MOST_EXAMPLES = 8
_TILE = 256
_STRIP = 1 << 18
"""Pixels."""
_DARKER = 0.6
_Corner = tuple[int, int]
"""Pixels from the top and from the left."""
_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


def legend_labels(*masks: np.ndarray) -> list[int]:
    """Labels that occur in uint8 masks of any shape, the largest area first."""
    counts = sum(np.bincount(mask.ravel(), minlength=256) for mask in masks)
    counts = np.broadcast_to(counts, 256)
    return [int(label) for label in np.argsort(-counts, kind="stable") if counts[label]]


def _legend_entries(
    labels: Sequence[int], names: Sequence[str]
) -> list[tuple[int, str]]:
    named = dict(enumerate(names)) | {IGNORE_LABEL: "ignored"}
    return [(label, plain(named.get(label, f"label {label}"))) for label in labels]


def _legend_columns(entries: list[tuple[int, str]], width: float) -> int:
    """How many columns of names fit into `width` inches."""
    column = 0.42 + max((text_width(name, 8.5) for _, name in entries), default=0.0)
    return max(1, min(int(width / column), len(entries)))


def _draw_legend(axes: Axes, entries: list[tuple[int, str]], width: float) -> None:
    """Swatches and names in columns, read row by row, 0.22 inches a row."""
    columns = _legend_columns(entries, width)
    column = min(width / columns, 1.9)
    colours = palette(IGNORE_LABEL) / 255
    for place, (label, name) in enumerate(entries):
        x, y = place % columns * column, 0.22 * (place // columns)
        swatch = Rectangle((x, y + 0.035), 0.15, 0.15, fc=colours[label], clip_on=False)
        axes.add_patch(swatch)
        axes.text(x + 0.22, y + 0.115, name, size=8.5, color=INK, va="center")


def paint(mask: np.ndarray, colours: np.ndarray, opacity: float = 0.55) -> np.ndarray:
    """Labels in their colours, see-through: uint8 `[H, W, 4]` RGBA, label 0 is clear.

    Args:
      mask: uint8 `[H, W]` labels.
      colours: uint8 `[256, 3]` RGB, as from `palette`.
      opacity: 0..1 of the colours; one pixel wide outlines of the labels are opaque.
    """
    edge = _outlines(np.ascontiguousarray(mask, np.uint8)) > 0
    shade = colours[mask] * np.where(edge, _DARKER, 1.0)[..., None]
    alpha = np.where(edge, 1.0, opacity) * (mask > 0)
    painted = np.concatenate([shade, 255 * alpha[..., None]], axis=-1)
    return np.rint(painted).astype(np.uint8)


def _outlines(mask: np.ndarray) -> np.ndarray:
    """uint8 `[H, W]`, not 0 where a pixel has a neighbour of another label."""
    return cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, _CROSS)


def overlay(
    image: np.ndarray,
    mask: np.ndarray,
    colours: np.ndarray,
    opacity: float = 0.55,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Lays what `paint` gives over a photo: uint8 `[H, W, 3]`, label 0 as it was.

    Done strip by strip, so that a photo of any size takes little more memory.

    Args:
      image: uint8 `[H, W, 3]` RGB.
      mask, colours, opacity: see `paint`.
      out: where to; may be `image` itself. None: a new array.
    """
    shown = image.copy("C") if out is None else out
    table = np.zeros((256, 3), np.uint8)
    table[: len(colours)] = colours
    mask = np.ascontiguousarray(mask, np.uint8)
    left, first, wide, high = cv2.boundingRect(mask)
    rows = max(1, _STRIP // max(wide, 1))
    for top in range(first, first + high, rows):
        end = min(top + rows, first + high)
        part = slice(top, end), slice(left, left + wide)
        above, before = max(top - 1, 0), max(left - 1, 0)
        edge = _outlines(mask[above : end + 1, before : left + wide + 1])
        edge = edge[top - above :, left - before :][: end - top, :wide]
        tinted = _tint(image[part], mask[part], edge, table, opacity)
        cv2.copyTo(tinted, mask[part], shown[part])
    return shown


def _tint(
    image: np.ndarray,
    mask: np.ndarray,
    edge: np.ndarray,
    colours: np.ndarray,
    opacity: float,
) -> np.ndarray:
    weight = round(255 * opacity) / 255
    # `colours[mask]`, in a tenth of the time.
    colour = cv2.applyColorMap(mask, colours[:, np.newaxis])
    tinted = cv2.addWeighted(image, 1 - weight, colour, weight, 0)
    return cv2.copyTo(cv2.convertScaleAbs(colour, alpha=_DARKER), edge, tinted)


def _tile_size(images: np.ndarray, side: int) -> tuple[int, int]:
    """Pixels (height, width) of a tile: whole multiples for small pictures."""
    height, width = images.shape[1:3]
    scale = max(1, round(side / height)) if height <= 1.5 * side else side / height
    return round(height * scale), max(1, round(width * scale))


def _enlarge(picture: np.ndarray, size: tuple[int, int], smooth: bool) -> np.ndarray:
    down = picture.shape[0] > size[0]
    way = (cv2.INTER_AREA if down else cv2.INTER_CUBIC) if smooth else cv2.INTER_NEAREST
    return cv2.resize(picture, size[::-1], interpolation=way)


def _sheet(
    rows: list[list[np.ndarray]],
    heads: list[str],
    legend: list[tuple[int, str]],
    *,
    title: str,
    narrow: bool = False,
) -> tuple[Figure, list[list[_Corner]]]:
    """Rows of equally large uint8 pictures below their heads.

    More than three rows stand in two blocks side by side, unless it is to be narrow.

    Returns:
      The figure, and where the pictures are on it.
    """
    size = rows[0][0].shape[:2]
    height, width = (side / DPI for side in size)
    gap, top = 0.05, 0.8
    blocks = 2 if len(rows) > 3 and len(heads) < 5 and not narrow else 1
    block = len(heads) * (width + gap) + 0.25
    lines = math.ceil(len(rows) / blocks)
    inner = max(blocks * block - 0.25 - gap, 3.5)
    legend_top = top + lines * (height + gap) + 0.15
    legend_lines = math.ceil(len(legend) / _legend_columns(legend, inner))
    down = legend_top + 0.22 * legend_lines + 0.25
    figure = new_figure(inner + 2 * MARGIN, down, title)
    axes = place_page(figure, 0, 0, figure.get_figwidth(), down)
    bottom, corners = int(figure.bbox.height) - size[0], []
    for place, pictures in enumerate(rows):
        line, side = place // blocks, place % blocks
        y, row = top + line * (height + gap), []
        for column, picture in enumerate(pictures):
            x = MARGIN + side * block + column * (width + gap)
            row.append((round(y * DPI), round(x * DPI)))
            # Pixels are placed one to one: no second resampling blurs the masks.
            figure.figimage(picture, row[-1][1], bottom - row[-1][0])
            if line == 0:
                head = plain(heads[column], max(8, int(width / 0.07)))
                axes.text(x, top - 0.12, head, size=9, color=MUTED, va="center")
        corners.append(row)
    _draw_legend(place_page(figure, MARGIN, legend_top, inner, 1), legend, inner)
    return figure, corners


def sample_sheet(
    images: np.ndarray,
    masks: np.ndarray,
    label_names: Sequence[str],
    *,
    title: str,
    side: int = _TILE,
) -> bytes:
    """PNG with photo, mask and overlay of up to 8 examples, and the classes in them.

    Args:
      images: uint8 `[N, H, W, 3]` RGB, N at least 1.
      masks: uint8 `[N, H, W]` labels, 255 = ignored.
      label_names: name of label 0, 1, ...
      title: heading of the sheet.
      side: pixels of a picture's side, about.
    """
    images, masks = images[:MOST_EXAMPLES], masks[:MOST_EXAMPLES]
    size, colours = _tile_size(images, side), palette(IGNORE_LABEL)
    rows = []
    for image, mask in zip(images, masks, strict=True):
        photo, labels = _enlarge(image, size, True), _enlarge(mask, size, False)
        shown = write_names(overlay(photo, labels, colours), labels, label_names)
        rows.append([photo, colours[labels], shown])
    legend = _legend_entries(legend_labels(masks), label_names)
    return png(_sheet(rows, ["photo", "mask", "overlay"], legend, title=title)[0])


def prediction_sheet(
    images: np.ndarray,
    truths: np.ndarray,
    predictions: dict[str, np.ndarray],
    label_names: Sequence[str],
    *,
    title: str,
    side: int = _TILE,
) -> bytes:
    """PNG with photo, truth and each prediction of up to 8 examples.

    Args:
      images: uint8 `[N, H, W, 3]` RGB, N at least 1.
      truths: uint8 `[N, H, W]` labels, 255 = ignored (grey).
      predictions: column head -> uint8 `[N, H, W]` labels. The legend holds the classes
        of the truth and of the last column: an untrained model predicts all of them.
      label_names: name of label 0, 1, ...
      title: heading of the sheet.
      side: pixels of a picture's side, about.
    """
    size, colours = _tile_size(images, side), palette(IGNORE_LABEL)
    columns = [truths, *predictions.values()]
    rows = [
        [_enlarge(images[place], size, True)]
        + [colours[_enlarge(column[place], size, False)] for column in columns]
        for place in range(min(len(images), MOST_EXAMPLES))
    ]
    shown = [masks[:MOST_EXAMPLES] for masks in (truths, columns[-1])]
    legend = _legend_entries(legend_labels(*shown), label_names)
    return png(_sheet(rows, ["photo", "truth", *predictions], legend, title=title)[0])


class EpochSheet:
    """Photo, truth and prediction of the same few examples, epoch after epoch.

    All but the predictions is drawn once, so that an epoch costs milliseconds and only
    what the model has learned changes from picture to picture.

    Args:
      images: uint8 `[N, H, W, 3]` RGB, N at least 1.
      truths: uint8 `[N, H, W]` labels, 255 = ignored (grey). The legend holds their
        classes.
      label_names: name of label 0, 1, ...
      title: heading of the sheet.
    """

    def __init__(
        self,
        images: np.ndarray,
        truths: np.ndarray,
        label_names: Sequence[str],
        *,
        title: str,
    ) -> None:
        self._size, self._colours = _tile_size(images, _TILE), palette(IGNORE_LABEL)
        rows = [
            [_enlarge(image, self._size, True), *2 * [self._tile(truth)]]
            for image, truth in zip(images, truths, strict=True)
        ]
        legend = _legend_entries(legend_labels(truths), label_names)
        heads = ["photo", "truth", "prediction"]
        # TensorBoard shows pictures 340 pixels wide, until they are clicked on.
        figure, corners = _sheet(rows, heads, legend, title=title, narrow=True)
        self._frame = pixels(figure)
        self._corners = [row[-1] for row in corners]

    def _tile(self, labels: np.ndarray) -> np.ndarray:
        return self._colours[_enlarge(labels, self._size, False)]

    def draw(self, predictions: np.ndarray) -> np.ndarray:
        """The sheet with these uint8 `[N, H, W]` labels: uint8 `[h, w, 3]` RGB."""
        sheet, (height, width) = self._frame.copy(), self._size
        for (top, left), labels in zip(self._corners, predictions, strict=True):
            sheet[top : top + height, left : left + width] = self._tile(labels)
        return sheet
