"""The notebook: it runs from top to bottom, and is kept with its pictures."""

from __future__ import annotations

import base64
import io
import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

from tests.conftest import ROOT

PATH = ROOT / "notebooks" / "getting_started.ipynb"
KEPT = nbformat.read(PATH, as_version=4)
CODE = [cell for cell in KEPT.cells if cell.cell_type == "code"]
OUTPUTS = [output for cell in CODE for output in cell.outputs]


def execute(notebook: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs all cells in a fresh kernel, as `jupyter execute` does.

    Raises:
      CellExecutionError: a cell failed.
    """
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    # That of the tests; the notebook is to be quiet by itself.
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    place = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=600, resources=place).execute()


def pictures(cell: Any) -> list[bytes]:
    found = [
        x.data["image/png"] for x in cell.outputs if "image/png" in x.get("data", {})
    ]
    return [base64.b64decode(x) for x in found]


def kinds(cell: Any) -> set[frozenset[str]]:
    """What a cell puts out: streams by name, values by type."""
    return {
        frozenset([x.name] if x.output_type == "stream" else x.data)
        for x in cell.outputs
    }


def told(cells: list[Any], text: str) -> str:
    """What the cell prints that prints such a text."""
    printed = ["".join(x.get("text", "") for x in cell.outputs) for cell in cells]
    [found] = [x for x in printed if text in x]
    return found


def test_it_runs_from_top_to_bottom_on_the_sample_and_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two of its six epochs."""
    notebook = nbformat.read(PATH, as_version=4)
    again = [cell for cell in notebook.cells if cell.cell_type == "code"]
    [fit] = [cell for cell in again if "epochs=6" in cell.source]
    fit.source = fit.source.replace("epochs=6", "epochs=2")
    execute(notebook, tmp_path, monkeypatch)
    assert [kinds(cell) for cell in again] == [kinds(cell) for cell in CODE]
    first, second = re.findall(r" loss: (\S+)", told(again, "Epoch 1/2"))
    assert float(second) < 0.8 * float(first)


def test_the_run_that_is_kept_has_learned() -> None:
    rows = re.findall(r"(\w+) +model (\S+)", told(CODE, "foreground_accuracy  model"))
    scores = {name: float(value) for name, value in rows}
    assert scores["foreground_accuracy"] > 0.3
    assert scores["mean_iou"] > 0.15


def test_a_cell_that_fails_fails_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = [nbformat.v4.new_code_cell(text) for text in ("1 / 0", "2")]
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        execute(nbformat.v4.new_notebook(cells=cells), tmp_path, monkeypatch)


def test_it_is_kept_as_one_run_from_top_to_bottom() -> None:
    nbformat.validate(KEPT)
    assert [cell.execution_count for cell in CODE] == [*range(1, len(CODE) + 1)]


def test_every_cell_that_draws_keeps_its_picture() -> None:
    drawing = [cell for cell in CODE if "trainer.draw_" in cell.source]
    assert len(drawing) >= 6
    for cell in drawing:
        [picture] = pictures(cell)
        with Image.open(io.BytesIO(picture)) as shown:
            assert shown.width > 400, cell.source


def test_it_is_kept_without_errors_and_noise() -> None:
    assert not [x for x in OUTPUTS if x.output_type == "error"]
    assert not [x.text for x in OUTPUTS if x.get("name") == "stderr"]
    texts = "".join(x.get("text", "") for x in OUTPUTS)
    assert not re.findall("(?i)warning|tensorflow|cuda|oneDNN", texts)


def test_it_is_kept_without_places_of_the_machine_that_made_it() -> None:
    text = nbformat.writes(KEPT)
    text = re.sub(r'"image/png": "[^"]*"', "", text)
    assert re.findall(r"(?<![\w.)])/(?:\w+/)+\w+|[A-Z]:\\\\", text) == []
    assert str(ROOT) not in text


def test_it_is_small_enough_to_be_kept() -> None:
    assert PATH.stat().st_size < 1_500_000
    assert max(len(cell.source.splitlines()) for cell in CODE) <= 10
    assert len(CODE) <= 13
