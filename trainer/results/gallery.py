"""Pictures of examples as the page shows them: a photo, and layers over it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from trainer.labels import IGNORE_LABEL, palette
from trainer.results.figures import legend_labels
from trainer.results.kept import Collection, Kept
from trainer.results.layers import (
    error_layer,
    label_layer,
    label_map,
    read_map,
    spot_layer,
)
from trainer.results.pages import address
from trainer.results.regions import named_places

UNITS = 300
"""Width of a picture in the units of the names' font size."""
_FONT = 13
_EACH = 3
_SPOTS = 10
_PALE = np.array([245, 245, 245], np.uint8)


def panel(
    kind: str, title: str, mask: np.ndarray, kept: Kept, names: Sequence[str]
) -> dict[str, Any]:
    """Labels as a layer over the photo, named where there is room.

    Args:
      kind: what the page calls it: "truth", "prediction" or another word.
      title: heading.
      mask: uint8 `[H, W]` labels.
      kept: whose photo they are laid over.
      names: of label 0, 1, ...
    """
    shape = (units_high(kept), float(UNITS))
    shown = [names[x] for x in legend_labels(mask) if 0 < x < len(names)]
    return {
        "kind": kind,
        "title": title,
        "layer": address(label_layer(mask, palette(IGNORE_LABEL), kept.shape)),
        "map": address(label_map(mask)),
        "names": [
            (name, round(x, 1), round(y, 1))
            for name, x, y in named_places(mask, names, _FONT, shape)
        ],
        "text": ", ".join(shown) or "background alone",
    }


def units_high(kept: Kept) -> float:
    """Height of an example's pictures, where they are 300 wide."""
    height, width = kept.shape
    return round(UNITS * height / width, 1)


def view(kept: Kept, names: Sequence[str]) -> dict[str, Any]:
    """An example with its truth, its prediction and what is wrong in it."""
    truth, labels = kept.masks()
    wrong = (truth != labels) & (truth != IGNORE_LABEL)
    counted = int((truth != IGNORE_LABEL).sum())
    errors: dict[str, Any] = {
        "kind": "errors",
        "title": "Errors",
        "layer": address(error_layer(truth, labels, kept.shape)),
        "map": None,
        "names": [],
        "text": f"{100 * wrong.sum() / max(counted, 1):.1f} % of pixels are wrong",
    }
    return {
        "id": kept.image_id,
        "score": kept.score,
        "height": units_high(kept),
        "photo": address(kept.photo, "jpeg"),
        "panels": [
            panel("truth", "Truth", truth, kept, names),
            panel("prediction", "Prediction", labels, kept, names),
            errors,
        ],
    }


def sample_view(kept: Kept, names: Sequence[str]) -> dict[str, Any]:
    """A training example with its truth."""
    return {
        "id": kept.image_id,
        "score": None,
        "height": units_high(kept),
        "photo": address(kept.photo, "jpeg"),
        "panels": [panel("truth", "Labels", read_map(kept.truth), kept, names)],
    }


def ranked(collection: Collection) -> dict[str, list[Kept]]:
    """The best, median and worst validation examples: 3 each at most, none twice."""
    scored = [x for x in collection.val if x.score is not None and x.labels]
    order = sorted(scored, key=lambda kept: (-(kept.score or 0.0), kept.image_id))
    each = max(1, min(_EACH, len(order) // 3))
    middle = max(each, (len(order) - each) // 2)
    groups = {
        "Best": order[:each],
        "Median": order[middle : middle + each],
        "Worst": order[max(middle + each, len(order) - each) :][::-1],
    }
    return {name: group for name, group in groups.items() if group}


def gallery(collection: Collection) -> dict[str, Any]:
    """Best, median and worst examples, and the legend of all classes in them."""
    names, groups = collection.label_names, ranked(collection)
    shown = [kept for group in groups.values() for kept in group]
    return {
        "groups": [(x, [view(y, names) for y in group]) for x, group in groups.items()],
        "legend": legend([mask for kept in shown for mask in kept.masks()], names),
        "among": len(collection.val),
        "examples": collection.examples,
    }


def legend(masks: Sequence[np.ndarray], names: Sequence[str]) -> list[dict[str, Any]]:
    """Classes in masks, the largest area first: label, name and colour."""
    named = dict(enumerate(names)) | {IGNORE_LABEL: "ignored"}
    return [
        {"label": x, "name": named.get(x, f"label {x}"), "colour": colour(x)}
        for x in legend_labels(*masks)
    ]


def colour(label: int) -> str:
    """The colour of a label for CSS."""
    return "#" + bytes(palette(IGNORE_LABEL)[label]).hex()


def spots(
    collection: Collection, pairs: Sequence[dict[str, Any]]
) -> dict[tuple[int, int], dict[str, Any]]:
    """For frequent mistakes an example each: where one class is taken for another.

    Args:
      collection: of the run.
      pairs: as `tables.confusions` gives them.

    Returns:
      By (truth, predicted): the example with the most such pixels.
    """
    masks = [(kept, *kept.masks()) for kept in collection.val if kept.labels]
    found = {}
    for truth_label, label in [pair["labels"] for pair in pairs[:_SPOTS]]:
        regions = [
            (kept, (truth == truth_label) & (labels == label))
            for kept, truth, labels in masks
        ]
        kept, region = max(regions, key=lambda x: x[1].sum(), default=(None, None))
        if kept is None or region is None or not region.any():
            continue
        # The background's own colour could not be seen on darkened ground.
        shade = palette(IGNORE_LABEL)[label] if label else _PALE
        found[truth_label, label] = {
            "id": kept.image_id,
            "photo": address(kept.photo, "jpeg"),
            "layer": address(spot_layer(region, shade, kept.shape)),
            "height": units_high(kept),
        }
    return found
