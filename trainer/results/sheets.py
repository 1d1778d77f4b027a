"""What to look at before training: two PNGs beside the dataset card.

`overlays.png` shows random examples and one of each of the rarest classes,
`classes.png` how often every class occurs in both splits.
"""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from trainer import storage
from trainer.data.card import Card
from trainer.data.images import decode_image, decode_mask
from trainer.labels import IGNORE_LABEL, palette
from trainer.results import examples
from trainer.results.balance import class_chart, percent, widest
from trainer.results.drawing import (
    DPI,
    INK,
    LINE,
    MARGIN,
    MUTED,
    new_figure,
    pixels,
    place_page,
    plain,
)
from trainer.results.examples import Example, Part
from trainer.results.figures import legend_labels, overlay
from trainer.results.marking import emphasise, hatch, resized_mask
from trainer.results.regions import write_names

NAMES = ("overlays.png", "classes.png")
_MOST_RANDOM, _MOST_RARE = 8, 8
_AREA, _TALLEST, _WIDEST = 2.5, 2.1, 1.94
"""Square inches of a photo, and the most either way: three pairs fit side by side."""
_INNER, _GAP, _SEAM, _LINE = 12.4, 0.3, 0.04, 0.17


_Placed = tuple[int, int, np.ndarray]
"""Pixels from the top and from the left, and the picture that goes there."""


@dataclasses.dataclass(frozen=True)
class _Tile:
    """Two uint8 `[h, w, 3]` pictures of an example, its mask, the lines above them."""

    photo: np.ndarray
    labelled: np.ndarray
    mask: np.ndarray
    lines: list[tuple[str, str]]
    swatch: np.ndarray | None = None


