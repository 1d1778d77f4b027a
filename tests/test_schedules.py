from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.options import (
    DEVICES,
    STEPS,
    furthest,
    job_with,
    one_device,
    take_steps,
    trainable,
    two_replicas,
)
from trainer.engine import loop
from trainer.engine.schedules import build_optimizer, build_schedule
from trainer.errors import SeamlineError

TOTAL = 60


def formula(
    name: str, step: np.ndarray, *, warm: int, floor: float, power: float
) -> np.ndarray:
    """The rate of a schedule of peak 0.5 over `TOTAL` steps, in float64."""
    done = np.clip((step - warm) / (TOTAL - warm), 0, 1)
    shape = {
        "constant": np.ones_like(done),
        "cosine": (1 + np.cos(np.pi * done)) / 2,
        "polynomial": (1 - done) ** power,
    }[name]
    rising = 0.05 + 0.45 * step / max(warm, 1)
    return np.where(step < warm, rising, floor + (0.5 - floor) * shape)


@pytest.mark.parametrize("warm", [0, 7])
@pytest.mark.parametrize("floor", [0.0, 0.02])
@pytest.mark.parametrize(
    ("name", "power"),
    [("constant", 1.0), ("cosine", 1.0), ("polynomial", 1.0), ("polynomial", 0.9)],
)
def test_a_schedule_is_its_formula(
    name: str, power: float, floor: float, warm: int
) -> None:
    schedule = build_schedule(
        name,
        learning_rate=0.5,
        floor=floor,
        power=power,
        warmup_steps=warm,
        total_steps=TOTAL,
    )
    step = np.arange(TOTAL + 3)
    if name == "constant" and not warm:
        assert schedule == 0.5
        return
    rates = [float(schedule(tf.constant(x, tf.int64))) for x in step]
    expected = formula(name, step, warm=warm, floor=floor, power=power)
    np.testing.assert_allclose(rates, expected, rtol=1e-5, atol=1e-7)


def test_the_cosine_is_that_of_keras_to_the_last_bit() -> None:
    ours = build_schedule("cosine", learning_rate=1e-3, total_steps=200)
    theirs = keras.optimizers.schedules.CosineDecay(
        1e-4, decay_steps=190, warmup_target=1e-3, warmup_steps=10
    )
    for step in range(201):
        assert float(ours(step)) == float(theirs(step))


@pytest.mark.parametrize(
    ("name", "total", "expected"),
    [("cosine", 9, 1), ("cosine", 200, 10), ("polynomial", 9000, 100)],
)
def test_the_usual_warm_up_is_a_twentieth_of_the_steps(
    name: str, total: int, expected: int
) -> None:
    schedule = build_schedule(name, learning_rate=0.5, total_steps=total)
    assert schedule.warmup_steps == expected


def test_a_warm_up_that_does_not_end_is_refused() -> None:
    with pytest.raises(SeamlineError, match=r"--warmup_steps=9: .* 9 steps in all"):
        build_schedule("cosine", learning_rate=1.0, warmup_steps=9, total_steps=9)


@pytest.mark.parametrize("devices", DEVICES.values(), ids=DEVICES)
@pytest.mark.parametrize("floor", [0.0, 0.004])
@pytest.mark.parametrize("name", ["cosine", "polynomial"])
def test_the_rate_in_the_history_is_that_of_the_schedule(
    name: str, floor: float, devices: Callable, tmp_path: Path
) -> None:
    options = {"schedule": name, "floor": floor, "power": 2.0, "warmup_steps": 2}
    rows = loop.train(job_with(tmp_path / "run", devices(), options))
    done = (np.array([3, 6, 9]) - 2) / (STEPS - 2)
    shape = (1 - done) ** 2 if name == "polynomial" else (1 + np.cos(np.pi * done)) / 2
    expected = floor + (0.02 - floor) * shape
    rates = [x["learning_rate"] for x in rows]
    assert rates == pytest.approx(expected, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("devices", DEVICES.values(), ids=DEVICES)
def test_a_constant_rate_is_in_the_history(devices: Callable, tmp_path: Path) -> None:
    rows = loop.train(job_with(tmp_path / "run", devices(), {}, epochs=1))
    assert [x["learning_rate"] for x in rows] == pytest.approx([0.02])


def sgd_by_hand(path: Path, devices: tf.distribute.Strategy, options: dict) -> float:
    """How far one step of SGD moves the first kernel."""
    job = job_with(path, devices, options, clip_norm=0.0)
    before = trainable(job)
    take_steps(job, 1)
    return furthest(before, trainable(job))


@pytest.mark.parametrize("devices", DEVICES.values(), ids=DEVICES)
def test_a_schedule_scales_the_update(devices: Callable, tmp_path: Path) -> None:
    plain = sgd_by_hand(tmp_path / "plain", devices(), {})
    warm = {"schedule": "polynomial", "warmup_steps": 3}
    assert sgd_by_hand(tmp_path / "warm", devices(), warm) == pytest.approx(
        plain / 10, rel=1e-3
    )


OPTIMIZERS = {
    "rmsprop": {"name": "rmsprop", "learning_rate": 1e-3},
    "adam": {"name": "adam", "learning_rate": 1e-3},
    "adamw": {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.5},
    "sgd": {"momentum": 0.0},
    "momentum": {"momentum": 0.9},
    "nesterov": {"nesterov": True},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[np.ndarray]]:
    """Weights after three steps of each optimizer on one device."""
    found = {}
    for name, options in OPTIMIZERS.items():
        job = job_with(tmp_path_factory.mktemp(name) / "run", one_device(), options)
        take_steps(job, 3)
        found[name] = trainable(job)
    return found


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_does_on_two_replicas_what_it_does_on_one(
    name: str, trained: dict[str, list[np.ndarray]], tmp_path: Path
) -> None:
    job = job_with(tmp_path / "run", two_replicas(), OPTIMIZERS[name])
    take_steps(job, 3)
    assert furthest(trainable(job), trained[name]) < 1e-5


def test_every_optimizer_trains_otherwise_than_the_others(
    trained: dict[str, list[np.ndarray]],
) -> None:
    names = list(OPTIMIZERS)
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            assert furthest(trained[first], trained[second]) > 1e-4, (first, second)


@pytest.mark.parametrize("name", ["rmsprop", "adam", "adamw", "sgd"])
def test_a_rate_that_never_changes_is_a_number(name: str) -> None:
    optimizer = build_optimizer(
        name, learning_rate=0.5, schedule="constant", total_steps=1
    )
    assert float(optimizer.learning_rate) == 0.5
