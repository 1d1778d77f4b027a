"""Options of a recipe do something to the training that `build_job` makes of it.

What each does to the last digit, on one device and on two replicas, is tested beside
the code that does it; here, that it gets there. test_task.py trains with all of them on
two replicas.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.options import furthest, one_device, trainable
from tests.test_precision import compiled_by_xla
from tests.tiny import tiny
from trainer import pipeline, recipes
from trainer.data.card import read_card
from trainer.engine import steps
from trainer.engine.job import Job, build_job, build_spec
from trainer.model import decoders
from trainer.model.encoders import ENCODERS, Encoder

SKIPS = tuple(f"stage_{index}" for index in range(5))
BASE = {
    **{"encoder": "tiny", "encoder_weights": "none", "encoder_training": "full"},
    **{"image_size": 32, "batch_size": 4, "epochs": 2, "steps_per_epoch": 2},
    **{"augment": "none", "schedule": "polynomial", "optimizer": "adamw"},
}
SGD = {"optimizer": "sgd"}
CONSTANT = {"schedule": "constant"}

# What is changed, and beside what it is to make a difference.
CASES: dict[str, tuple[dict, dict]] = {
    "learning_rate": ({"learning_rate": 1e-2}, {}),
    "constant": (CONSTANT, {}),
    "cosine": ({"schedule": "cosine"}, {}),
    "schedule_power": ({"schedule_power": 2.0}, {}),
    "learning_rate_floor": ({"learning_rate_floor": 5e-4}, {}),
    "warmup_steps": ({"warmup_steps": 2}, {}),
    "warmup_steps, constant": ({"warmup_steps": 2, **CONSTANT}, CONSTANT),
    "rmsprop": ({"optimizer": "rmsprop"}, {}),
    "adam": ({"optimizer": "adam"}, {"weight_decay": 0.5}),
    "sgd": (SGD, {}),
    "weight_decay": ({"weight_decay": 0.5}, {}),
    "momentum": ({**SGD, "momentum": 0.5}, SGD),
    "nesterov": ({**SGD, "nesterov": True}, SGD),
    "clip_norm": ({**SGD, "clip_norm": 1e-3}, SGD),
    "accumulate": ({"accumulate": 2}, {}),
    "lovasz": ({"loss": "weighted_cross_entropy+lovasz"}, {}),
    "class_weights": ({"class_weights": "effective"}, {}),
    "encoder_learning_rate_factor": ({"encoder_learning_rate_factor": 0.5}, {}),
    "layer_decay": ({"layer_decay": 0.5}, {}),
    "unfreeze_epoch": ({"unfreeze_epoch": 1}, {}),
    "bfloat16": ({"precision": "bfloat16"}, {}),
    "float16": ({"precision": "float16"}, {}),
}


@pytest.fixture(scope="module", autouse=True)
def small_networks() -> Iterator[None]:
    """An encoder and a decoder that compile soon."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(ENCODERS, "tiny", Encoder(tiny, SKIPS, (1 / 255, 0.0), ""))
        patched.setattr(decoders, "UPSAMPLE_FILTERS", (16, 12, 8, 6))
        yield


def job_of(
    records_dir: Path,
    run_dir: Path,
    devices: tf.distribute.Strategy,
    *,
    precision: str = "float32",
    xla: bool = False,
    **changes: object,
) -> Job:
    """The job that `trainer.task` makes of these options."""
    recipe = recipes.resolve("default", {**BASE, **changes})
    card = read_card(str(records_dir))
    stream, val = pipeline.open_input(recipe, str(records_dir), card, 0, {})
    spec = build_spec(recipe, card.label_names, precision)
    where = str(run_dir)
    return build_job(where, spec, recipe, card, 0, devices, stream, val, xla)


def train(job: Job, epochs: Sequence[int] = (0, 1)) -> None:
    """Two steps an epoch; op by op, which takes less long than to compile them."""
    run_steps = steps.compile_training(job)
    batches = steps.training_iterator(job, 2 * epochs[0])
    tf.config.run_functions_eagerly(True)
    try:
        for epoch in epochs:
            run_steps(batches, tf.constant(2), tf.constant(2 * epoch))
    finally:
        tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def weights_after(
    records_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., list[np.ndarray]]:
    """Options -> trained weights; all are trained once."""

    @functools.cache
    def trained(*changes: tuple[str, object]) -> list[np.ndarray]:
        run_dir = tmp_path_factory.mktemp("wiring")
        job = job_of(records_dir, run_dir, one_device(), **dict(changes))
        train(job)
        return trainable(job)

    return lambda options: trained(*sorted(options.items()))


@pytest.mark.parametrize("case", CASES)
def test_an_option_changes_the_weights(case: str, weights_after: Callable) -> None:
    changed, beside = (weights_after(options) for options in CASES[case])
    # What an option leaves alone is the same to the last bit.
    assert furthest(changed, beside) > 1e-6


def test_an_encoder_that_learns_late_is_as_it_began_until_then(
    records_dir: Path, tmp_path: Path
) -> None:
    job = job_of(records_dir, tmp_path, one_device(), unfreeze_epoch=1)
    assert job.encoder is not None
    before = [x.numpy().copy() for x in job.encoder.variables]
    train(job, [0])
    assert furthest([x.numpy() for x in job.encoder.variables], before) == 0
    train(job, [1])
    for variable, old in zip(job.encoder.variables, before, strict=True):
        assert np.any(variable.numpy() != old), variable.path


def test_averages_are_kept_as_the_recipe_says(
    records_dir: Path, tmp_path: Path
) -> None:
    held = []
    for ema in (0.05, 0.9):
        job = job_of(records_dir, tmp_path, one_device(), ema=ema)
        train(job)
        assert job.averages is not None
        held.append([np.array(x.numpy()) for x in job.averages.averages])
    assert furthest(held[0], trainable(job)) > 1e-6
    assert furthest(*held) > 1e-6


def test_xla_compiles_the_step_where_it_is_asked_to(
    records_dir: Path, tmp_path: Path
) -> None:
    for xla in (False, True):
        job = job_of(records_dir, tmp_path, one_device(), xla=xla)
        assert compiled_by_xla(job) is xla
