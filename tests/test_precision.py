"""What the steps are computed in, and by which compiler."""

from __future__ import annotations

import dataclasses
import itertools
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
    take_steps,
    trainable,
    two_replicas,
)
from tests.test_survival import FULL
from trainer import recipes
from trainer.engine import loop, options, precisions, steps
from trainer.engine.job import Job
from trainer.errors import SeamlineError
from trainer.model.normalization import FusedBatchNorm
from trainer.model.transposed import LightTranspose
from trainer.model.unet import ModelSpec, build_model


def job_in(
    precision: str, run_dir: Path, devices: tf.distribute.Strategy, **changes: object
) -> Job:
    """A job whose layers compute in that precision and whose logits are float32."""
    keras.utils.set_random_seed(0)
    before = keras.config.dtype_policy()
    if precision != "float32":
        keras.config.set_dtype_policy(f"mixed_{precision}")
    try:
        with devices.scope():
            inner = plain_model()
            logits = keras.layers.Activation("linear", dtype="float32")(inner.output)
            model = keras.Model(inner.input, logits)
    finally:
        keras.config.set_dtype_policy(before)
    optimizer = {"momentum": 0.0, "loss_scaling": precision == "float16"}
    return job_with(run_dir, devices, optimizer, model=model, **changes)


@pytest.mark.parametrize("devices", DEVICES.values(), ids=DEVICES)
@pytest.mark.parametrize(
    # By default each two of the three meet in every combination.
    ("precision", "clip_norm", "accumulate"),
    itertools.product(("bfloat16", "float16"), (0.0, 1e-2), (1, 2))
    if FULL
    else [
        *(("bfloat16", 0.0, 1), ("bfloat16", 1e-2, 2)),
        *(("float16", 0.0, 2), ("float16", 1e-2, 1)),
    ],
)
def test_a_low_precision_step_is_nearly_that_of_float32(
    precision: str,
    clip_norm: float,
    accumulate: int,
    devices: Callable,
    tmp_path: Path,
) -> None:
    found = []
    for name in ("float32", precision):
        values = {"clip_norm": clip_norm, "accumulate": accumulate}
        job = job_in(name, tmp_path / name, devices(), **values)
        before = trainable(job)
        loss = take_steps(job, 1)[0]
        found.append(
            (loss, [a - b for a, b in zip(trainable(job), before, strict=True)])
        )
    (exact, moves), (rough, rough_moves) = found
    assert rough == pytest.approx(exact, rel=2e-2)
    assert rough != exact
    largest = max(float(np.abs(x).max()) for x in moves)
    assert 0 < furthest(moves, rough_moves) < 0.1 * largest
    if clip_norm:
        norm = np.sqrt(sum((x**2).sum() for x in rough_moves))
        assert norm == pytest.approx(0.02 * clip_norm, rel=1e-2)


@pytest.mark.parametrize("devices", DEVICES.values(), ids=DEVICES)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_that_overflows_moves_nothing_and_halves_the_scale(
    accumulate: int, devices: Callable, tmp_path: Path
) -> None:
    job = job_in("float16", tmp_path / "run", devices(), accumulate=accumulate)
    job.optimizer.dynamic_growth_steps = 2
    assert float(job.optimizer.dynamic_scale.numpy()) == 2.0**15
    job.optimizer.dynamic_scale.assign(2.0**100)
    before = trainable(job)
    run_steps = steps.compile_training(job)
    batches = steps.training_iterator(job, 0)
    totals = run_steps(batches, tf.constant(1), tf.constant(0))
    assert int(totals[-1]) == -1
    assert np.isfinite(float(totals[0]))
    assert furthest(trainable(job), before) == 0
    assert float(job.optimizer.dynamic_scale.numpy()) == 2.0**99
    assert int(job.optimizer.iterations.numpy()) == 0
    job.optimizer.dynamic_scale.assign(2.0**10)
    totals = run_steps(batches, tf.constant(2), tf.constant(1))
    assert furthest(trainable(job), before) > 1e-4
    assert float(job.optimizer.dynamic_scale.numpy()) == 2.0**11
    assert int(job.optimizer.iterations.numpy()) == 2


@pytest.mark.parametrize("devices", DEVICES.values(), ids=DEVICES)
def test_the_scale_of_the_loss_survives_a_stop(
    devices: Callable, tmp_path: Path
) -> None:
    job = job_in("float16", tmp_path / "run", devices())
    job.optimizer.dynamic_scale.assign(2.0**100)
    loop.train(job)
    again = job_in("float16", tmp_path / "run", devices())
    loop.train(again)
    assert float(again.optimizer.dynamic_scale.numpy()) == 2.0**91
    assert furthest(trainable(again), trainable(job)) == 0


