"""Training steps on real input beside the same steps on one batch from memory."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator

import tensorflow as tf

from trainer import dataset, pipeline
from trainer.benchmarks.measurements import Measurement
from trainer.benchmarks.settings import Settings
from trainer.engine.steps import Job, compile_training, training_iterator

_STEPS = 20


def measure(settings: Settings, devices: tf.distribute.Strategy) -> list[Measurement]:
    """Measures what the input costs a training on some devices.

    Raises:
      SeamlineError: a value, file or folder that only the user can mend.
    """
    recipe, _ = pipeline.settle(settings.recipe)
    seed = settings.seed
    prepared = dataset.prepare(**settings.data)
    card = prepared.card
    assert card is not None, "one host alone always seals"
    stream, val = pipeline.open_input(
        recipe, prepared.records_dir, card, seed, settings.input_limits
    )
    spec = pipeline.build_spec(recipe, card, "float32")
    with tempfile.TemporaryDirectory(prefix="seamline-") as run_dir:
        job = pipeline.build_job(
            run_dir, spec, recipe, card, seed, devices, stream, val
        )
        model = f"{recipe.encoder}, {recipe.encoder_training}"
        return _compare(job, settings.repeats, model)


def _compare(job: Job, repeats: int, model: str) -> list[Measurement]:
    run_steps = compile_training(job)
    roads = {"real": training_iterator(job, 0), "cached": _one_batch(job)}
    for batches in roads.values():
        _run(run_steps, batches, 2)
    times: dict[str, list[float]] = {name: [] for name in roads}
    waits: list[float] = []
    for _ in range(repeats):
        for name, batches in roads.items():
            seconds, wait = _run(run_steps, batches, _STEPS)
            times[name].append(seconds)
            if name == "real":
                waits.append(wait / seconds)
    step = {name: statistics.median(found) / _STEPS for name, found in times.items()}
    ratios = [x / y for x, y in zip(times["cached"], times["real"], strict=True)]
    what = f"{model}, batch {job.batch_size} at {job.val.image_size}²"
    turns = f"{repeats} turns of {_STEPS} steps"
    return [
        Measurement(
            "train.images_per_second",
            job.batch_size / step["real"],
            "images/s",
            f"real input; {what}",
        ),
        Measurement(
            "train.images_per_second_cached",
            job.batch_size / step["cached"],
            "images/s",
            f"one batch repeated; {what}",
        ),
        Measurement(
            "train.real_vs_cached",
            statistics.median(ratios),
            "",
            f"{turns}, {min(ratios):.3f} to {max(ratios):.3f}",
        ),
        Measurement("train.step_ms", 1000 * step["real"], "ms", "a step on real input"),
        Measurement(
            "train.input_wait_fraction",
            statistics.median(waits),
            "",
            f"share of a step's time; {turns}, {min(waits):.4f} to {max(waits):.4f}",
        ),
    ]


def _one_batch(job: Job) -> Iterator:
    """The first batch again and again, for the job's strategy."""
    replicas = job.strategy.num_replicas_in_sync
    [batch] = job.stream.batches(0, 1).take(1)
    parts = [tf.split(part, replicas) for part in batch]
    pieces = tuple(tf.stack(part) for part in parts)
    dataset = tf.data.Dataset.from_tensor_slices(pieces).repeat().prefetch(replicas)
    return iter(job.strategy.distribute_datasets_from_function(lambda _: dataset))


def _run(run_steps: Callable, batches: Iterator, count: int) -> tuple[float, float]:
    """Seconds that so many steps take, and seconds of them spent waiting for input."""
    start = time.perf_counter()
    totals = run_steps(batches, tf.constant(count), tf.constant(0))
    wait = float(totals[3].numpy())
    return time.perf_counter() - start, wait
