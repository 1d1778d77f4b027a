"""Charts of training and of the scores, as PNG bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from trainer.labels import IGNORE_LABEL, palette
from trainer.results.drawing import (
    BLUE,
    INK,
    LINE,
    MARGIN,
    MUTED,
    ORANGE,
    PALE,
    TEAL,
    new_figure,
    place_axes,
    place_page,
    plain,
    png,
    text_width,
)

MOST_BARS = 59
_CELL = (0.42, 0.3)
"""Inches to the right and downwards."""
_RIGHT, _WRONG = "#6ea8e8", "#f0a05c"
_LEAST_SHARE = 0.005
"""Of a cell that gets a number: less is 0 per cent."""


def _numbers(history: list[dict], key: str) -> np.ndarray:
    """One value an epoch: float64 `[epochs]`, NaN where a line has none."""
    values = [row.get(key) for row in history]
    return np.array([np.nan if value is None else value for value in values], float)


def _curve_panel(
    axes: Axes, history: list[dict], title: str, lines: list[tuple[str, str, str]]
) -> None:
    """Draws (name, key, colour) lines over epochs, the last value in the legend."""
    epochs = _numbers(history, "epoch")
    for name, key, colour in lines:
        values = _numbers(history, key)
        known = values[np.isfinite(values)]
        label = f"{name}  {known[-1]:.3f}" if known.size else f"{name}  –"
        mark: dict[str, Any] = {"marker": "o", "ms": 4} if len(epochs) < 12 else {}
        axes.plot(epochs, values, color=colour, lw=1.8, label=label, **mark)
    axes.set_title(title, size=10, color=INK, loc="left", pad=28)
    axes.set_xlabel("epoch", size=8.5, color=MUTED)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
    if len(epochs):
        around = 0.5 if len(epochs) == 1 else 0.02 * np.ptp(epochs)
        axes.set_xlim(epochs.min() - around, epochs.max() + around)
    axes.tick_params(labelsize=8.5, colors=MUTED, length=0)
    axes.grid(color=LINE, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.margins(y=0.12)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def curves(
    history: list[dict], *, background_accuracy: float | None, title: str
) -> bytes:
    """PNG with loss, pixel accuracy and scores over the epochs.

    Args:
      history: lines of `history.jsonl`, one an epoch; missing values leave gaps.
      background_accuracy: pixel accuracy 0..1 of predicting background everywhere.
      title: heading of the figure.
    """
    figure = new_figure(13.2, 4.1, title)
    panels = [place_axes(figure, 0.75 + 4.25 * k, 1.2, 3.5, 2.35) for k in range(3)]
    both = (("training", "{}", BLUE), ("validation", "val_{}", ORANGE))
    for axes, heading, key in zip(
        panels, ("Loss", "Pixel accuracy"), ("loss", "accuracy"), strict=False
    ):
        lines = [(name, form.format(key), colour) for name, form, colour in both]
        _curve_panel(axes, history, heading, lines)
    if background_accuracy is not None:
        label = f"all background  {background_accuracy:.3f}"
        dashes = (0, (4, 3))
        panels[1].axhline(
            background_accuracy, color=MUTED, ls=dashes, lw=1.3, label=label
        )
    scores = [
        ("mean IoU", "val_mean_iou", TEAL),
        ("foreground accuracy", "val_foreground_accuracy", ORANGE),
    ]
    _curve_panel(panels[2], history, "Validation scores", scores)
    for axes in (panels[0], panels[2]):
        top = axes.dataLim.y1
        axes.set_ylim(0, 1.12 * top if np.isfinite(top) and top > 0 else 1)
    style: dict[str, Any] = {
        "loc": "lower left",
        "bbox_to_anchor": (-0.02, 1.03),
        "borderaxespad": 0.2,
        "columnspacing": 0.9,
        "handlelength": 1.1,
        "handletextpad": 0.5,
        "frameon": False,
        "fontsize": 8,
        "labelcolor": INK,
    }
    for axes in panels:
        axes.legend(ncols=3, **style)
    return png(figure)


def class_bars(per_class: list[dict], *, title: str) -> bytes:
    """PNG with one bar of IoU for each class that the truth holds, the best on top.

    Args:
      per_class: dicts with name, iou (0..1 or None), pixels and images. Of more than 59
        classes the 59 with the most pixels are drawn.
      title: heading of the figure.
    """
    present = [row for row in per_class if row.get("pixels") and row["iou"] is not None]
    present = sorted(present, key=lambda row: -row["pixels"])[:MOST_BARS]
    present.sort(key=lambda row: -row["iou"])
    names = [plain(str(row["name"])) for row in present]
    left = max((text_width(name, 8.5) for name in names), default=0.0) + 0.15
    bar, down = 4.2, 0.24 * max(len(present), 1)
    figure = new_figure(left + bar + 2.0 + 2 * MARGIN, down + 1.05, title)
    axes = place_page(figure, MARGIN, 0.8, left + bar + 2.0, down)
    style: dict[str, Any] = {"size": 8.5, "va": "center_baseline"}
    counts = left + bar + 0.6
    axes.text(left, -0.1, "IoU", size=8.5, color=MUTED)
    axes.text(counts, -0.1, "pixels · images with it", size=8.5, color=MUTED)
    for place, (row, name) in enumerate(zip(present, names, strict=True)):
        y = 0.24 * place
        middle = y + 0.12
        axes.add_patch(Rectangle((left, y + 0.04), bar, 0.16, fc=PALE))
        axes.add_patch(Rectangle((left, y + 0.04), bar * row["iou"], 0.16, fc=BLUE))
        axes.text(left - 0.1, middle, name, ha="right", color=INK, **style)
        axes.text(left + bar + 0.1, middle, f"{row['iou']:.3f}", color=INK, **style)
        seen = row.get("images")
        text = f"{row['pixels']:,}" + ("" if seen is None else f" · {seen:,}")
        axes.text(counts, middle, text, color=MUTED, **style)
    return png(figure)


def confusion_chart(matrix: dict[str, Any], *, title: str) -> Figure:
    """What pixels of each class were taken for, in per cent of the class.

    Args:
      matrix: see `tables.matrix`: labels, their names, and rows of (name, share of
        each, share of all others).
      title: heading of the figure.
    """
    heads = [plain(str(name), 18) for name in (*matrix["names"], "others")]
    count, (wide, high), corner = len(heads), _CELL, "truth ↓  predicted →"
    longest = max(text_width(name, 8.5) for name in heads)
    left = max(longest + 0.35, text_width(corner, 8) + 0.1)
    width, height, top = wide * count, high * (count - 1), 0.8 + 0.75 * longest
    across = MARGIN + left + width + max(0.75 * longest - wide / 2, MARGIN)
    figure = new_figure(across, top + height + 0.6, title)
    axes = place_page(figure, MARGIN + left, top, width, height)
    turned: dict[str, Any] = {"rotation": 45, "rotation_mode": "anchor", "size": 8.5}
    colours = palette(IGNORE_LABEL) / 255
    axes.text(-left, -0.12, corner, size=8, color=MUTED, va="center_baseline")
    for column, head in enumerate(heads):
        axes.text(wide * (column + 0.5), -0.08, head, va="center", color=INK, **turned)
    for row, label in enumerate(matrix["labels"]):
        y, swatch = high * (row + 0.5), {"fc": colours[label], "clip_on": False}
        axes.add_patch(Rectangle((-left, y - 0.075), 0.15, 0.15, **swatch))
        axes.text(0.22 - left, y, heads[row], size=8.5, color=INK, va="center_baseline")
    parts = [[*shares, others] for _, shares, others in matrix["rows"]]
    _draw_cells(axes, np.array(parts))
    more = f" of {count - 1 + matrix['more']}" if matrix["more"] else ""
    note = (
        f"Per cent of each class's pixels, for the {count - 1}{more} classes with the "
        "most. Blue is right, orange is wrong."
    )
    axes.text(-left, height + 0.28, note, size=8, color=MUTED, va="center")
    return figure


def _draw_cells(axes: Axes, parts: np.ndarray) -> None:
    """Cells, float `[rows, columns]`: the larger the part, the stronger its colour."""
    rows, columns = np.indices(parts.shape)
    strong = np.where((rows == columns)[..., None], to_rgb(_RIGHT), to_rgb(_WRONG))
    weight = parts[..., None] ** 0.6
    colours = weight * strong + (1 - weight) * np.array(to_rgb(PALE))
    corners = np.stack([columns, rows], axis=-1)[..., None, :] * _CELL
    square = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * (np.array(_CELL) - 0.02)
    # One by one, they would take most of the time of the figure.
    shapes = (corners + square + 0.01).reshape(-1, 4, 2)
    axes.add_collection(PolyCollection(list(shapes), facecolors=colours.reshape(-1, 3)))
    style: dict[str, Any] = {"size": 8.5, "color": INK, "va": "center_baseline"}
    for row, column in np.argwhere(parts >= _LEAST_SHARE):
        x, y = _CELL[0] * (column + 0.5), _CELL[1] * (row + 0.5)
        axes.text(x, y, f"{100 * parts[row, column]:.0f}", ha="center", **style)
