"""The network drawn as a U: what `plot_model` shows, without graphviz."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from trainer.results.drawing import (
    BLUE,
    INK,
    MARGIN,
    MUTED,
    ORANGE,
    TEAL,
    new_figure,
    place_page,
    plain,
    png,
    text_width,
)

_FILL = {"input": MUTED, "encoder": BLUE, "decoder": ORANGE, "output": TEAL}
_LEFT = ("input", "encoder")
_CLEAR = 0.4
"""Inches between two boxes above each other, for the arrow."""


def _box_size(shape: Sequence[int]) -> tuple[float, float]:
    """Inches (width, height): one grows with log channels, the other with log size."""
    height, _, channels = shape
    return 0.2 + 0.115 * math.log2(channels + 1), 0.16 + 0.085 * math.log2(height)


def _rows(stages: list[dict]) -> list[tuple[dict | None, dict | None]]:
    """Pairs (left, right) of stages from top to bottom, equal sizes face each other."""
    left = [stage for stage in stages if stage["side"] in _LEFT]
    right = [stage for stage in stages if stage["side"] not in _LEFT][::-1]
    rows: list[tuple[dict | None, dict | None]] = []
    while left or right:
        sizes = [side[0]["shape"][0] if side else 0 for side in (left, right)]
        rows.append(
            (
                left.pop(0) if sizes[0] >= sizes[1] and left else None,
                right.pop(0) if sizes[1] >= sizes[0] and right else None,
            )
        )
    return rows


def _draw_stage(axes: Axes, stage: dict, x: float, y: float, text_side: str) -> None:
    """A box around (x, y), its name and H×W×C beside it."""
    width, height = _box_size(stage["shape"])
    colour = _FILL[stage["side"]]
    corner = (x - width / 2, y - height / 2)
    box = FancyBboxPatch(
        corner, width, height, boxstyle="round,pad=0,rounding_size=0.05"
    )
    box.set(facecolor=colour + "2e", edgecolor=colour, linewidth=1.3, clip_on=False)
    axes.add_patch(box)
    turn = -1 if text_side == "left" else 1
    place, align = x + turn * (width / 2 + 0.1), "right" if turn < 0 else "left"
    dims = " × ".join(str(side) for side in stage["shape"])
    axes.text(place, y - 0.02, plain(stage["name"]), size=9, color=INK, ha=align)
    axes.text(place, y + 0.14, dims, size=8, color=MUTED, ha=align)


def _arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], **style: Any
) -> None:
    look = {"color": MUTED, "lw": 1.2, "shrinkA": 0, "shrinkB": 0, **style}
    look["arrowstyle"] = "-|>,head_length=0.35,head_width=0.16"
    axes.annotate("", xy=end, xytext=start, arrowprops=look)


def _draw_path(axes: Axes, places: list[tuple[dict, float, float]]) -> None:
    """Arrows along the path of the data."""
    for (one, x, y), (two, to_x, to_y) in pairwise(places):
        high, wide = _box_size(one["shape"])[1] / 2, _box_size(two["shape"])[0] / 2
        rest = _box_size(two["shape"])[1] / 2
        if x == to_x:
            down = 1 if to_y > y else -1
            _arrow(
                axes, (x, y + down * (high + 0.04)), (x, to_y - down * (rest + 0.04))
            )
        else:
            bend = "angle,angleA=0,angleB=90,rad=6"
            out = x + _box_size(one["shape"])[0] / 2 + 0.05
            straight = abs(to_y - y) < 0.01
            end = (to_x - wide - 0.05, y) if straight else (to_x, to_y + rest + 0.04)
            _arrow(axes, (out, y), end, connectionstyle=None if straight else bend)


def _draw_skips(
    axes: Axes, places: list[tuple[dict, float, float]], joined: str
) -> None:
    """Dashed arrows from the last encoder stage of a size to its decoder stage."""
    sources = {
        tuple(stage["shape"][:2]): x + _box_size(stage["shape"])[0] / 2 + 0.06
        for stage, x, _ in places
        if stage["side"] == "encoder"
    }
    top: tuple[float, float] | None = None
    for stage, x, y in places:
        start = sources.get(tuple(stage["shape"][:2]))
        if stage["side"] == "decoder" and start is not None:
            end = x - _box_size(stage["shape"])[0] / 2 - 0.06
            _arrow(axes, (start, y), (end, y), linestyle=(0, (4, 3)), lw=1.0)
            top = ((start + end) / 2, y - 0.06)
    if top:
        text = axes.text(*top, f"skip: {joined}", size=8, color=MUTED, ha="center")
        text.set_fontstyle("italic")


def model_diagram(
    stages: list[dict],
    *,
    title: str,
    parameters: dict[str, int] | None = None,
    joined: str = "concatenate",
) -> bytes:
    """PNG of the U: encoder down the left, decoder up the right, skips across.

    Args:
      stages: in the order of the data, dicts with name, side ("input", "encoder",
        "decoder" or "output") and shape `[H, W, C]`. A decoder stage takes the last
        encoder stage of its size as a skip.
      title: heading of the figure.
      parameters: counts "total" and "trainable" for the caption.
      joined: what a decoder stage does with its skip.
    """
    rows = _rows(stages)
    tall = [max(_box_size(s["shape"])[1] for s in row if s) for row in rows]
    names = [
        [plain(s["name"]) for s in stages if (s["side"] in _LEFT) == first]
        for first in (True, False)
    ]
    text = [max([1.0, *(text_width(n, 9) for n in side)]) + 0.85 for side in names]
    inner, down = text[0] + 3.6 + text[1], sum(tall) + _CLEAR * (len(rows) - 1)
    figure = new_figure(inner + 2 * MARGIN, down + 1.45, title)
    # A title may have widened the page: the U stays in its middle.
    start = (figure.get_figwidth() - inner) / 2
    axes = place_page(figure, start, 0.75, inner, down + 0.5)
    found: dict[int, tuple[float, float]] = {}
    top = 0.0
    for row, height in zip(rows, tall, strict=True):
        for side, stage in enumerate(row):
            if stage is not None:
                x, y = (text[0], inner - text[1])[side], top + height / 2
                found[id(stage)] = (x, y)
                _draw_stage(axes, stage, x, y, ("left", "right")[side])
        top += height + _CLEAR
    places = [(stage, *found[id(stage)]) for stage in stages]
    _draw_path(axes, places)
    _draw_skips(axes, places, joined)
    if parameters:
        kinds = [kind for kind in ("total", "trainable") if kind in parameters]
        order = [f"{parameters[kind]:,} {kind}" for kind in kinds]
        caption = "Parameters: " + " · ".join(order)
        axes.text(inner / 2, down + 0.38, caption, size=9, color=INK, ha="center")
    return png(figure)
