"""What was measured, as a table and as JSON."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import platform
import sys
from collections.abc import Collection, Sequence
from typing import Any

import trainer
from trainer import machine, provenance, storage
from trainer.recipes import Recipe

_PACKAGES = ("tensorflow", "keras", "numpy", "scipy", "opencv-python-headless")


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One number.

    Attributes:
      name: what others read it by.
      value: the number.
      unit: of the value; "" for a ratio.
      detail: how it came about, for people.
    """

    name: str
    value: float
    unit: str
    detail: str


def write(measured: Sequence[Measurement], path: str, recipe: Recipe) -> None:
    """Writes measurements as JSON, with all that they depend on.

    docs/benchmarks.md describes the file.
    """
    content = {
        "command": " ".join(["python -m trainer.benchmark", *sys.argv[1:]]),
        "recipe": dataclasses.asdict(recipe),
        "commit": provenance.commit(),
        "machine": describe_machine(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat("T", "seconds"),
        "versions": {
            "seamline": trainer.__version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
        "measurements": [dataclasses.asdict(row) for row in measured],
    }
    storage.write_text(path, json.dumps(content, indent=1) + "\n")


def table(measured: Sequence[Measurement]) -> list[str]:
    """One line a measurement: name, value, unit, how it came about."""
    return align(
        [(row.name, number(row.value), row.unit, row.detail) for row in measured],
        right=[1],
    )


def align(rows: Sequence[Sequence[str]], *, right: Collection[int]) -> list[str]:
    """One line a row, its columns as wide as need be; the last one ends anywhere.

    Args:
      rows: cells, as many in each.
      right: columns that end, not begin, under each other.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if place in right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def number(value: float) -> str:
    """A value for people."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.3f}"


def describe_machine() -> dict[str, Any]:
    """Processor, how many of it, memory that this process may use, and GPUs."""
    return {
        "processor": _processor(),
        "cpus": machine.cpu_limit(),
        "memory_gb": round(machine.memory_limit() / 2**30, 1),
        "gpus": provenance.gpus(),
    }


def _processor() -> str:
    try:
        text = storage.read_text("/proc/cpuinfo")
    except OSError:
        return platform.processor()
    names = [
        line.partition(":")[2].strip()
        for line in text.splitlines()
        if line.startswith("model name")
    ]
    return names[0] if names else platform.machine()
