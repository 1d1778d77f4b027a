from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from tests.test_engine import WEIGHTS
from trainer.data import inputs
from trainer.data.examples import Examples
from trainer.engine import head, steps
from trainer.engine.job import Job
from trainer.model import losses

ONE_EXAMPLE = 4 * 32 * 32 * len(NAMES)


def tensors_of_a_step(job: Job) -> set[tuple[int, ...]]:
    """Shapes of all that a step computes, in the functions that it calls as well."""
    run_steps = steps._compile_phase(job, frozen=False)
    values = (steps.training_iterator(job, 0), tf.constant(1), tf.constant(0))
    graph = run_steps.get_concrete_function(*values).graph
    library = graph.as_graph_def(add_shapes=True).library
    shapes = [
        shape
        for function in library.function
        for node in function.node_def
        for shape in node.attr["_output_shapes"].list.shape
    ]
    return {tuple(dim.size for dim in shape.dim) for shape in shapes}


def joined_model() -> keras.Model:
    """Logits of what learns beside what does not, as of a U-Net on a frozen encoder."""
    image = keras.Input((32, 32, 3))
    skip = keras.layers.Conv2D(5, 3, padding="same", trainable=False)(image)
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(skip)
    x = keras.layers.Concatenate()([x, skip])
    return keras.Model(image, keras.layers.Conv2D(len(NAMES), 1)(x))


MODELS = {"plain": plain_model, "joined": joined_model}


@pytest.mark.parametrize("devices", DEVICES.values(), ids=DEVICES)
@pytest.mark.parametrize(
    ("loss", "clip_norm"),
    [
        ("weighted_cross_entropy", 0.0),
        ("cross_entropy+0.5*focal+2*lovasz", 0.05),
    ],
)
def test_a_head_in_parts_gives_the_steps_of_the_whole(
    loss: str,
    clip_norm: float,
    devices: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = []
    for limit in (4 * ONE_EXAMPLE, ONE_EXAMPLE):
        monkeypatch.setattr(head, "LOGITS_BYTES", limit)
        job = job_with(
            *(tmp_path / str(limit), devices(), {"name": "adam"}),
            clip_norm=clip_norm,
            loss=losses.build_loss(loss, weights=WEIGHTS, smoothing=0.1),
        )
        before = trainable(job)
        found.append((take_steps(job, 3), trainable(job)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    assert furthest(found[0][1], found[1][1]) < 2e-5
    assert furthest(before, found[0][1]) > 1e-3


@pytest.mark.parametrize("devices", DEVICES.values(), ids=DEVICES)
def test_logits_of_all_examples_at_once_do_not_exist(
    devices: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy = devices()
    examples = 4 // strategy.num_replicas_in_sync
    logits, joined = (32, 32, len(NAMES)), (32, 32, 8 + 5)
    found = {}
    for limit in (4 * ONE_EXAMPLE, ONE_EXAMPLE):
        monkeypatch.setattr(head, "LOGITS_BYTES", limit)
        with strategy.scope():
            model = joined_model()
        loss = losses.build_loss("cross_entropy", weights=WEIGHTS)
        values = (tmp_path / str(limit), strategy, {})
        found[limit] = tensors_of_a_step(job_with(*values, loss=loss, model=model))
    for shape in (logits, joined):
        assert (examples, *shape) in found[4 * ONE_EXAMPLE], "the test sees them"
        assert (examples, *shape) not in found[ONE_EXAMPLE]
        assert (1, *shape) in found[ONE_EXAMPLE]


def test_a_loss_that_needs_all_logits_gets_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "LOGITS_BYTES", ONE_EXAMPLE)
    loss = losses.build_loss("cross_entropy+dice", weights=WEIGHTS)
    job = job_with(tmp_path / "run", one_device(), {}, loss=loss)
    assert (4, 32, 32, len(NAMES)) in tensors_of_a_step(job)


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_gradients_are_those_of_the_variables_asked_for_in_their_order(
    build: Callable, tmp_path: Path
) -> None:
    loss = losses.build_loss("cross_entropy", weights=WEIGHTS)
    strategy = one_device()
    with strategy.scope():
        model = build()
    job = job_with(tmp_path / "run", strategy, {}, loss=loss, model=model)
    kernel, *_, bias = model.trainable_variables
    [(images, masks)] = job.stream.batches(0, 1)
    terms = (model, loss, job.optimizer)
    parted = head.HeadInParts(*terms, variables=[bias, kernel], parts=2)
    gradients, value, _ = parted.gradients(images, masks)
    with tf.GradientTape() as tape:
        logits = model(images, training=True)
        expected = loss.value(loss.sums(logits, masks))
    assert float(value) == pytest.approx(float(expected), rel=1e-6)
    exact = tape.gradient(expected, [bias, kernel])
    for found, wanted in zip(gradients, exact, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_xla_compiles_a_head_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "LOGITS_BYTES", ONE_EXAMPLE)
    found = []
    for xla in (False, True):
        loss = losses.build_loss("cross_entropy", weights=WEIGHTS)
        job = job_with(tmp_path / str(xla), one_device(), {}, loss=loss, xla=xla)
        found.append((take_steps(job, 2), trainable(job)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    assert furthest(found[0][1], found[1][1]) < 1e-5


@pytest.mark.parametrize(
    ("examples", "limit", "parts"),
    [
        *((4, 4 * ONE_EXAMPLE, 1), (4, 4 * ONE_EXAMPLE - 1, 2), (4, ONE_EXAMPLE, 4)),
        *((6, 4 * ONE_EXAMPLE, 2), (7, 4 * ONE_EXAMPLE, 7), (3, 1, 3), (1, 1, 1)),
    ],
)
def test_parts_are_equal_and_as_few_as_the_limit_allows(
    examples: int, limit: int, parts: int
) -> None:
    assert head.count_parts(examples, plain_model(), limit) == parts


@pytest.mark.parametrize("devices", DEVICES.values(), ids=DEVICES)
def test_validation_takes_parts_too_and_finds_the_same(
    devices: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, found = [], []
    original = inputs.ordered_batches

    def ordered_batches(examples: Examples, *, batch_size: int, **values: Any) -> Any:
        sizes.append(batch_size)
        return original(examples, batch_size=batch_size, **values)

    monkeypatch.setattr(inputs, "ordered_batches", ordered_batches)
    strategy = devices()
    for limit, accumulate in ((4, 1), (1, 1), (4, 2)):
        # Validation takes four times as many as a step.
        monkeypatch.setattr(head, "LOGITS_BYTES", limit * ONE_EXAMPLE // 4)
        place = tmp_path / f"{limit} {accumulate}"
        job = job_with(place, strategy, {}, accumulate=accumulate)
        found.append(steps.compile_validation(job)())
    assert sizes == [4, strategy.num_replicas_in_sync, 2]
    for other in found[1:]:
        assert other.loss == pytest.approx(found[0].loss, rel=1e-6)
        np.testing.assert_array_equal(other.confusion, found[0].confusion)
    assert all(len(x.labels) for x in found), "what is watched is among them"
