"""The loop beside a bare one, checkpoints and start-up: measured on something small."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_engine import one_device
from trainer import recipes
from trainer.benchmarks import startup, steps
from trainer.benchmarks.settings import Settings
from trainer.engine import loop, precisions
from trainer.errors import SeamlineError

TINY = {"encoder": "mobilenetv2", "image_size": 32, "batch_size": 2}


def test_the_loop_is_measured_beside_its_peers_and_checkpoints_with_it(
    records_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "CASES", {"tiny": ("mobilenetv2", "frozen")})
    monkeypatch.setattr(steps, "_STEPS", 3)
    made: list[int] = []
    original = loop.Training.train_epoch

    def train_epoch(self: loop.Training) -> None:
        original(self)
        made.append(self._progress.step)

    monkeypatch.setattr(loop.Training, "train_epoch", train_epoch)
    names = ("record_size", "split_fraction", "split_seed", "layout")
    data = {**dict.fromkeys(names), "skip_bad": False, "workers": 1}
    settings = Settings(
        recipe=recipes.resolve("default", TINY),
        data={**data, "dataset": "auto", "records_dir": str(records_dir)},
        input_limits={},
        seed=0,
        repeats=2,
    )
    monkeypatch.setattr(precisions, "settle", lambda precision: "bfloat16")
    rows = {row.name: row.value for row in steps.measure(settings, one_device())}
    # One epoch to compile and one a turn, by the loop of `trainer.task` itself, in
    # float32 and in what is faster here.
    assert made == [3, 6, 9] * 2
    for name in (
        "loop_vs_bare.tiny",
        "vs_keras_fit.tiny",
        "vs_keras_fit.tiny.bfloat16",
    ):
        assert 0 < rows[f"step.{name}"] < 10
    for name in ("loop.tiny", "bare.tiny", "keras_fit.tiny", "loop.tiny.bfloat16"):
        assert rows[f"step.{name}"] > 0
    assert "step.loop_vs_bare.tiny.bfloat16" not in rows
    assert rows["checkpoint.seconds.tiny"] > 0
    assert 10 < rows["checkpoint.megabytes.tiny"] < 200


def test_the_bare_peer_makes_a_step_and_its_memory_is_counted() -> None:
    arguments = [f"--{name}={value}" for name, value in TINY.items()]
    command = ["trainer.benchmarks.bare_step", *arguments, "--optimizer=adamw"]
    seconds, megabytes = startup._until_first_step(command)
    assert seconds > 0
    assert 300 < megabytes < 4000


def test_a_command_that_makes_no_step_is_told() -> None:
    with pytest.raises(SeamlineError, match="made no step; it said"):
        startup._until_first_step(["trainer.task", "--run_dir=x", "--epochs=0"])
