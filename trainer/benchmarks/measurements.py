"""What was measured, printed and as JSON."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import platform
from collections.abc import Sequence
from typing import Any

import trainer
from trainer import machine, storage

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


def publish(measured: Sequence[Measurement], *, path: str | None) -> None:
    """Prints measurements as a table and writes a JSON file, if one is named."""
    for line in table(measured):
        print(line, flush=True)
    if path is None:
        return
    content = {
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
    cells = [(row.name, _number(row.value), row.unit, row.detail) for row in measured]
    name, value, unit = (
        max((len(cell[column]) for cell in cells), default=0) for column in range(3)
    )
    return [f"{a:<{name}}  {b:>{value}} {c:<{unit}}  {d}" for a, b, c, d in cells]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.3f}"


def describe_machine() -> dict[str, Any]:
    """Processor, how many of it, and memory that this process may use."""
    return {
        "processor": _processor(),
        "cpus": machine.cpu_limit(),
        "memory_gb": round(machine.memory_limit() / 2**30, 1),
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
