"""Line charts as the page draws them: paths and ticks in the units of an SVG."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

WIDTH, HEIGHT = 480, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 28
_FEW = 12
"""Up to so many points are marked by dots."""


@dataclasses.dataclass(frozen=True)
class Line:
    """A line over epochs.

    Attributes:
      name: for the legend.
      points: (epoch, value); None and NaN leave gaps.
      colour: number of a colour of the page.
      dashed: a line of less weight.
    """

    name: str
    points: Sequence[tuple[float, float | None]]
    colour: int
    dashed: bool = False

    def known(self) -> list[tuple[float, float]]:
        """The points that have a value."""
        return [(x, y) for x, y in self.points if y is not None and math.isfinite(y)]


def from_history(
    history: Sequence[dict[str, Any]],
    key: str,
    name: str,
    colour: int,
    dashed: bool = False,
) -> Line:
    """The line of one key of `history.jsonl`."""
    points = [
        (row.get("epoch", number), row.get(key))
        for number, row in enumerate(history, start=1)
    ]
    return Line(name, points, colour, dashed)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers within `[low, high]`, 1, 2 or 5 times a power of ten apart."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    return [round(step * k, 12) for k in range(first, last + 1)]


def chart(
    title: str,
    lines: Sequence[Line],
    *,
    zero: bool = False,
    level: tuple[str, float] | None = None,
) -> dict[str, Any] | None:
    """A chart for the page, or None where no line has a point.

    Args:
      title: heading.
      lines: all of them.
      zero: whether the axis starts at 0.
      level: name and height of a horizontal line to compare with.
    """
    points = [point for line in lines for point in line.known()]
    if not points:
        return None
    heights = [y for _, y in points] + ([level[1]] if level else [])
    low, high = (0.0 if zero else min(heights)), max(heights)
    room = 0.06 * (high - low) or max(abs(high), 1.0) * 0.06
    low, high = (low if zero else low - room), high + room
    first, last = min(x for x, _ in points), max(x for x, _ in points)
    scale = _Scale(first, max(last, first + 1e-9), low, high)
    # Epochs are whole numbers.
    epochs = [x for x in ticks(first, last, 6) if x == int(x)] or [first]
    return {
        "title": title,
        "across": [(scale.x(x), f"{x:g}") for x in epochs],
        "down": [(scale.y(y), f"{y:g}") for y in ticks(low, high)],
        "level": (level[0], level[1], scale.y(level[1])) if level else None,
        "lines": [_drawn(line, scale) for line in lines],
        "epochs": [(scale.x(x), x) for x in sorted({x for x, _ in points})],
    }


@dataclasses.dataclass(frozen=True)
class _Scale:
    """From values to places in the SVG."""

    first: float
    last: float
    low: float
    high: float

    def x(self, epoch: float) -> float:
        # One epoch alone stands in the middle.
        part = (epoch - self.first) / (self.last - self.first)
        part = 0.5 if self.last - self.first < 1e-6 else part
        return round(LEFT + part * (WIDTH - LEFT - RIGHT), 2)

    def y(self, value: float) -> float:
        part = (value - self.low) / (self.high - self.low)
        return round(HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM), 2)


def _drawn(line: Line, scale: _Scale) -> dict[str, Any]:
    """Path, dots and values of a line; a gap starts a new part of its path."""
    known = set(line.known())
    runs = itertools.groupby(line.points, key=lambda point: point in known)
    parts = [
        "M" + "L".join(f"{scale.x(x)} {scale.y(y or 0)}" for x, y in run)
        for there, run in runs
        if there
    ]
    dots = [(scale.x(x), scale.y(y)) for x, y in line.known()]
    return {
        "name": line.name,
        "colour": line.colour,
        "dashed": line.dashed,
        "path": "".join(parts),
        "dots": dots if len(dots) <= _FEW else [],
        "values": {f"{x:g}": round(y, 4) for x, y in line.known()},
        "end": line.known()[-1][1] if line.known() else None,
    }


def training_charts(
    runs: Sequence[tuple[str, Sequence[dict[str, Any]]]], level: float | None
) -> list[dict[str, Any]]:
    """Loss, accuracy and scores over epochs, of one run or of several.

    Args:
      runs: (name, lines of `history.jsonl`); of several, each has its own colour and
        validation alone is drawn over training's dashes.
      level: pixel accuracy of predicting background everywhere.
    """
    wanted = (
        ("Loss", (("loss", "training"), ("val_loss", "validation")), True),
        (
            "Pixel accuracy",
            (("accuracy", "training"), ("val_accuracy", "validation")),
            False,
        ),
        ("Mean IoU", (("val_mean_iou", "validation"),), True),
        ("Foreground accuracy", (("val_foreground_accuracy", "validation"),), True),
    )
    charts = []
    for title, keys, zero in wanted:
        lines = [
            from_history(
                history,
                key,
                f"{run}: {name}" if len(runs) > 1 and len(keys) > 1 else run or name,
                # Validation has the second colour, also where it is alone.
                colour=number if len(runs) > 1 else int(key.startswith("val_")),
                dashed=len(runs) > 1 and len(keys) > 1 and place == 0,
            )
            for number, (run, history) in enumerate(runs)
            for place, (key, name) in enumerate(keys)
        ]
        base = ("all background", level) if "accuracy" in keys[0] and level else None
        charts.append(chart(title, lines, zero=zero, level=base))
    return [found for found in charts if found]
