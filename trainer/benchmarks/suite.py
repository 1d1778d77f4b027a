"""All that can be measured, by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trainer.benchmarks.measurements import Measurement, publish
from trainer.recipes import Recipe


def run(
    parts: Sequence[str],
    *,
    recipe: Recipe,
    data: dict[str, Any],
    input_limits: dict[str, int],
    seed: int,
    repeats: int,
    path: str | None,
) -> None:
    """Measures parts one after the other; prints a table and writes JSON.

    Args:
      parts: of "convert", "input" and "train".
      recipe: of input and training.
      data: keyword arguments of `dataset.prepare`.
      input_limits: keyword arguments of `limits.settle`.
      seed: of weights, order and augmentation.
      repeats: how often what is compared is measured, in turns.
      path: JSON file to write, or None.

    Raises:
      SeamlineError: a value, file or folder that only the user can mend.
    """
    measured: list[Measurement] = []
    settings: dict[str, Any] = {
        "recipe": recipe,
        "data": data,
        "input_limits": input_limits,
        "seed": seed,
        "repeats": repeats,
    }
    if "convert" in parts:
        from trainer.benchmarks import conversion

        measured += conversion.measure(
            dataset=data["dataset"],
            layout=data["layout"],
            record_size=data["record_size"],
            worker_count=data["workers"],
            repeats=repeats,
        )
    if "input" in parts:
        from trainer.benchmarks import inputs

        measured += inputs.measure(**settings)
    if "input" in parts or "train" in parts:
        from trainer.benchmarks import training

        measured += training.measure(**settings)
    publish(measured, path=path)
