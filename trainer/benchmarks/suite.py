"""All that can be measured, by name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from trainer.benchmarks import comparison, measurements
from trainer.benchmarks.measurements import Measurement
from trainer.benchmarks.settings import Settings

_ON_DEVICES = {"input", "train", "step", "predict", "export", "checkpoint"}


def run(
    parts: Sequence[str],
    settings: Settings,
    *,
    path: str | None,
    compare: str | None = None,
) -> None:
    """Measures parts one after the other; prints a table, writes JSON after each.

    Args:
      parts: of "convert", "input", "train", "step", "predict", "export",
        "checkpoint", "startup", "scale" and "tutorial".
      settings: of all parts.
      path: JSON file to write, or None.
      compare: JSON file of an earlier call to print beside, or None.

    Raises:
      SeamlineError: a value, file or folder that only the user can mend.
    """
    earlier = comparison.read(compare) if compare else None
    # Parts start processes of their own, which find no memory on a GPU that this one
    # has taken whole, as TensorFlow does otherwise.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    measured: list[Measurement] = []
    for rows in _measure(parts, settings):
        measured += rows
        if path is not None:
            measurements.write(measured, path, settings.recipe)
    if earlier:
        lines = comparison.table(measured, earlier, settings.recipe)
    else:
        lines = measurements.table(measured)
    for line in lines:
        print(line, flush=True)


def _measure(
    parts: Sequence[str], settings: Settings
) -> Iterator[Sequence[Measurement]]:
    """Part by part, so that what is measured is kept if a later one fails."""
    devices = None
    if set(parts) & _ON_DEVICES:
        from trainer.engine.strategy import build_strategy

        # First of all: TensorFlow's first op starts its threads, and only before can
        # they be fitted to the processors of a container.
        devices = build_strategy("auto")
    if "convert" in parts:
        from trainer.benchmarks import conversion

        yield conversion.measure(
            dataset=settings.data["dataset"],
            layout=settings.data["layout"],
            record_size=settings.data["record_size"],
            worker_count=settings.data["workers"],
            repeats=settings.repeats,
        )
    if "input" in parts:
        from trainer.benchmarks import inputs

        yield inputs.measure(settings)
    if devices is not None and set(parts) & {"input", "train"}:
        from trainer.benchmarks import training

        yield training.measure(settings, devices)
    if devices is not None and set(parts) & {"step", "checkpoint"}:
        from trainer.benchmarks import steps

        yield steps.measure(settings, devices, parts)
    if "predict" in parts:
        from trainer.benchmarks import prediction

        yield prediction.measure(settings)
    if "export" in parts:
        from trainer.benchmarks import export

        yield export.measure(settings)
    if "startup" in parts:
        from trainer.benchmarks import startup

        yield startup.measure(settings)
    if "scale" in parts:
        from trainer.benchmarks import scale

        yield scale.measure(settings)
    if "tutorial" in parts:
        from trainer.benchmarks import tutorial

        yield tutorial.measure(settings)
