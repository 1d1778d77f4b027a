"""How often every class occurs in both splits: the chart `classes.png`."""

from __future__ import annotations

import dataclasses
import math
import textwrap
from collections.abc import Iterable

from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import Rectangle

from trainer.data.card import Card
from trainer.results.drawing import (
    BLUE,
    DPI,
    INK,
    LINE,
    MARGIN,
    MUTED,
    ORANGE,
    PALE,
    new_figure,
    place_page,
    plain,
    png,
)

ALERT = "#c92a2a"
ABSENT, UNLEARNED, UNSCORED = "absent", "never in train", "never in val"
_ONE_BLOCK = 34
_ROW, _COUNT, _NOTE = 0.2, 0.5, 0.85
_SPLITS = ("train", "val")


@dataclasses.dataclass(frozen=True)
class _Scale:
    """Places in a block of rows, in inches from its left, and the axis of shares.

    Attributes:
      left: where bars start.
      bar: length of a bar of 100 %.
      counts: where the columns of counts start.
      lowest: power of ten where bars start.
      totals: labelled pixels of both splits.
    """

    left: float
    bar: float
    counts: float
    lowest: int
    totals: list[int]

    @property
    def width(self) -> float:
        return self.counts + 2 * _COUNT + 0.14

    def lengths(self, row: dict) -> list[float]:
        """Inches of the bars of a row, one a split; 0 without a pixel."""
        shares = _shares(row, self.totals)
        powers = [math.log10(share) if share else self.lowest for share in shares]
        return [self.bar * (1 - power / self.lowest) for power in powers]


def _shares(row: dict, totals: list[int]) -> list[float]:
    return [row[split]["pixels"] / n for split, n in zip(_SPLITS, totals, strict=True)]


def standing(row: dict) -> str:
    """What is wrong with a row of `card.classes`: one of three constants, or ""."""
    train, val = (bool(row[split]["pixels"]) for split in ("train", "val"))
    return {
        (False, False): ABSENT,
        (False, True): UNLEARNED,
        (True, False): UNSCORED,
        (True, True): "",
    }[train, val]


def by_share(card: Card) -> list[int]:
    """Labels from the most to the fewest pixels in both splits together."""
    pixels = [row["train"]["pixels"] + row["val"]["pixels"] for row in card.classes]
    return sorted(range(len(pixels)), key=lambda label: (-pixels[label], label))


def percent(share: float) -> str:
    """A share of 0..1 with two digits that count, however small: "0.0016 %"."""
    if not share:
        return "0 %"
    places = max(0, 1 - math.floor(math.log10(100 * share)))
    text = f"{100 * share:.{places}f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} %"


def widest(texts: Iterable[str], size: float) -> float:
    """Inches of the widest text at a font size in points, 0 without any.

    By the font's own metrics: a twentieth of the time that outlines take.
    """
    font = get_font(findfont(FontProperties()))
    font.set_size(size, DPI)
    widths = [0.0]
    for text in texts:
        font.set_text(text)
        widths.append(font.get_width_height()[0] / 64 / DPI)
    return max(widths)


def _summary(card: Card) -> list[tuple[str, str]]:
    """Phrases (text, colour) that say how many classes stand where."""
    found = [standing(row) for row in card.classes]
    whole = found.count("")
    known = "all" if whole == len(found) else f"{whole:,}"
    phrases = [(f"{len(found):,} classes: {known} in both splits", MUTED)]
    for kind, text, colour in (
        (UNLEARNED, "in val but never in train", ALERT),
        (UNSCORED, "in train but never in val", MUTED),
        (ABSENT, "absent from both", MUTED),
    ):
        if count := found.count(kind):
            phrases.append((f"{count:,} {text}", colour))
    return phrases


def _fit(rows: list[dict], blocks: int) -> _Scale:
    """The scale on which all rows fit."""
    totals = [sum(row[split]["pixels"] for row in rows) or 1 for split in _SPLITS]
    shares = [share for row in rows for share in _shares(row, totals) if share]
    # A decade starts a little below its power of ten, so that every bar has a length.
    lowest = min(math.floor(math.log10(share) - 0.15) for share in [*shares, 0.1])
    left = widest([plain(str(row["name"])) for row in rows], 8) + 0.2
    bar = 3.3 if blocks == 2 else max(3.3, 7 - left - 2 * _COUNT)
    scale = _Scale(left, bar, left + bar, lowest, totals)
    ends = [max(scale.lengths(row)) + _NOTE for row in rows if standing(row)]
    after = max([bar + 0.14, *ends])
    return dataclasses.replace(scale, counts=left + after)


