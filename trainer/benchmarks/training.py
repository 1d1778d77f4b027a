"""Training steps on real input beside the same steps on one batch from memory."""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator

import tensorflow as tf

from trainer import dataset, pipeline
from trainer.benchmarks import rates
from trainer.benchmarks.measurements import Measurement
from trainer.benchmarks.settings import Settings
from trainer.engine import options
from trainer.engine.job import Job, build_job, build_spec
from trainer.engine.steps import compile_training, training_iterator
from trainer.engine.strategy import distribute

_STEPS = 20
_WARM = 2
_ENDLESS = 1 << 40


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
    precision, xla = options.settle(recipe, devices, settings.precision, settings.xla)
    spec = build_spec(recipe, card.label_names, precision)
    with tempfile.TemporaryDirectory(prefix="seamline-") as run_dir:
        job = build_job(run_dir, spec, recipe, card, seed, devices, stream, val, xla)
        model = f"{recipe.encoder}, {recipe.encoder_training}, {precision}"
        model += ", XLA" if xla else ""
        return _compare(job, settings.repeats, model)


@dataclasses.dataclass(frozen=True)
class Turns:
    """Seconds of each turn.

    Attributes:
      steps: of a turn.
      real, cached: what they took, on real input and on one batch repeated.
      waits: what of `real` was spent waiting for input.
    """

    steps: int
    real: list[float]
    cached: list[float]
    waits: list[float]


def take_turns(
    run: Callable[[Iterator, int], tuple[float, float]],
    open_real: Callable[[int], Iterator],
    cached: Iterator,
    *,
    repeats: int,
    ahead: int,
) -> Turns:
    """Times steps on real input and on one batch repeated, in turns.

    While nobody takes batches, a pipeline makes some ahead; steps that get those seem
    to wait less than they do in a long training. So each real turn has a pipeline of
    its own that starts empty, comes to its pace in steps that are not timed, and is
    gone before the cached turn.

    Args:
      run: iterator and number of steps -> seconds, and seconds of them waiting.
      open_real: first step -> iterator over real batches from there on.
      cached: iterator over one batch repeated.
      repeats: turns of each.
      ahead: steps that a real iterator has made ahead at most.
    """
    turns = Turns(max(_STEPS, rates.LONG * ahead), [], [], [])
    for turn in range(repeats):
        batches = open_real(turn * (ahead + _WARM + turns.steps))
        run(batches, ahead + _WARM)
        seconds, wait = run(batches, turns.steps)
        del batches
        turns.real.append(seconds)
        turns.waits.append(wait)
        run(cached, _WARM)
        seconds, _ = run(cached, turns.steps)
        turns.cached.append(seconds)
    return turns


def _compare(job: Job, repeats: int, model: str) -> list[Measurement]:
    run_steps = compile_training(job)
    # However short the training that the recipe asks for.
    endless = dataclasses.replace(job, epochs=1, steps_per_epoch=_ENDLESS)
    turns = take_turns(
        lambda batches, count: _run(run_steps, batches, count),
        lambda first: training_iterator(endless, first),
        one_batch(job),
        repeats=repeats,
        ahead=rates.made_ahead(job.stream.limits, job.strategy.num_replicas_in_sync),
    )
    return _rows(job, turns, model)


def _rows(job: Job, turns: Turns, model: str) -> list[Measurement]:
    step = {
        "real": statistics.median(turns.real) / turns.steps,
        "cached": statistics.median(turns.cached) / turns.steps,
    }
    ratios = [x / y for x, y in zip(turns.cached, turns.real, strict=True)]
    waits = [x / y for x, y in zip(turns.waits, turns.real, strict=True)]
    what = f"{model}, batch {job.batch_size} at {job.val.image_size}²"
    spans = f"{len(ratios)} turns of {turns.steps} steps"
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
            f"{spans}, {min(ratios):.3f} to {max(ratios):.3f}",
        ),
        Measurement("train.step_ms", 1000 * step["real"], "ms", "a step on real input"),
        Measurement(
            "train.input_wait_fraction",
            statistics.median(waits),
            "",
            f"share of a step's time; {spans}, {min(waits):.4f} to {max(waits):.4f}",
        ),
    ]


def one_batch(job: Job) -> Iterator:
    """The first batch again and again, for the job's strategy."""
    replicas = job.strategy.num_replicas_in_sync
    [batch] = job.stream.batches(0, 1).take(1)
    parts = [tf.split(part, replicas) for part in batch]
    pieces = tuple(tf.stack(part) for part in parts)
    dataset = tf.data.Dataset.from_tensor_slices(pieces).repeat().prefetch(replicas)
    options = tf.data.Options()
    options.autotune.enabled = False
    return iter(distribute(job.strategy, dataset.with_options(options)))


def _run(run_steps: Callable, batches: Iterator, count: int) -> tuple[float, float]:
    """Seconds that so many steps take, and seconds of them spent waiting for input."""
    start = time.perf_counter()
    totals = run_steps(batches, tf.constant(count), tf.constant(0))
    wait = float(totals[3].numpy())
    return time.perf_counter() - start, wait
