"""Learning rates by variable and late learning, beside NumPy's arithmetic."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.options import (
    DEVICES,
    NAMES,
    furthest,
    job_with,
    one_device,
    plain_model,
    take_steps,
    trainable,
)
from trainer.engine import loop, plan, state
from trainer.engine.job import Job
from trainer.engine.optimizers import Rates
from trainer.engine.pace import Pace
from trainer.model.unet import batch_norms

FACTORS = (0.1, 0.1, 1.0, 1.0)
RATE, DECAY = 0.01, 0.2


def gradients(job: Job, weights: list[np.ndarray], step: int) -> list[np.ndarray]:
    """Of the loss of the whole batch of a step, in one piece."""
    model = plain_model()
    for variable, value in zip(model.trainable_variables, weights, strict=True):
        variable.assign(value)
    [(images, masks)] = job.stream.batches(step, step + 1).take(1)
    with tf.GradientTape() as tape:
        loss = job.loss.value(job.loss.sums(model(images, training=True), masks))
    return [x.numpy() for x in tape.gradient(loss, model.trainable_variables)]


class Oracle:
    """SGD, Adam and AdamW, from their papers."""

    def __init__(self, name: str, weights: list[np.ndarray]) -> None:
        self.name, self.weights = name, list(weights)
        self.m = [np.zeros_like(x) for x in weights]
        self.v = [np.zeros_like(x) for x in weights]
        self.steps = [0] * len(weights)

    def step(self, grads: list[np.ndarray], learning: list[bool]) -> None:
        for i, (gradient, learns) in enumerate(zip(grads, learning, strict=True)):
            if learns:
                self.steps[i] += 1
                self.weights[i] = self.moved(i, gradient, RATE * FACTORS[i])

    def moved(self, i: int, gradient: np.ndarray, rate: float) -> np.ndarray:
        weight = self.weights[i]
        if self.name == "sgd":
            self.m[i] = 0.9 * self.m[i] - rate * gradient
            return weight + self.m[i]
        if self.name == "adamw" and weight.ndim > 1:
            weight = weight * (1 - rate * DECAY)
        self.m[i] = 0.9 * self.m[i] + 0.1 * gradient
        self.v[i] = 0.999 * self.v[i] + 0.001 * gradient**2
        # The second form of section 2 of the paper, whose epsilon is not corrected.
        t = self.steps[i]
        rate *= np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        return weight - rate * self.m[i] / (np.sqrt(self.v[i]) + 1e-7)


@pytest.mark.parametrize("devices", DEVICES.values(), ids=DEVICES)
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_each_variable_learns_at_its_own_rate(
    name: str, devices: Callable, tmp_path: Path
) -> None:
    options = {
        **{"name": name, "learning_rate": RATE, "weight_decay": DECAY},
        "rates": Rates(FACTORS, (False,) * 4),
    }
    job = job_with(tmp_path / "run", devices(), options, clip_norm=0.0)
    oracle = Oracle(name, trainable(job))
    for step in range(3):
        oracle.step(gradients(job, oracle.weights, step), [True] * 4)
    take_steps(job, 3)
    assert furthest(trainable(job), oracle.weights) < 2e-5


def parted(job: Job, unfreeze_step: int) -> Job:
    """The job with its first convolution as an encoder that learns late."""
    encoder = keras.Model(job.model.input, job.model.layers[2].output)
    return dataclasses.replace(job, encoder=encoder, unfreeze_step=unfreeze_step)


@pytest.mark.parametrize("devices", DEVICES.values(), ids=DEVICES)
@pytest.mark.parametrize(
    ("name", "accumulate"), [("sgd", 2), ("adam", 1), ("adamw", 1), ("adamw", 2)]
)
def test_the_encoder_learns_late_as_if_it_began_then(
    name: str, accumulate: int, devices: Callable, tmp_path: Path
) -> None:
    late = (True, True, False, False)
    options = {
        **{"name": name, "learning_rate": RATE, "weight_decay": DECAY},
        "rates": Rates(FACTORS, late),
    }
    job = job_with(
        tmp_path / "run", devices(), options, clip_norm=0.0, accumulate=accumulate
    )
    job = parted(job, unfreeze_step=2)
    start = trainable(job)
    oracle = Oracle(name, start)
    for step in range(5):
        learning = [step >= 2, step >= 2, True, True]
        oracle.step(gradients(job, oracle.weights, step), learning)
    take_steps(job, 2)
    assert furthest(trainable(job)[:2], start[:2]) == 0
    assert furthest(trainable(job)[2:], start[2:]) > 1e-3
    take_steps(job, 3, first=2)
    assert furthest(trainable(job)[:2], start[:2]) > 1e-4
    assert furthest(trainable(job), oracle.weights) < 2e-5


def test_a_frozen_encoder_has_no_part_in_the_norm_that_is_clipped(
    tmp_path: Path,
) -> None:
    options = {"momentum": 0.0, "rates": Rates((1.0,) * 4, (True, True, False, False))}
    job = job_with(tmp_path / "run", one_device(), options, clip_norm=1e-3)
    job = parted(job, unfreeze_step=1)
    before = trainable(job)
    take_steps(job, 1)
    pairs = zip(before, trainable(job), strict=True)
    moved = np.sqrt(sum(((a - b) ** 2).sum() for a, b in pairs))
    assert moved == pytest.approx(0.02 * 1e-3, rel=1e-2)


def normed_job(run_dir: Path, devices: tf.distribute.Strategy) -> Job:
    """An encoder with batch norm that learns from the second of three epochs on."""
    keras.utils.set_random_seed(0)
    with devices.scope():
        image = keras.Input((32, 32, 3))
        x = keras.layers.Rescaling(1 / 255)(image)
        x = keras.layers.Conv2D(8, 3, padding="same", use_bias=False)(x)
        x = keras.layers.BatchNormalization(
            momentum=0.9, synchronized=devices.num_replicas_in_sync > 1
        )(x)
        encoder = keras.Model(image, keras.layers.ReLU()(x))
        inner = keras.Input((32, 32, 3))
        model = keras.Model(inner, keras.layers.Conv2D(len(NAMES), 1)(encoder(inner)))
    late = tuple(
        any(x is y for y in encoder.trainable_variables)
        for x in model.trainable_variables
    )
    options = {
        **{"name": "adamw", "learning_rate": RATE, "weight_decay": DECAY},
        "rates": Rates((0.5,) * len(late), late),
    }
    job = job_with(run_dir, devices, options, model=model)
    return dataclasses.replace(job, encoder=encoder, unfreeze_step=3)


def everything(job: Job) -> list[np.ndarray]:
    """All numbers of encoder, then of the whole model."""
    return [np.array(x.numpy()) for x in (*job.encoder.variables, *job.model.variables)]


@pytest.mark.parametrize("devices", DEVICES.values(), ids=DEVICES)
def test_a_stop_before_or_after_the_encoder_begins_changes_nothing(
    devices: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = normed_job(tmp_path / "unbroken", devices())
    encoder = [np.array(x.numpy()) for x in unbroken.encoder.variables]
    loop.train(unbroken)

    class Interrupt(Exception):
        pass

    original = state.Checkpoints.save

    def save(self: state.Checkpoints, progress: state.Progress) -> None:
        original(self, progress)
        if progress.epoch in (1, 2):
            raise Interrupt

    with monkeypatch.context() as patched:
        patched.setattr(state.Checkpoints, "save", save)
        for epoch in (1, 2):
            job = normed_job(tmp_path / "run", devices())
            with pytest.raises(Interrupt):
                loop.train(job)
            now = [np.array(x.numpy()) for x in job.encoder.variables]
            moved = [
                not np.array_equal(a, b) for a, b in zip(now, encoder, strict=True)
            ]
            assert all(moved) if epoch == 2 else not any(moved)
    job = normed_job(tmp_path / "run", devices())
    loop.train(job)
    assert furthest(everything(job), everything(unbroken)) == 0
    assert all(x.trainable for x in batch_norms(job.encoder))


def test_the_call_that_compiles_the_whole_step_is_no_slow_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[list[int]] = []

    class Noting(Pace):
        def __init__(self) -> None:
            super().__init__()
            noted.append([])

        def add(self, step: int, count: int, seconds: float) -> None:
            noted[-1].extend(range(step, step + count))
            super().add(step, count, seconds)

    monkeypatch.setattr(plan, "Pace", Noting)
    loop.train(normed_job(tmp_path / "run", one_device()))
    assert [steps for steps in noted if steps] == [[0, 1, 2], [3, 4, 5, 6, 7, 8]]