def _sizes(shapes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Pixels (height, width) to draw photos of these shapes at, all of like area.

    Where all are of about the same form they get the same height, so that rows align.
    """
    ratios = [height / width for height, width in shapes]
    alike = max(ratios) < 1.25 * min(ratios)
    middle = sorted(ratios)[len(ratios) // 2]
    sizes = []
    for ratio in ratios:
        high = math.sqrt(_AREA * (middle if alike else ratio))
        high = DPI * min(high, _TALLEST, _WIDEST * ratio)
        sizes.append((max(1, round(high)), max(1, round(high / ratio))))
    return sizes


def _tiles(shown: list[Example], card: Card) -> list[_Tile]:
    """Decodes and draws examples."""
    photos = [decode_image(example.record.image) for example in shown]
    sizes = _sizes([photo.shape[:2] for photo in photos])
    return [_tile(*part, card) for part in zip(shown, photos, sizes, strict=True)]


def _tile(
    example: Example, photo: np.ndarray, size: tuple[int, int], card: Card
) -> _Tile:
    """Draws one example at a size in pixels (height, width)."""
    way = cv2.INTER_AREA if size[0] < photo.shape[0] else cv2.INTER_CUBIC
    photo = cv2.resize(photo, size[::-1], interpolation=way)
    mask = resized_mask(decode_mask(example.record.mask), size, example.label)
    colours = palette(IGNORE_LABEL)
    last = (f"{example.record.image_id} · {example.split}", MUTED)
    if example.label is None:
        labelled = hatch(overlay(photo, mask, colours), mask)
        labelled = write_names(labelled, mask, card.label_names)
        return _Tile(photo, labelled, mask, [last])
    colour = colours[example.label]
    photo, labelled = emphasise(photo, mask, example.label, colour)
    name = str(card.classes[example.label]["name"])
    lines = [(name, INK), (_frequency(card, example.label), INK), last]
    return _Tile(photo, labelled, mask, lines, colour)


def _frequency(card: Card, label: int) -> str:
    """Pixel share and image count of a class in both splits together."""
    splits = ("train", "val")
    pixels = sum(row[split]["pixels"] for row in card.classes for split in splits)
    own, images, every = (
        sum(part[key] for part in parts)
        for parts, key in (
            ([card.classes[label][split] for split in splits], "pixels"),
            ([card.classes[label][split] for split in splits], "images"),
            ([card.splits[split] for split in splits], "examples"),
        )
    )
    return f"{percent(own / pixels)} of pixels · {images:,} of {every:,} images"


@dataclasses.dataclass(frozen=True)
class _Grid:
    """Cells of equal size: `columns` a row, each `width` by `height` inches."""

    columns: int
    width: float
    height: float

    def size(self, tiles: list[_Tile]) -> float:
        """Inches that these tiles take downwards."""
        text = _LINE * len(tiles[0].lines) + 0.06 if tiles else 0.0
        return math.ceil(len(tiles) / self.columns) * (text + self.height + 0.22)


def _fit_grid(tiles: list[_Tile], most: int) -> _Grid:
    """A grid for these tiles of up to `most` columns."""
    height, width = (max(tile.photo.shape[k] / DPI for tile in tiles) for k in (0, 1))
    cell = 2 * width + _SEAM
    columns = int((_INNER + _GAP) / (cell + _GAP))
    return _Grid(max(1, min(columns, most)), cell, height)


def _draw_swatch(page: Axes, x: float, y: float, colour: np.ndarray | None) -> None:
    """A square of a colour left of a text at height y; empty without one."""
    square = Rectangle((x, y - 0.07), 0.14, 0.14, fc="none", ec=LINE)
    if colour is not None:
        square.set(fc=colour / 255, ec="none")
    page.add_patch(square)


def _draw_tiles(page: Axes, tiles: list[_Tile], grid: _Grid, y: float) -> list[_Placed]:
    """Captions of tiles in reading order, from y inches downwards, and the pictures."""
    placed = []
    for place, tile in enumerate(tiles):
        x = MARGIN + place % grid.columns * (grid.width + _GAP)
        if place and place % grid.columns == 0:
            y += grid.size([tile])
        for number, (text, colour) in enumerate(tile.lines):
            left, size, weight = x, 7.5, "normal"
            if tile.swatch is not None and number == 0:
                _draw_swatch(page, x, y, tile.swatch)
                left, size, weight = x + 0.2, 8.5, "bold"
            most = int((grid.width - left + x) / (0.0095 if left > x else 0.008) / size)
            style: dict = {"size": size, "weight": weight, "color": colour}
            line = y + _LINE * number
            page.text(left, line, plain(text, most), va="center", **style)
        top = round((y + _LINE * len(tile.lines) - 0.03) * DPI)
        across = tile.photo.shape[1] + round(_SEAM * DPI)
        placed.append((top, round(x * DPI), tile.photo))
        placed.append((top, round(x * DPI) + across, tile.labelled))
    return placed


def _legend(tiles: list[_Tile], card: Card) -> list[tuple[int, str]]:
    """Labels and names of all classes in these tiles, the largest area first."""
    names = {label: str(name) for label, name in enumerate(card.label_names)}
    names[0] += " (not coloured)"
    names[IGNORE_LABEL] = "ignored"
    shown = legend_labels(*(tile.mask for tile in tiles))
    return [(label, plain(names[label])) for label in shown if label in names]


def legend_columns(entries: list[tuple[int, str]], inner: float) -> tuple[int, float]:
    """How many columns, and how wide each."""
    column = widest([name for _, name in entries], 8) + 0.45
    columns = max(1, min(int(inner / column), len(entries)))
    return columns, min(inner / columns, 1.8 if column < 1.8 else column)


def draw_legend(
    page: Axes, entries: list[tuple[int, str]], inner: float, y: float
) -> list[_Placed]:
    """Swatches and names, read row by row, the first at y inches; hatched pictures."""
    columns, column = legend_columns(entries, inner)
    colours, placed = palette(IGNORE_LABEL), []
    for place, (label, name) in enumerate(entries):
        x, line = MARGIN + place % columns * column, y + 0.2 * (place // columns)
        page.text(x + 0.2, line, name, size=8, color=INK, va="center")
        if label != IGNORE_LABEL:
            _draw_swatch(page, x, line, colours[label] if label else None)
            continue
        stripes = hatch(np.zeros((21, 21, 3), np.uint8), np.full((21, 21), label))
        placed.append((round((line - 0.07) * DPI), round(x * DPI), stripes))
    return placed


def paste(figure: Figure, placed: list[_Placed]) -> bytes:
    """The figure with pictures on it as PNG bytes.

    Pixels are placed one to one, so no second resampling blurs the masks. Photos hardly
    shrink further above compression level 2, but take twice the time.
    """
    sheet = cv2.cvtColor(pixels(figure), cv2.COLOR_RGB2BGR)
    for top, left, picture in placed:
        height, width = picture.shape[:2]
        sheet[top : top + height, left : left + width] = picture[..., ::-1]
    return cv2.imencode(".png", sheet, [cv2.IMWRITE_PNG_COMPRESSION, 2])[1].tobytes()


def _draw_heading(page: Axes, y: float, title: str, notes: list[str]) -> None:
    page.text(MARGIN, y, title, size=10.5, weight="bold", color=INK, va="center")
    for number, note in enumerate(notes):
        line = y + 0.2 * (number + 1)
        page.text(MARGIN, line, plain(note, 150), size=8, color=MUTED, va="center")


def notes(card: Card, parts: list[Part], missed: list[int]) -> tuple[str, list[str]]:
    """What is said below both headings: (random, rare)."""
    every = sum(part["examples"] for part in card.splits.values())
    seen = sum(part.count for part in parts)
    whole = seen == every
    among = f"all {every:,}" if whole else f"{seen:,} of {every:,}, from every shard"
    drawn = f"Photo and overlay, drawn by lot from {among}."
    rare = [
        "For each class an example that holds it: its colour on a faint photo; "
        "red rings around small regions."
    ]
    if missed:
        names = ", ".join(str(card.classes[label]["name"]) for label in missed)
        rare.append(f"Not in the {seen:,} of {every:,} examples looked at: {names}")
    return drawn, rare


def overlay_sheet(
    card: Card, chosen: list[Example], rare: list[Example], said: tuple[str, list[str]]
) -> bytes:
    """PNG with random examples, a legend, and below one example of each rare class.

    Args:
      card: names and counts of the classes.
      chosen: examples without a label; at least one.
      rare: examples with one.
      said: text below the headings of both groups.
    """
    every = _tiles([*chosen, *rare], card)
    tiles, rare_tiles = every[: len(chosen)], every[len(chosen) :]
    grid = _fit_grid(every, max(len(chosen), len(rare)))
    # Any random examples will do, so there are full rows of them.
    tiles = tiles[: len(tiles) // grid.columns * grid.columns] or tiles
    entries = _legend(tiles, card)
    inner = max(grid.columns * (grid.width + _GAP) - _GAP, 6.2)
    lines = math.ceil(len(entries) / legend_columns(entries, inner)[0])
    first = 0.85
    legend = first + 0.5 + grid.size(tiles)
    second = legend + 0.2 * lines + 0.45
    third = second + 0.3 + 0.2 * len(said[1])
    down = third + grid.size(rare_tiles) if rare else second - 0.3
    title = f"{card.source['name']}: photos and labels"
    figure = new_figure(inner + 2 * MARGIN, down + 0.1, title)
    page = place_page(figure, 0, 0, *figure.get_size_inches())
    _draw_heading(page, first, "Random examples", [said[0]])
    placed = _draw_tiles(page, tiles, grid, first + 0.5)
    placed += draw_legend(page, entries, inner, legend)
    if rare:
        _draw_heading(page, second, "Rarest classes", said[1])
        placed += _draw_tiles(page, rare_tiles, grid, third)
    return paste(figure, placed)


def draw_sheets(records_dir: str, card: Card) -> None:
    """Writes `overlays.png` and `classes.png` beside the card, from its records.

    Raises:
      SeamlineError: a shard is damaged.
    """
    parts = examples.plan_parts(card)
    numbers = examples.pick_random(parts, _MOST_RANDOM)
    labels = examples.rarest(card, _MOST_RARE)
    chosen, rare = examples.find_examples(records_dir, card, parts, numbers, labels)
    found = {example.label for example in rare}
    below = notes(card, parts, [label for label in labels if label not in found])
    contents = (overlay_sheet(card, chosen, rare, below), class_chart(card))
    for name, content in zip(NAMES, contents, strict=True):
        storage.write_bytes(storage.join(records_dir, name), content)
