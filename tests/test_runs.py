"""Whose a run directory is."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

import trainer
from tests import numbered
from tests.conftest import ROOT
from trainer import provenance, recipes
from trainer.engine import runs
from trainer.errors import SeamlineError
from trainer.recipes import RECIPES, Recipe


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, Any]:
    """A run of the default recipe that has saved once, and its records' card."""
    card = numbered.write(tmp_path / "records", 4, shards=1)
    identity = runs.identify(RECIPES["default"], 0, "float32", card)
    folder = tmp_path / "run" / "checkpoints" / "last"
    folder.mkdir(parents=True)
    (folder / "ckpt-3.index").write_bytes(b"")
    (tmp_path / "run" / "config.json").write_text(json.dumps({"identity": identity}))
    return tmp_path / "run", card


@pytest.mark.parametrize(
    ("knob", "value"),
    [
        *(("patience", 3), ("encoder", "mobilenetv2"), ("learning_rate", 0.5)),
        *(("batch_size", 24), ("epochs", 7), ("loss", "dice")),
    ],
)
def test_another_recipe_or_model_is_refused_with_the_difference(
    knob: str, value: Any, run: tuple[Path, Any]
) -> None:
    before: Recipe = RECIPES["default"]
    other = dataclasses.replace(before, **{knob: value})
    identity = runs.identify(other, 0, "float32", run[1])
    difference = f"({knob}: {getattr(before, knob)} there, {value} now)"
    with pytest.raises(SeamlineError, match=re.escape(difference)):
        runs.open_run(str(run[0]), identity, "auto")


def test_other_records_are_refused_with_the_difference(
    run: tuple[Path, Any], tmp_path: Path
) -> None:
    card = numbered.write(tmp_path / "other", 5, shards=1)
    identity = runs.identify(RECIPES["default"], 0, "float32", card)
    difference = f"records_fingerprint: .* there, {card.fingerprint} now"
    with pytest.raises(SeamlineError, match=difference):
        runs.open_run(str(run[0]), identity, "auto")


def test_a_run_of_a_release_with_fewer_knobs_is_gone_on_with(
    run: tuple[Path, Any],
) -> None:
    recipe = dataclasses.replace(RECIPES["default"], **recipes.BEFORE)
    now = runs.identify(recipe, 0, "float32", run[1])
    older = {name: value for name, value in now.items() if name not in recipes.BEFORE}
    assert len(older) < len(now)
    (run[0] / "config.json").write_text(json.dumps({"identity": older}))
    runs.open_run(str(run[0]), now, "must")
    names = [runs.default_run_dir(run[1], "default", x) for x in (older, now)]
    assert names[0] == names[1]
    changed = {**now, "class_weights": "effective"}
    assert runs.default_run_dir(run[1], "default", changed) != names[0]
    difference = r"\(class_weights: median there, effective now\)"
    with pytest.raises(SeamlineError, match=difference):
        runs.open_run(str(run[0]), changed, "auto")


@pytest.mark.parametrize("resume", ["auto", "must"])
def test_the_same_run_is_gone_on_with(resume: str, run: tuple[Path, Any]) -> None:
    identity = runs.identify(RECIPES["default"], 0, "float32", run[1])
    runs.open_run(str(run[0]), identity, resume)


def test_a_run_is_never_gone_on_with_against_the_users_will(
    run: tuple[Path, Any],
) -> None:
    identity = runs.identify(RECIPES["default"], 0, "float32", run[1])
    with pytest.raises(SeamlineError, match=r"--resume=never: .* holds a run"):
        runs.open_run(str(run[0]), identity, "never")
    with pytest.raises(SeamlineError, match=r"--resume=must: .* holds no run"):
        runs.open_run(str(run[0] / "none"), identity, "must")


def test_before_its_first_checkpoint_a_run_has_nothing_to_lose(
    run: tuple[Path, Any],
) -> None:
    folder = run[0] / "checkpoints" / "last"
    (folder / "ckpt-3.index").rename(folder / "ckpt-3.data-00000-of-00001")
    other = runs.identify(RECIPES["tutorial"], 1, "float32", run[1])
    runs.open_run(str(run[0]), other, "never")


def test_a_config_that_was_altered_is_named(run: tuple[Path, Any]) -> None:
    (run[0] / "config.json").write_text("{")
    with pytest.raises(SeamlineError, match=r"config\.json: not JSON, so it was alt"):
        runs.open_run(str(run[0]), {}, "auto")


def test_a_run_knows_the_commit_of_a_checkout() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert provenance.commit() == done.stdout.strip()


def test_an_installed_package_has_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "__file__", str(tmp_path / "trainer" / "__init__.py"))
    assert provenance.commit() is None
    (tmp_path / ".git").mkdir()
    # What only looks like a checkout.
    assert provenance.commit() is None
