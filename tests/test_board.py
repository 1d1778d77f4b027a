"""What TensorBoard shows of a training, read back by its own reader."""

from __future__ import annotations

import dataclasses
import html
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard import plugin_util

from tests.conftest import ROOT
from tests.events import Events, holds
from tests.test_engine import (
    NAMES,
    _Interrupt,
    crash_when,
    make_job,
    one_device,
    shapes,
    two_replicas,
    weights,
)
from trainer.engine import board as events
from trainer.engine import loop, state, steps
from trainer.engine.job import Job
from trainer.labels import palette
from trainer.results import board

SHOWN = [0, 1, 4, 5]
"""Of six validation examples in batches of four."""


def train(job: Job, **options: Any) -> list[dict]:
    painter = board.Painter(job.val, steps.watched(job), NAMES)
    return loop.train(job, paint=painter, **options)


def predictions(job: Job, numbers: list[int]) -> np.ndarray:
    """Labels by the model as it stands, one image at a time."""
    images, _ = job.val.fetch(numbers)
    logits = [job.model(image[np.newaxis].astype(np.float32)) for image in images]
    return np.concatenate(logits).argmax(-1).astype(np.uint8)


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Job:
    job = make_job(tmp_path_factory.mktemp("run") / "painted", one_device())
    train(job, about="| setting |")
    return job


def test_each_epoch_has_its_pictures_at_the_step_of_its_numbers(painted: Job) -> None:
    found = Events(painted.run_dir)
    assert found.tags >= {"examples", "confusion", "settings", "loss", "val_mean_iou"}
    for tag in ("loss", "val_mean_iou", "examples", "confusion"):
        assert found.steps(tag) == [3, 6, 9]
    assert found.steps("settings") == [0]
    assert found.text("settings") == ["| setting |"]


def test_every_tag_of_the_documentation_is_in_a_run(painted: Job) -> None:
    page = (ROOT / "docs" / "tensorboard.md").read_text()
    rows = re.findall(r"^\| (?:Scalars|Images|Text) \| (.*?) \|", page, re.MULTILINE)
    tags = {tag for row in rows for tag in re.findall(r"`(\w+)`", row)}
    assert len(tags) == 5
    assert tags <= Events(painted.run_dir).tags


def test_the_panel_holds_truth_and_prediction_in_the_palette(painted: Job) -> None:
    first, last = (Events(painted.run_dir).picture("examples", x) for x in (3, 9))
    _, truths = painted.val.fetch(SHOWN)
    # At 256 pixels, each of the 32 is 8 wide and high.
    truths, after = (
        palette(255)[np.kron(labels, np.ones((1, 8, 8), np.uint8))]
        for labels in (truths, predictions(painted, SHOWN))
    )
    assert all(holds(first, tile) and holds(last, tile) for tile in truths)
    assert all(holds(last, tile) for tile in after)
    assert not any(holds(first, tile) for tile in after)


def test_pictures_change_nothing_in_the_training(painted: Job, tmp_path: Path) -> None:
    plain = make_job(tmp_path / "run", one_device())
    loop.train(plain)
    assert "examples" not in Events(plain.run_dir).tags
    for ours, theirs in zip(weights(painted), weights(plain), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("devices", [one_device, two_replicas])
def test_what_is_watched_is_predicted_as_by_the_model_alone(
    devices: Any, tmp_path: Path
) -> None:
    job = make_job(tmp_path / "run", devices())
    assert steps.watched(job) == SHOWN
    labels = steps.compile_validation(job)().labels
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, predictions(job, SHOWN))


@pytest.mark.parametrize(
    ("examples", "numbers"),
    [
        (1, [0]),
        (3, [0, 1, 2]),
        (5, [0, 1, 2, 4]),
        (14, [0, 4, 8, 12]),
        (90, [0, 4, 8, 12]),
    ],
)
def test_the_examples_to_watch_do_not_depend_on_the_replicas(
    examples: int, numbers: list[int], tmp_path: Path
) -> None:
    job = make_job(tmp_path / "run", one_device(), val=shapes(examples, seed=1))
    assert steps.watched(job) == numbers
    if numbers[-1] != 3 and 2 not in numbers:
        shared = dataclasses.replace(job, strategy=two_replicas())
        assert steps.watched(shared) == numbers


