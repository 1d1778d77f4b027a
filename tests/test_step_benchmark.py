"""The loop, checkpoints, exports and start-up: measured on something small."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.test_engine import one_device
from trainer import recipes
from trainer.benchmarks import export, startup, steps, untrained
from trainer.benchmarks.settings import Settings
from trainer.data.card import read_card
from trainer.engine import loop, precisions
from trainer.engine.job import Job
from trainer.errors import SeamlineError
from trainer.model.unet import ModelSpec

TINY = {"encoder": "mobilenetv2", "image_size": 32, "batch_size": 2}


def tiny_settings(records_dir: Path) -> Settings:
    names = ("record_size", "split_fraction", "split_seed", "layout")
    data = {**dict.fromkeys(names), "skip_bad": False, "workers": 1}
    return Settings(
        recipe=recipes.resolve("default", TINY),
        data={**data, "dataset": "auto", "records_dir": str(records_dir)},
        input_limits={},
        seed=0,
        repeats=2,
    )


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
    monkeypatch.setattr(precisions, "settle", lambda precision: "bfloat16")
    settings = tiny_settings(records_dir)
    rows = {
        row.name: row.value
        for row in steps.measure(settings, one_device(), ["step", "checkpoint"])
    }
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


def tutorial_settings(records_dir: Path) -> Settings:
    given = {"image_size": 64, "batch_size": 4, "encoder_weights": "none"}
    recipe = recipes.resolve("tutorial", TINY | given)
    return dataclasses.replace(tiny_settings(records_dir), recipe=recipe)


def job_of(settings: Settings, run_dir: Path) -> Job:
    card = read_card(settings.data["records_dir"])
    place = (settings.data["records_dir"], card)
    return steps._job(
        str(run_dir), settings.recipe, place, settings, one_device(), "float32"
    )


def test_steps_of_the_tutorial_are_those_of_plain_keras(
    records_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where a ReLU tips over, rounding grows by a thousand at once.
    monkeypatch.setattr(steps, "_EQUAL_STEPS", 5)
    settings = tutorial_settings(records_dir)
    job = job_of(settings, tmp_path)
    label_names = read_card(str(records_dir)).label_names
    peer = steps._plain_keras(job, settings.recipe, label_names)
    for layer in peer._flatten_layers():
        assert type(layer).__module__.startswith("keras."), layer
    own = {type(x).__module__ for x in job.model._flatten_layers()}
    assert not all(name.startswith("keras.") for name in own)
    encoders = [x.get_layer("mobilenetv2") for x in (peer, job.model)]
    assert not any(x.trainable_variables for x in encoders)
    assert isinstance(peer.optimizer, keras.optimizers.RMSprop)
    before = job.model.get_weights()
    row, itself = steps._loss_difference("tiny", job, settings.recipe, label_names)
    assert row.name == "step.loss_difference.tiny"
    assert itself.name == "step.loss_difference_of_keras.tiny"
    assert 0 < itself.value < 1e-4
    assert row.value < 1e-4
    first, last = re.findall(r"losses ([\d.]+) to ([\d.]+)", row.detail)[0]
    # Both have learned meanwhile; had one stood still, it would show.
    assert float(last) < float(first) - 0.05
    for old, new in zip(before, job.model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_keras_fit_does_not_wait_for_an_autotuner(
    records_dir: Path, tmp_path: Path
) -> None:
    class Model:
        def fit(self, batches: tf.data.Dataset, **given: int) -> None:
            tuned.append(batches.options().autotune.enabled)

    tuned: list[bool] = []
    steps._fit(job_of(tutorial_settings(records_dir), tmp_path), Model())(3)
    assert tuned == [False]


def test_other_recipes_are_not_said_to_equal_keras() -> None:
    tutorial = recipes.RECIPES["tutorial"]
    assert steps.trains_plainly(tutorial)
    other_size = dataclasses.replace(tutorial, image_size=64, augment="none")
    assert steps.trains_plainly(other_size)
    assert not steps.trains_plainly(recipes.RECIPES["default"])
    for change in ({"loss": "dice"}, {"clip_norm": 1.0}, {"accumulate": 2}):
        assert not steps.trains_plainly(dataclasses.replace(tutorial, **change))


def test_a_loop_that_is_faster_has_ratios_above_one(
    records_dir: Path, tmp_path: Path
) -> None:
    job = job_of(tutorial_settings(records_dir), tmp_path)
    seconds = {"loop": [2.0, 3.0], "keras_fit": [4.0, 6.0], "bare": [1.0, 1.5]}
    rows = {x.name: x for x in steps._rows("tiny", seconds, job, "float32")}
    assert rows["step.vs_keras_fit.tiny"].value == 2.0
    assert rows["step.loop_vs_bare.tiny"].value == 0.5
    # The article's 12 steps of 4 in the median of 2.5 s.
    assert rows["step.loop.tiny"].value == pytest.approx(12 * 4 / 2.5)
    assert "2 turns of 12 steps" in rows["step.vs_keras_fit.tiny"].detail


def test_checkpoints_alone_take_no_training(
    records_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "CASES", {"tiny": ("mobilenetv2", "frozen")})
    monkeypatch.delattr(loop.Training, "train_epoch")
    rows = steps.measure(tiny_settings(records_dir), one_device(), ["checkpoint"])
    assert [row.name for row in rows] == [
        "checkpoint.seconds.tiny",
        "checkpoint.megabytes.tiny",
    ]


def one_layer(
    settings: Settings, label_names: Sequence[str]
) -> tuple[keras.Model, ModelSpec]:
    spec = ModelSpec(
        **dict.fromkeys(("encoder", "encoder_training", "preprocessing"), "none"),
        image_size=settings.recipe.image_size,
        batch_norm_momentum=0.9,
        precision="float32",
        label_names=list(label_names),
    )
    image = keras.Input((spec.image_size, spec.image_size, 3))
    logits = keras.layers.Conv2D(spec.classes, 1)(image)
    return keras.Model(image, logits), spec


def test_an_export_is_measured_beside_a_bare_one(
    records_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(untrained, "build", one_layer)
    rows = {row.name: row for row in export.measure(tiny_settings(records_dir))}
    assert rows["export.bare_seconds"].value > 0
    assert rows["export.seconds"].value > 0
    assert "2 turns" in rows["export.vs_bare"].detail
    assert "checked on 3 photos" in rows["export.seconds"].detail
    assert 0.001 < rows["export.megabytes"].value < 10
    assert rows["export.serving_vs_model"].value > 0
    assert "batch 2;" in rows["export.serving_vs_model"].detail


def test_the_bare_peer_makes_a_step_and_its_memory_is_counted() -> None:
    arguments = [f"--{name}={value}" for name, value in TINY.items()]
    arguments += ["--decoder=lateral", "--optimizer=adamw"]
    command = ["trainer.benchmarks.bare_step", *arguments]
    seconds, megabytes = startup._until_first_step(command)
    assert seconds > 0
    assert 300 < megabytes < 4000


def test_the_start_is_measured_beside_the_same_network(
    records_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, set[str]] = {}

    def until_first_step(command: list[str]) -> tuple[float, float]:
        told[command[0]] = set(command[1:])
        return (3.0, 500.0) if command[0] == "trainer.task" else (2.0, 400.0)

    monkeypatch.setattr(startup, "_until_first_step", until_first_step)
    settings = tiny_settings(records_dir)
    rows = {x.name: x.value for x in startup.measure(settings)}
    assert rows["startup.vs_bare_tensorflow"] == 1.5
    assert rows["startup.task_peak_memory_mb"] == 500
    shape = told["trainer.benchmarks.bare_step"]
    assert f"--decoder={settings.recipe.decoder}" in shape
    assert shape < told["trainer.task"]


def test_a_command_that_makes_no_step_is_told() -> None:
    with pytest.raises(SeamlineError, match="made no step; it said"):
        startup._until_first_step(["trainer.task", "--run_dir=x", "--epochs=0"])
