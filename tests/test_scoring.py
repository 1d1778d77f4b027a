"""What is told of scores, and what `trainer.evaluate` can be asked for."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from tests.conftest import ROOT
from trainer import scoring
from trainer.engine.tally import Tally


def test_scores_are_told_with_their_intervals_beside_all_background(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tally = Tally(["null", "hat"])
    random = np.random.default_rng(1)
    for _ in range(3):
        truth = random.integers(0, 2, (8, 8)).astype(np.uint8)
        tally.add(truth, np.where(random.random((8, 8)) < 0.3, 0, truth))
    scores = tally.summary()
    with caplog.at_level(logging.INFO, "seamline"):
        scoring.log_scores({**scores, "native": scores}, split="val")
    model, nothing, further, native = caplog.messages
    low, high = scores["interval"]["mean_iou"]
    assert low < scores["mean_iou"] < high
    assert f"mean IoU {scores['mean_iou']:.3f} [{low:.3f}, {high:.3f}], mean" in model
    assert model.startswith("Scores on 3 val examples, model: accuracy 0.")
    assert (
        f"accuracy {scores['background_baseline']['pixel_accuracy']:.3f}, " in nothing
    )
    assert "[" not in nothing
    assert f"boundary F1 {scores['boundary_f1']:.3f} [" in further
    assert native == model.replace("model:", "model at original size:")


def test_scores_of_one_image_are_told_without_intervals(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tally = Tally(["null", "hat"])
    tally.add(np.eye(4, dtype=np.uint8), np.eye(4, dtype=np.uint8))
    with caplog.at_level(logging.INFO, "seamline"):
        scoring.log_scores({**tally.summary(), "native": tally.summary()}, split="val")
    assert len(caplog.messages) == 4
    assert not any("[" in line for line in caplog.messages)


STUBBED = """
import json, sys, types
import trainer

door, module, function, *arguments = sys.argv[1:]
stub = types.ModuleType(f"trainer.{module}")
setattr(stub, function, lambda **values: print(json.dumps(values, default=str)))
sys.modules[stub.__name__] = stub
setattr(trainer, module, stub)
sys.argv = [door, *arguments]

import importlib
from trainer import flags

flags.run(importlib.import_module(f"trainer.{door}").main)
"""


def asked_of(door: str, what: str, *arguments: str) -> dict[str, Any]:
    """The values that a command passes on; TensorFlow is not even imported."""
    done = subprocess.run(
        [sys.executable, "-c", STUBBED, door, *what.split("."), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_flags_of_the_evaluation_are_passed_on() -> None:
    plain = asked_of("evaluate", "scoring.evaluate_run", "--run_dir=r")
    names = ("groups", "flip", "scales", "score_size", "checkpoint")
    assert [plain[name] for name in names] == [None, False, "1", 0, "best"]
    given = ("--label_groups=ccp9", "--flip", "--scales=1,1.5", "--score_size=96")
    given += ("--checkpoint=last",)
    values = asked_of("evaluate", "scoring.evaluate_run", "--run_dir=r", *given)
    assert [values[name] for name in names] == ["ccp9", True, "1,1.5", 96, "last"]


def test_a_training_may_be_scored_at_another_size() -> None:
    assert asked_of("task", "pipeline.run")["score_size"] == 0
    assert asked_of("task", "pipeline.run", "--score_size=96")["score_size"] == 96


@pytest.mark.parametrize("door", ["evaluate", "task"])
@pytest.mark.parametrize("value", ["-1", "2049", "12.5", "large", ""])
def test_a_size_that_cannot_be_is_one_line(door: str, value: str) -> None:
    command = [sys.executable, "-m", f"trainer.{door}", f"--score_size={value}"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 42
    assert re.fullmatch(
        rf"error: --score_size={re.escape(value)}: .+; --help says what it takes\n",
        done.stderr,
    )


@pytest.mark.parametrize(
    ("door", "what"), [("task", "pipeline.run"), ("preview", "inspection.preview")]
)
def test_groups_are_passed_on(door: str, what: str) -> None:
    assert asked_of(door, what)["groups"] is None
    assert asked_of(door, what, "--label_groups=my.json")["groups"] == "my.json"
