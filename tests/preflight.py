"""Preflights of a small training, on a machine without a network or a GPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer import recipes
from trainer.checks import suite
from trainer.checks.suite import Asked
from trainer.checks.table import Row, Table
from trainer.data import sources
from trainer.engine import strategy

RECIPE: dict[str, Any] = {
    "encoder": "mobilenetv2",
    "encoder_weights": "none",
    "image_size": 32,
    "batch_size": 4,
    "steps_per_epoch": 2,
    "epochs": 2,
}
"""The flags of `SMALL`."""

DATA: dict[str, Any] = {"dataset": "auto", "records_dir": None}


def ask(
    recipe: dict[str, Any] | None = None,
    data: dict[str, Any] | Callable[[], dict[str, Any]] | None = None,
    **other: Any,
) -> Table:
    """The table for a small training, with changes; `data` may be a function."""
    values = {**RECIPE, **(recipe or {})}
    asked = Asked(
        gpus=None,
        recipe_name="default",
        recipe=lambda: recipes.resolve("default", values),
        data=data if callable(data) else lambda: {**DATA, **(data or {})},
        stage_dir=None,
        input_limits={},
        run_dir=None,
        seed=0,
        precision="float32",
        xla="false",
        strategy="auto",
        num_virtual_devices=0,
        resume="auto",
    )
    table = Table()
    suite.check(table, dataclasses.replace(asked, **other))
    return table


def row(table: Table, check: str) -> Row:
    [found] = [row for row in table.rows if row.check == check]
    return found


@pytest.fixture(autouse=True, name="work")
def empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, on a machine without a network or a GPU.

    A module that imports this has it for all its tests.
    """
    place = tmp_path / "work"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setattr(sources.storage, "reachable", lambda url: False)
    monkeypatch.setattr(strategy, "DRIVER", str(tmp_path / "no driver"))
    return place


def files(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))
