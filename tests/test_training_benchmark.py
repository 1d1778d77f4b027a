"""What a training waits for its input is measured as in a long training."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.test_engine import make_job, one_device, shapes, two_replicas
from trainer.benchmarks import rates, training
from trainer.data.examples import Arrays, Examples
from trainer.engine.job import Job
from trainer.engine.steps import compile_training, training_iterator
from trainer.limits import Limits

AHEAD = 6


class Workshop:
    """Steps and pipelines by a clock of their own: a step takes 1, a batch `cost`.

    A pipeline makes one batch after the other, at most `AHEAD` before they are taken.
    """

    def __init__(self, cost: float) -> None:
        self.cost, self.now = cost, 0.0
        self.firsts: list[int] = []

    def run(self, batches: Iterator[float], count: int) -> tuple[float, float]:
        start, wait = self.now, 0.0
        for _ in range(count):
            ready = next(batches)
            wait += max(ready - self.now, 0)
            self.now = max(ready, self.now) + 1
        return self.now - start, wait

    def open(self, first: int) -> Iterator[float]:
        self.firsts.append(first)
        ready, taken = self.now, [self.now] * AHEAD
        while True:
            ready = max(ready, taken[-AHEAD]) + self.cost
            taken.append(max(ready, self.now))
            yield ready

    def cached(self) -> Iterator[float]:
        while True:
            yield self.now


@pytest.mark.parametrize("cost", [1.02, 1.19, 5.0])
def test_the_share_of_waiting_is_that_of_an_endless_training(cost: float) -> None:
    """A pipeline that makes batches in `cost` keeps a step waiting `cost - 1`."""
    shop = Workshop(cost)
    turns = training.take_turns(
        shop.run, shop.open, shop.cached(), repeats=3, ahead=AHEAD
    )
    assert turns.real == pytest.approx([cost * turns.steps] * 3)
    assert turns.waits == pytest.approx([(cost - 1) * turns.steps] * 3)
    assert turns.cached == pytest.approx([turns.steps] * 3)


def test_a_pipeline_that_is_fast_enough_is_not_waited_for() -> None:
    shop = Workshop(0.9)
    turns = training.take_turns(
        shop.run, shop.open, shop.cached(), repeats=2, ahead=AHEAD
    )
    assert turns.waits == pytest.approx([0, 0])


def test_turns_see_new_batches_and_are_long_beside_what_is_made_ahead() -> None:
    shop = Workshop(1.0)
    turns = training.take_turns(
        shop.run, shop.open, shop.cached(), repeats=3, ahead=AHEAD
    )
    assert turns.steps >= 4 * AHEAD
    assert min(np.diff(shop.firsts)) >= turns.steps + AHEAD


class Counted:
    """Ten examples that count how many parts of batches were made of them."""

    def __init__(self) -> None:
        self.made, self.changed = 0, threading.Condition()
        self.plain = shapes(10, seed=0)

    def examples(self) -> Examples:
        return Examples(self.plain.ids, 32, self.fetch)

    def fetch(self, numbers: np.ndarray) -> Arrays:
        with self.changed:
            self.made += 1
            self.changed.notify_all()
        return self.plain.fetch(numbers)

    def wait_for(self, made: int) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: self.made >= made, timeout=60)


def counted_job(
    run_dir: Path, devices: tf.distribute.Strategy, threads: int, prefetch: int
) -> tuple[Job, Counted]:
    counted = Counted()
    job = make_job(run_dir, devices, train=counted.examples())
    limits = Limits(input_memory_mb=64, input_threads=threads, prefetch=prefetch)
    stream = dataclasses.replace(job.stream, limits=limits)
    return dataclasses.replace(job, stream=stream, steps_per_epoch=1000), counted


@pytest.mark.parametrize("devices", [one_device, two_replicas])
@pytest.mark.parametrize(("threads", "prefetch"), [(1, 1), (4, 3)])
def test_a_pipeline_makes_as_much_ahead_as_is_reckoned(
    devices: Callable, threads: int, prefetch: int, tmp_path: Path
) -> None:
    job, counted = counted_job(tmp_path / "run", devices(), threads, prefetch)
    replicas = job.strategy.num_replicas_in_sync
    run_steps = compile_training(job)
    batches = training_iterator(job, 0)
    taken = 0
    for steps in (1, 2, 3):
        run_steps(batches, tf.constant(steps), tf.constant(taken))
        taken += steps
        # All that the queues hold; what a strategy takes besides differs by device.
        assert counted.wait_for(replicas * (taken + prefetch) + threads)
        ahead = counted.made / replicas - taken
        assert ahead <= rates.made_ahead(job.stream.limits, replicas)


def test_no_real_batch_is_made_while_cached_steps_are_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, counted = counted_job(tmp_path / "run", one_device(), 2, 2)
    job = dataclasses.replace(job, epochs=1, steps_per_epoch=2)
    ahead = rates.made_ahead(job.stream.limits, 1)
    calls = []

    def compile_and_note(job: Job) -> Callable:
        run_steps = compile_training(job)

        def noted(batches: Iterator, count: tf.Tensor, first: tf.Tensor) -> tuple:
            before = counted.made
            totals = run_steps(batches, count, first)
            calls.append((int(count), counted.made - before))
            return totals

        return noted

    monkeypatch.setattr(training, "compile_training", compile_and_note)
    rows = training._compare(job, 3, "small")
    assert {row.name for row in rows} >= {"train.real_vs_cached"}
    for turn in range(3):
        untimed, timed, *cached = calls[4 * turn : 4 * turn + 4]
        assert untimed[0] > ahead
        assert timed[0] >= 4 * ahead
        assert timed[1] > 0
        assert [made for _, made in cached] == [0, 0]
