"""Small trainings with one option changed, on one device and on two replicas."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tests.test_engine import NAMES, make_job, one_device, two_replicas
from trainer.engine import steps
from trainer.engine.job import Job
from trainer.engine.schedules import build_optimizer

DEVICES = {"one device": one_device, "two replicas": two_replicas}
STEPS = 9
"""Steps of a training of `make_job`."""


def plain_model() -> keras.Model:
    """Two convolutions; no batch norm, so that no bias has a gradient of mere noise."""
    image = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(1 / 255)(image)
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    return keras.Model(image, keras.layers.Conv2D(len(NAMES), 1)(x))


def job_with(
    run_dir: Path, devices: tf.distribute.Strategy, optimizer: dict, **changes: object
) -> Job:
    """A job of `make_job` on `plain_model`, by default with SGD at a constant 0.02."""
    job = make_job(run_dir, devices, **changes)
    values = {"name": "sgd", "learning_rate": 0.02, "schedule": "constant"}
    keras.utils.set_random_seed(0)
    with devices.scope():
        if "model" not in changes:
            job = dataclasses.replace(job, model=plain_model())
        built = build_optimizer(**{**values, "total_steps": STEPS, **optimizer})
        built.build(job.model.trainable_variables)
    return dataclasses.replace(job, optimizer=built)


def take_steps(job: Job, count: int, first: int = 0) -> list[float]:
    """Runs the job's own compiled steps; returns loss sum, right and labelled."""
    run_steps = steps.compile_training(job)
    batches = steps.training_iterator(job, first)
    totals = run_steps(batches, tf.constant(count), tf.constant(first))
    return [float(x) for x in totals[:3]]


def trainable(job: Job) -> list[np.ndarray]:
    return [np.array(x) for x in job.model.trainable_variables]


def furthest(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> float:
    """Greatest difference of two lists of arrays."""
    pairs = zip(first, second, strict=True)
    return max(float(np.abs(a - b).max()) for a, b in pairs)
