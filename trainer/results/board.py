"""What TensorBoard shows of a run besides numbers: pictures of an epoch, and settings.

No TensorFlow here: the training writes the events.
"""

from __future__ import annotations

import functools
import html
from collections.abc import Sequence
from typing import Any

import numpy as np

from trainer.data.examples import Examples
from trainer.results import tables
from trainer.results.charts import confusion_chart
from trainer.results.drawing import pixels
from trainer.results.figures import EpochSheet

_SPECIAL = {ord(sign): f"&#{ord(sign)};" for sign in "|*_`[]\\"}
"""What would be taken for Markdown."""
_TOLD_ELSEWHERE = {"command", "date", "recipe_values"}


class Painter:
    """Draws the validation of each epoch.

    Args:
      val: examples that are validated on.
      numbers: of those whose predictions are shown.
      label_names: C names.
    """

    def __init__(
        self, val: Examples, numbers: Sequence[int], label_names: Sequence[str]
    ) -> None:
        self._val, self._numbers, self._names = val, numbers, label_names

    @functools.cached_property
    def _sheet(self) -> EpochSheet:
        shown = self._val.fetch(self._numbers)
        return EpochSheet(*shown, self._names, title="Validation examples")

    def __call__(self, confusion: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
        """Pictures by name, each uint8 `[H, W, 3]` RGB.

        Args:
          confusion: int `[C, C]`, rows are the truth.
          labels: uint8 `[K, S, S]`, predicted for the examples `numbers`.
        """
        scores = {
            "per_class": [{"name": name} for name in self._names],
            "confusion": confusion.tolist(),
        }
        found = {"examples": self._sheet.draw(labels)}
        matrix = tables.matrix(scores)
        if matrix and matrix["rows"]:
            title = "What was taken for what"
            found["confusion"] = pixels(confusion_chart(matrix, title=title))
        return found


def about(config: dict[str, Any], before: dict[str, Any] | None) -> str:
    """The settings of a run as Markdown; empty where they were told before.

    Args:
      config: contents of `config.json`.
      before: those of an earlier process of the run, or None.
    """
    text = _markdown(config)
    return "" if before is not None and _markdown(before) == text else text


def _markdown(config: dict[str, Any]) -> str:
    usual = config.get("recipe_values", {})
    told = {x: y for x, y in config.items() if x not in _TOLD_ELSEWHERE}
    rows = []
    for name, value in tables.settings(told).items():
        recipes = usual.get(name, value)
        cells = (name, value, "" if recipes == value else recipes)
        rows.append(f"| {' | '.join(map(_literal, cells))} |")
    head = ["| setting | value | the recipe's, if another |", "|---|---|---|"]
    return "\n".join([f"    {config.get('command')}", "", *head, *rows])


def _literal(value: Any) -> str:
    """A value as one cell of a table, its signs as they are."""
    shown = "–" if value is None or value == [] else str(value)
    return html.escape(" ".join(shown.split())).translate(_SPECIAL)
