from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.options import (
    DEVICES,
    furthest,
    job_with,
    one_device,
    plain_model,
    trainable,
)
from trainer.engine import loop, state, steps
from trainer.engine.averages import Averages
from trainer.engine.job import Job
from trainer.errors import Stopped

DECAY = 0.3


def averaged_job(
    run_dir: Path, devices: tf.distribute.Strategy, decay: float = DECAY
) -> Job:
    job = job_with(run_dir, devices, {})
    return dataclasses.replace(job, averages=Averages(job.model, decay, devices))


def held(job: Job) -> list[np.ndarray]:
    """The averages that a job holds."""
    assert job.averages is not None
    return [np.array(x.numpy()) for x in job.averages.averages]


@pytest.mark.parametrize("devices", DEVICES.values(), ids=DEVICES)
def test_averages_are_those_of_the_formula(devices: Callable, tmp_path: Path) -> None:
    job = averaged_job(tmp_path / "run", devices())
    expected = [x.astype(np.float64) for x in trainable(job)]
    run_steps = steps.compile_training(job)
    batches = steps.training_iterator(job, 0)
    for step in range(6):
        run_steps(batches, tf.constant(1), tf.constant(step))
        keep = min(DECAY, (1 + step) / (10 + step))
        pairs = zip(expected, trainable(job), strict=True)
        expected = [keep * old + (1 - keep) * new for old, new in pairs]
    assert keep == DECAY
    assert furthest(held(job), expected) < 1e-6
    assert furthest(held(job), trainable(job)) > 1e-4


@pytest.mark.parametrize("devices", DEVICES.values(), ids=DEVICES)
def test_the_model_holds_the_averages_and_then_its_own_weights_again(
    devices: Callable, tmp_path: Path
) -> None:
    job = averaged_job(tmp_path / "run", devices())
    run_steps = steps.compile_training(job)
    run_steps(steps.training_iterator(job, 0), tf.constant(2), tf.constant(0))
    weights, averages = trainable(job), held(job)
    inside = []

    def fail() -> None:
        with job.averaged():
            inside.extend(trainable(job))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert furthest(inside, averages) == 0
    assert furthest(trainable(job), weights) == 0
    assert furthest(held(job), averages) == 0
    # Every replica, not only the one that NumPy sees.
    for variable in job.model.trainable_variables:
        copies = job.strategy.experimental_local_results(variable.value)
        for copy in copies:
            np.testing.assert_array_equal(copy.numpy(), copies[0].numpy())


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, list[dict]]:
    job = averaged_job(tmp_path_factory.mktemp("ema") / "run", one_device(), 0.9)
    return job, loop.train(job)


@pytest.mark.parametrize("devices", DEVICES.values(), ids=DEVICES)
def test_averages_are_validated_and_kept_and_training_goes_on_untouched(
    devices: Callable, tmp_path: Path
) -> None:
    plain = job_with(tmp_path / "plain", devices(), {})
    rows = loop.train(plain)
    job = averaged_job(tmp_path / "run", devices(), 0.9)
    ours = loop.train(job)
    assert furthest(trainable(job), trainable(plain)) == 0
    assert [x["loss"] for x in ours] == [x["loss"] for x in rows]
    assert all(a["val_loss"] != b["val_loss"] for a, b in zip(ours, rows, strict=True))
    validate = steps.compile_validation(job)
    with job.averaged():
        loss = validate().loss
    assert loss == ours[-1]["val_loss"]


def test_the_best_model_is_the_averaged_one(unbroken: tuple[Job, list[dict]]) -> None:
    job, rows = unbroken
    best = max(rows, key=lambda row: row["val_mean_iou"])
    model = plain_model()
    state.load_best(job.run_dir, model)
    loss = steps.compile_validation(dataclasses.replace(job, model=model))().loss
    assert loss == pytest.approx(best["val_loss"], rel=1e-6)


def test_averages_go_on_exactly_after_a_stop(
    unbroken: tuple[Job, list[dict]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupt(Exception):
        pass

    original = state.Checkpoints.save

    def save(self: state.Checkpoints, progress: state.Progress) -> None:
        original(self, progress)
        if progress.epoch == 2:
            raise Interrupt

    with monkeypatch.context() as patched:
        patched.setattr(state.Checkpoints, "save", save)
        with pytest.raises(Interrupt):
            loop.train(averaged_job(tmp_path / "run", one_device(), 0.9))
    job = averaged_job(tmp_path / "run", one_device(), 0.9)
    loop.train(job)
    assert furthest(held(job), held(unbroken[0])) == 0
    assert furthest(trainable(job), trainable(unbroken[0])) == 0


def test_statistics_of_batch_norms_stay_the_models_own() -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.BatchNormalization()])
    averages = Averages(model, 0.5, one_device())
    model.layers[0].moving_mean.assign([3.0, 4.0])
    with averages.in_model():
        np.testing.assert_array_equal(model.layers[0].moving_mean.numpy(), [3, 4])
    assert len(averages.averages) == 2


def test_a_second_signal_as_averages_leave_the_model_saves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchanged, saved = [], []
    exchange = Averages._exchange

    def exchange_and_signal(self: Averages) -> None:
        exchanged.append(self)
        if len(exchanged) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        exchange(self)

    def compile_signalling(job: Job) -> Callable:
        return lambda: os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Averages, "_exchange", exchange_and_signal)
    monkeypatch.setattr(loop, "compile_validation", compile_signalling)
    monkeypatch.setattr(state.Checkpoints, "save", lambda *values: saved.append(1))
    job = job_with(tmp_path / "run", one_device(), {})
    averages = Averages(job.model, 0.9, one_device())
    with pytest.raises(Stopped, match="at once by a second signal"):
        loop.train(dataclasses.replace(job, averages=averages))
    assert saved == []