def _draw_head(axes: Axes, scale: _Scale) -> None:
    """Colours of the splits and the decades of the axis, above y = 0."""
    style: dict = {"size": 7.5, "va": "center_baseline"}
    step = scale.bar / -scale.lowest
    for power in range(scale.lowest, 1):
        x = scale.left + (power - scale.lowest) * step
        if not -power % math.ceil(0.52 / step):
            axes.text(x, -0.1, percent(10.0**power), ha="center", color=MUTED, **style)
    axes.text(scale.left, -0.3, "share of labelled pixels", color=INK, **style)
    end = scale.counts + 2 * _COUNT
    axes.text(end, -0.3, "images with it", ha="right", color=INK, **style)
    for column, (name, colour) in enumerate(zip(_SPLITS, (BLUE, ORANGE), strict=True)):
        x = scale.counts + (column + 1) * _COUNT
        axes.text(x, -0.1, name, ha="right", color=colour, weight="bold", **style)


def _draw_row(axes: Axes, row: dict, scale: _Scale, y: float) -> None:
    """Name, counts and the note of one class around y."""
    note = standing(row)
    style: dict = {"size": 8, "va": "center_baseline"}
    alert = note == UNLEARNED
    name = plain(str(row["name"]))
    ink = ALERT if alert else INK
    axes.text(scale.left - 0.1, y, name, ha="right", color=ink, **style)
    for column, split in enumerate(_SPLITS):
        count = row[split]["images"]
        colour = ALERT if alert and not count else MUTED
        x = scale.counts + (column + 1) * _COUNT
        axes.text(x, y, f"{count:,}", ha="right", color=colour, **style)
    if note:
        x = scale.left + max(scale.lengths(row)) + 0.08
        colour = ALERT if alert else MUTED
        axes.text(x, y, note, color=colour, size=7.5, va="center_baseline")


def _draw_block(axes: Axes, rows: list[dict], scale: _Scale) -> None:
    """Names, two bars and two counts a class."""
    _draw_head(axes, scale)
    stripes = [
        Rectangle((0, _ROW * place), scale.width, _ROW)
        for place in range(0, len(rows), 2)
    ]
    bars: tuple[list[Rectangle], list[Rectangle]] = ([], [])
    for place, row in enumerate(rows):
        y = _ROW * place
        for side, length in enumerate(scale.lengths(row)):
            corner = (scale.left, y + 0.025 + 0.08 * side)
            bars[side].append(Rectangle(corner, length, 0.07))
        _draw_row(axes, row, scale, y + _ROW / 2)
    size = (0.007, _ROW * len(rows))
    step = scale.bar / -scale.lowest
    decades = [scale.left + k * step for k in range(1 - scale.lowest)]
    grid = [Rectangle((x, 0), *size) for x in decades]
    layers = ((stripes, PALE), (grid, LINE), (bars[0], BLUE), (bars[1], ORANGE))
    for order, (shapes, colour) in enumerate(layers):
        style: dict = {"fc": colour, "ec": "none", "zorder": order / 10}
        axes.add_collection(PatchCollection(shapes, antialiased=False, **style))


def class_chart(card: Card) -> bytes:
    """PNG with pixel share (logarithmic) and image count of every class and split.

    Classes stand in the order of their share. Those that one split lacks carry a note,
    those that both lack are listed below.
    """
    ordered = [card.classes[label] for label in by_share(card)]
    rows = [row for row in ordered if standing(row) != ABSENT]
    absent = [plain(str(row["name"])) for row in ordered if standing(row) == ABSENT]
    blocks = 1 if len(rows) <= _ONE_BLOCK else 2
    lines, scale = math.ceil(len(rows) / blocks), _fit(rows, blocks)
    gap, top = 0.4, 1.3
    inner = blocks * (scale.width + gap) - gap
    listed = textwrap.wrap(", ".join(absent), int(inner / 0.064))
    below = 0.25 + 0.18 * len(listed) if listed else 0.0
    counts = [card.splits[split]["examples"] for split in _SPLITS]
    title = f"{card.source['name']}: {counts[0]:,} train + {counts[1]:,} val examples"
    down = top + lines * _ROW + below + MARGIN
    figure = new_figure(inner + 2 * MARGIN, down, title)
    page = place_page(figure, 0, 0, *figure.get_size_inches())
    x = MARGIN
    for text, colour in _summary(card):
        page.text(x, 0.6, text, size=8.5, color=colour, va="center")
        x += widest([text], 8.5) + 0.2
    for index in range(blocks):
        part = rows[index * lines : (index + 1) * lines]
        place = MARGIN + index * (scale.width + gap)
        axes = place_page(figure, place, top, scale.width, lines * _ROW)
        _draw_block(axes, part, scale)
    y = top + lines * _ROW + 0.25
    for index, text in enumerate([f"{len(absent)} absent", *listed] if listed else []):
        ink = INK if index == 0 else MUTED
        page.text(MARGIN, y + 0.18 * index, text, size=8, color=ink, va="center")
    return png(figure)