def test_the_log_counts_steps_that_overflowed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = job_in("float16", tmp_path / "run", one_device())
    job.optimizer.dynamic_scale.assign(2.0**100)
    with caplog.at_level("INFO", logger="seamline"):
        loop.train(job)
    assert "in 3 of 3 steps so far gradients overflowed" in caplog.text
    caplog.clear()
    with caplog.at_level("INFO", logger="seamline"):
        loop.train(job_in("bfloat16", tmp_path / "other", one_device()))
    assert "overflowed" not in caplog.text


def gpus(monkeypatch: pytest.MonkeyPatch, *capabilities: tuple[int, int]) -> None:
    monkeypatch.setattr(
        tf.config, "list_physical_devices", lambda kind: list(capabilities)
    )
    monkeypatch.setattr(
        tf.config.experimental,
        "get_device_details",
        lambda gpu: {"compute_capability": gpu},
    )


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        (((8, 0),), "bfloat16"),
        (((9, 0), (8, 9)), "bfloat16"),
        (((9, 0), (7, 5)), "float32"),
    ],
)
def test_auto_takes_bfloat16_where_all_gpus_multiply_it(
    capabilities: tuple, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(monkeypatch, *capabilities)
    assert precisions.settle("auto") == expected
    assert precisions.settle("float16") == "float16"


@pytest.mark.parametrize(
    ("speed", "expected"), [(1.75, "bfloat16"), (1.1, "float32"), (0.0, "float32")]
)
def test_auto_takes_bfloat16_on_a_cpu_that_is_faster_at_it(
    speed: float,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(precisions, "bfloat16_speed", lambda: speed)
    with caplog.at_level("INFO", logger="seamline"):
        assert precisions.settle("auto") == expected
    assert f"{expected}, since this CPU convolves {speed:.1f} times" in caplog.text


def test_how_fast_this_cpu_is_at_bfloat16_is_measured_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    precisions.bfloat16_speed.cache_clear()
    found = precisions.bfloat16_speed()
    monkeypatch.setattr(precisions, "_convolution", None)
    assert precisions.bfloat16_speed() == found
    assert 0 <= found < 10


def test_the_ratio_says_how_much_faster_bfloat16_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = {tf.float32: 3.0, tf.bfloat16: 2.0}
    monkeypatch.setattr(precisions, "_convolution", lambda dtype: dtype)
    monkeypatch.setattr(precisions, "_processor_seconds", seconds.get)
    precisions.bfloat16_speed.cache_clear()
    assert precisions.bfloat16_speed() == 1.5
    precisions.bfloat16_speed.cache_clear()


def test_a_cpu_that_cannot_convolve_in_bfloat16_is_told_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuses(step: Callable) -> float:
        raise tf.errors.AbortedError(None, None, "no primitive descriptor")

    precisions.bfloat16_speed.cache_clear()
    monkeypatch.setattr(precisions, "_processor_seconds", refuses)
    recipe = recipes.RECIPES["default"]
    with pytest.raises(
        SeamlineError, match="--precision=bfloat16: there is no GPU, an"
    ):
        options.check(recipe, xla=False, replicas=1, precision="bfloat16")
    options.check(recipe, xla=False, replicas=1, precision="float32")
    precisions.bfloat16_speed.cache_clear()


def small_unet(precision: str, decoder: str = "lateral") -> keras.Model:
    keras.utils.set_random_seed(0)
    spec = ModelSpec(
        encoder="mobilenetv2",
        encoder_training="finetune",
        preprocessing="encoder",
        image_size=32,
        batch_norm_momentum=0.9,
        precision=precision,
        label_names=["a", "b", "c"],
        decoder=decoder,
    )
    return build_model(spec)


def computed_in(model: keras.Model, *kinds: type[keras.Layer]) -> set[str]:
    layers = [x for x in model._flatten_layers() if type(x) in kinds]
    return {x.compute_dtype for x in layers}


DENSE = (keras.layers.Conv2D, LightTranspose)


@pytest.mark.parametrize("decoder", ["lateral", "pix2pix"])
def test_on_a_cpu_dense_convolutions_are_in_bfloat16(decoder: str) -> None:
    low, exact = small_unet("bfloat16", decoder), small_unet("float32", decoder)
    layers = keras.layers
    assert computed_in(low, *DENSE) == {"bfloat16"}
    others = (FusedBatchNorm, layers.DepthwiseConv2D, layers.ReLU, layers.Add)
    assert computed_in(low.get_layer("mobilenetv2"), *others) == {"float32"}
    assert {x.dtype for x in low.weights} == {"float32"}
    images = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    found, expected = low(images), exact(images)
    assert found.dtype == tf.float32
    spread = float(tf.math.reduce_std(expected))
    difference = float(tf.reduce_max(tf.abs(found - expected)))
    assert 0 < difference < 0.2 * spread


def test_on_a_cpu_the_rest_of_the_lateral_decoder_is_in_float32() -> None:
    low = small_unet("bfloat16", "lateral")
    rest = [x for x in low.layers if type(x) not in DENSE]
    assert {x.compute_dtype for x in rest} == {"float32"}


def test_what_lies_between_convolutions_in_bfloat16_rounds_as_they_would() -> None:
    low, plain = small_unet("bfloat16", "pix2pix"), small_unet("bfloat16", "pix2pix")
    plain.set_weights(low.get_weights())
    kinds = (FusedBatchNorm, keras.layers.ReLU, keras.layers.Concatenate)
    for layer in plain._flatten_layers():
        if type(layer) in kinds:
            layer.dtype_policy = keras.DTypePolicy("float32")
    blocks = [x for x in low.layers if isinstance(x, keras.Sequential)]
    between = [x for block in blocks for x in block.layers if type(x) in kinds]
    between += [x for x in low.layers if isinstance(x, keras.layers.Concatenate)]
    assert len(between) == 4 + 4 + 4
    assert {x.compute_dtype for x in between} == {"bfloat16"}
    images = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    np.testing.assert_array_equal(low(images), plain(images))
    steps = [gradients_of(x, images) for x in (low, plain)]
    for found, right in zip(*steps, strict=True):
        scale = np.abs(right).max()
        np.testing.assert_allclose(found / scale, right / scale, atol=2**-6)


def gradients_of(model: keras.Model, images: np.ndarray) -> list[np.ndarray]:
    with tf.GradientTape() as tape:
        value = tf.reduce_mean(tf.math.square(model(images, training=True)))
    return [x.numpy() for x in tape.gradient(value, model.trainable_variables)]


def test_on_a_gpu_all_layers_are_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a GPU"])
    low = small_unet("bfloat16")
    assert computed_in(low, FusedBatchNorm) == {"bfloat16"}
    assert low.output.dtype == "float32"


def compiled_by_xla(job: Job) -> bool:
    """Whether the graph of the job's steps holds a function for XLA."""
    run_steps = steps._compile_phase(job, False)
    batches = steps.training_iterator(job, 0)
    values = (batches, tf.constant(1), tf.constant(0))
    graph = run_steps.get_concrete_function(*values).graph.as_graph_def()
    return any(
        "_XlaMustCompile" in function.attr and function.attr["_XlaMustCompile"].b
        for function in graph.library.function
    )


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_xla_compiles_the_step_and_changes_no_more_than_rounding(
    precision: str, accumulate: int, tmp_path: Path
) -> None:
    found = []
    for xla in (False, True):
        values = {"xla": xla, "accumulate": accumulate}
        job = job_in(precision, tmp_path / str(xla), one_device(), **values)
        assert compiled_by_xla(job) is xla
        found.append((take_steps(job, 3), trainable(job)))
    tolerance = 1e-5 if precision == "float32" else 1e-3
    assert found[0][0] == pytest.approx(found[1][0], rel=tolerance)
    assert furthest(found[0][1], found[1][1]) < tolerance


def test_low_precision_that_xla_cannot_compile_on_a_cpu_is_refused() -> None:
    default, tutorial = recipes.RECIPES["default"], recipes.RECIPES["tutorial"]
    with pytest.raises(SeamlineError, match="--precision=bfloat16 with --decoder=lat"):
        options.check(default, xla=True, replicas=1, precision="bfloat16")
    options.check(default, xla=False, replicas=1, precision="bfloat16")
    options.check(default, xla=True, replicas=1, precision="float32")
    options.check(tutorial, xla=True, replicas=1, precision="bfloat16")


def test_xla_cannot_compile_the_step_of_several_replicas(tmp_path: Path) -> None:
    job = job_in("float32", tmp_path / "run", two_replicas(), xla=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match="different_device"):
        take_steps(job, 1)
    with pytest.raises(SeamlineError, match="--xla=true: XLA compiles the step of one"):
        options.check(recipes.RECIPES["default"], xla=True, replicas=2)


def test_parts_that_replicas_cannot_share_are_refused_with_the_nearest() -> None:
    recipe = dataclasses.replace(
        recipes.RECIPES["default"], batch_size=18, accumulate=6
    )
    options.check(recipe, xla=False, replicas=3)
    recipe = dataclasses.replace(recipe, accumulate=4)
    with pytest.raises(SeamlineError, match=r"--accumulate=4: .* nearest: 12 or 24"):
        options.check(recipe, xla=False, replicas=3)
