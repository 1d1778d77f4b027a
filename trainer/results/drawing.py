"""The common look of all figures: colours, text and a page measured in inches.

Everything is drawn on `matplotlib.figure.Figure`, without pyplot and its global state.
"""

from __future__ import annotations

import functools
import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath

INK, MUTED, LINE, PALE = "#1f2933", "#66717e", "#dde2e8", "#eef2f6"
BLUE, ORANGE, TEAL = "#2f6fbd", "#e07b39", "#1f9d8a"
DPI = 150
MARGIN = 0.3
"""Inches around every figure."""


def plain(text: str, most: int = 36) -> str:
    """`text` cut to `most` characters, its dollars kept from starting a formula."""
    short = text if len(text) <= most else text[: most - 1] + "…"
    return short.replace("$", r"\$")


@functools.cache
def text_width(text: str, size: float) -> float:
    """Inches that `text` takes at a font size in points."""
    return TextPath((0, 0), text, size=size).get_extents().width / 72 if text else 0.0


def new_figure(width: float, height: float, title: str) -> Figure:
    """An empty white figure of these inches, or wider where its title asks for it."""
    title = plain(title, 110)
    width = max(width, 1.12 * text_width(title, 12) + 2 * MARGIN)
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    place = (MARGIN / width, 1 - 0.32 / height)
    figure.text(*place, title, size=12, weight="bold", color=INK, va="center")
    return figure


def place_axes(
    figure: Figure, left: float, top: float, width: float, height: float
) -> Axes:
    """Axes at inches from the top left corner of the figure."""
    across, down = figure.get_size_inches()
    place = (left / across, 1 - (top + height) / down, width / across, height / down)
    return figure.add_axes(place)


def place_page(
    figure: Figure, left: float, top: float, width: float, height: float
) -> Axes:
    """Invisible axes whose coordinates are inches to the right and downwards."""
    axes = place_axes(figure, left, top, width, height)
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    return axes


def png(figure: Figure) -> bytes:
    """The figure as PNG bytes: 150 pixels an inch, the same bytes every time."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi="figure", metadata={"Software": None})
    return buffer.getvalue()


def pixels(figure: Figure) -> np.ndarray:
    """The figure as uint8 `[H, W, 3]` RGB, 150 pixels an inch."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]
