from __future__ import annotations

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
    take_steps,
    trainable,
)
from tests.test_engine import WEIGHTS
from trainer.engine.accumulation import Accumulation
from trainer.model import losses

ADAM = {"name": "adam", "learning_rate": 1e-2}


def loss_of(text: str) -> losses.Sum:
    return losses.build_loss(text, weights=WEIGHTS)


@pytest.fixture
def parts_seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Shapes of the images that reach the model in parts."""
    seen = []
    original = Accumulation._part

    def part(self: Accumulation, values: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        found = original(self, values, index)
        if len(found.shape) == 4:
            seen.append(tuple(found.shape))
        return found

    monkeypatch.setattr(Accumulation, "_part", part)
    return seen


@pytest.mark.parametrize("devices", DEVICES.values(), ids=DEVICES)
@pytest.mark.parametrize(
    ("loss", "clip_norm"),
    [
        *((name, 0.0) for name in losses.LOSSES),
        ("weighted_cross_entropy", 0.05),
        ("weighted_cross_entropy+0.5*dice+focal+2*lovasz", 0.05),
    ],
)
def test_parts_of_a_batch_give_the_steps_of_the_whole(
    loss: str,
    clip_norm: float,
    devices: Callable,
    parts_seen: list[tuple],
    tmp_path: Path,
) -> None:
    found = []
    for accumulate in (1, 2):
        job = job_with(
            tmp_path / str(accumulate),
            devices(),
            ADAM,
            accumulate=accumulate,
            clip_norm=clip_norm,
            loss=loss_of(loss),
        )
        before = trainable(job)
        found.append((take_steps(job, 3), trainable(job)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    assert furthest(found[0][1], found[1][1]) < 2e-5
    assert furthest(before, found[0][1]) > 1e-3
    replicas = job.strategy.num_replicas_in_sync
    assert set(parts_seen) == {(4 // replicas // 2, 32, 32, 3)}


def normed_model(synchronized: bool) -> keras.Model:
    image = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(1 / 255)(image)
    norm = keras.layers.BatchNormalization(momentum=0.9, synchronized=synchronized)
    return keras.Model(image, keras.layers.Conv2D(len(NAMES), 1)(norm(x)))


@pytest.mark.parametrize("devices", DEVICES.values(), ids=DEVICES)
@pytest.mark.parametrize("loss", ["cross_entropy", "cross_entropy+dice"])
def test_batch_norm_moves_its_statistics_once_for_each_part(
    loss: str, devices: Callable, tmp_path: Path
) -> None:
    strategy = devices()
    with strategy.scope():
        model = normed_model(synchronized=strategy.num_replicas_in_sync > 1)
    job = job_with(
        *(tmp_path / "run", strategy, ADAM),
        model=model,
        accumulate=2,
        loss=loss_of(loss),
    )
    [batch] = job.stream.batches(0, 1).take(1)
    images = batch[0].numpy() / 255
    take_steps(job, 1)
    mean = np.zeros(3)
    for part in range(2):
        # The same examples on any number of replicas.
        mean = 0.9 * mean + 0.1 * images[part::2].mean(axis=(0, 1, 2))
    moved = model.layers[2].moving_mean.numpy()
    np.testing.assert_allclose(moved, mean, rtol=1e-5)


def test_the_gradients_of_a_step_are_forgotten_by_the_next(tmp_path: Path) -> None:
    once = job_with(tmp_path / "once", one_device(), {"momentum": 0.0}, accumulate=2)
    take_steps(once, 2)
    twice = job_with(tmp_path / "twice", one_device(), {"momentum": 0.0}, accumulate=2)
    for first in range(2):
        take_steps(twice, 1, first)
    assert furthest(trainable(once), trainable(twice)) == 0