def test_an_epoch_that_is_trained_again_is_shown_once(
    painted: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        crash_when(patched, state.Checkpoints, "save", lambda at: at.epoch == 2)
        with pytest.raises(_Interrupt):
            train(make_job(tmp_path / "run", one_device()), about="before")
    assert Events(tmp_path / "run").steps("examples") == [3, 6]
    train(make_job(tmp_path / "run", one_device()), about="after")
    found = Events(tmp_path / "run")
    for tag in ("loss", "examples", "confusion"):
        assert found.steps(tag) == [3, 6, 9]
    assert dict(zip(found.steps("settings"), found.text("settings"), strict=True)) == {
        0: "before",
        3: "after",
    }
    last = [
        Events(x).picture("examples", 9) for x in (tmp_path / "run", painted.run_dir)
    ]
    np.testing.assert_array_equal(*last)


def test_a_run_that_begins_anew_is_told_once(tmp_path: Path) -> None:
    for text in ("lost", "kept"):
        shown = events.Board(str(tmp_path), 0)
        shown.text("settings", text)
        shown.close()
    assert Events(tmp_path).text("settings") == ["kept"]


def test_events_in_a_bucket_are_read_from_there(bucket: str) -> None:
    shown = events.Board(f"{bucket}/run", 0)
    for step in (1, 2):
        shown.epoch({"step": step}, {"examples": np.full((8, 8, 3), step, np.uint8)})
    found = Events(f"{bucket}/run")
    shown.close()
    assert found.steps("step") == found.steps("examples") == [1, 2]


def test_after_some_epochs_the_events_go_on_in_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_EPOCHS_A_FILE", 2)
    shown = events.Board(str(tmp_path), 0)
    for step in range(1, 6):
        shown.epoch({"step": step}, {"examples": np.full((8, 8, 3), step, np.uint8)})
    shown.close()
    assert len(list((tmp_path / "tensorboard").iterdir())) == 3
    # Files of one second are read in the order of their names, which is any order.
    assert sorted(Events(tmp_path).steps("step")) == [1, 2, 3, 4, 5]
    assert (Events(tmp_path).picture("examples", 5) == 5).all()


CONFIG = {
    "loss": "focal",
    "epochs": 5,
    "recipe_values": {"loss": "dice", "epochs": 5},
    "command": "python -m trainer.task --loss=focal",
    "date": "2026-11-28",
    "notices": [],
}


def cells(text: str) -> str:
    """TensorBoard's page of a text, on one line, signs as one sees them."""
    page = plugin_util.markdown_to_safe_html(text)
    return html.unescape(page.replace("\n", ""))


def test_the_settings_are_a_table_that_shows_what_is_not_the_recipes() -> None:
    page = cells(board.about(CONFIG, None))
    assert "<code>python -m trainer.task --loss=focal" in page
    assert "<td>loss</td><td>focal</td><td>dice</td>" in page
    assert "<td>epochs</td><td>5</td><td></td>" in page
    assert "<td>notices</td><td>–</td>" in page
    assert "date" not in page


@pytest.mark.parametrize("name", ["a|b", "_a_", "**a**", "`a`", "[a](b)", "a\\|b"])
def test_signs_of_markdown_in_a_value_stay_as_they_are(name: str) -> None:
    page = cells(board.about({**CONFIG, "run_dir": name}, None))
    assert f"<td>run_dir</td><td>{name}</td>" in page


def test_settings_are_told_again_only_where_they_differ() -> None:
    later = {**CONFIG, "date": "2026-11-29"}
    assert board.about(later, CONFIG) == ""
    moved = {**later, "command": "python -m trainer.task --loss=focal --xla"}
    assert "--xla" in board.about(moved, CONFIG)


def test_without_a_labelled_pixel_there_is_no_confusion(tmp_path: Path) -> None:
    job = make_job(tmp_path / "run", one_device())
    painter = board.Painter(job.val, [0], NAMES)
    found = painter(np.zeros((4, 4), int), np.zeros((1, 32, 32), np.uint8))
    assert set(found) == {"examples"}
