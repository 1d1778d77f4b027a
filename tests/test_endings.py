"""When a training saves, ends and stops, and what a restart makes of it.

The clock stands still but for a minute a step.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.test_engine import (
    make_job,
    one_device,
    two_replicas,
    weights,
    without_times,
)
from trainer.engine import loop, pace, state, telling
from trainer.engine.state import Checkpoints, Progress
from trainer.errors import Stopped, Unavailable

Rows = list[dict[str, Any]]


@dataclasses.dataclass
class Clock:
    """Shows `now`; a minute passes with every step."""

    now: float = 1000.0
    after_step: Callable[[int], None] = lambda done: None

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """One step a host call, a minute each."""
    clock = Clock()
    monkeypatch.setattr(pace, "_MOST_STEPS_A_CALL", 1)
    original = loop.bars.Bar.update

    def update(bar: Any, count: int, note: str = "") -> None:
        original(bar, count, note)
        clock.now += 60
        clock.after_step(bar._done)

    monkeypatch.setattr(loop.bars.Bar, "update", update)
    return clock


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[Progress]:
    """A copy of all that is saved."""
    seen: list[Progress] = []
    original = Checkpoints.save

    def save(self: Checkpoints, progress: Progress) -> None:
        seen.append(dataclasses.replace(progress))
        original(self, progress)

    monkeypatch.setattr(Checkpoints, "save", save)
    return seen


def train(
    folder: Path, devices: Callable = one_device, **options: Any
) -> tuple[loop.Job, Rows]:
    """Trains 3 epochs of 3 steps, or goes on with that."""
    job = make_job(folder, devices())
    return job, loop.train(job, **options)


def scored(monkeypatch: pytest.MonkeyPatch, *scores: float) -> None:
    """Makes these the validation scores of the epochs."""
    original = telling.epoch_row

    def row(job: Any, progress: Progress, *rest: Any) -> dict[str, Any]:
        found = original(job, progress, *rest)
        return {**found, "val_mean_iou": scores[progress.epoch - 1]}

    monkeypatch.setattr(telling, "epoch_row", row)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[loop.Job, Rows]:
    return train(tmp_path_factory.mktemp("run") / "unbroken")


def assert_same(ours: tuple[loop.Job, Rows], theirs: tuple[loop.Job, Rows]) -> None:
    assert without_times(ours[1]) == without_times(theirs[1])
    for one, other in zip(weights(ours[0]), weights(theirs[0]), strict=True):
        np.testing.assert_array_equal(one, other)


def test_checkpoints_come_every_so_many_minutes_and_at_the_end_of_epochs(
    clock: Clock, saved: list[Progress], tmp_path: Path
) -> None:
    train(tmp_path / "run", save_minutes=2, clock=clock)
    assert [(x.epoch, x.step) for x in saved] == [
        *((0, 2), (1, 3), (1, 5), (2, 6), (2, 8), (3, 9)),
    ]


def test_without_save_minutes_checkpoints_come_at_the_end_of_epochs_alone(
    clock: Clock, saved: list[Progress], tmp_path: Path
) -> None:
    train(tmp_path / "run", clock=clock)
    assert [x.step for x in saved] == [3, 6, 9]


def test_two_stops_within_one_epoch_change_nothing(
    unbroken: tuple[loop.Job, Rows], clock: Clock, tmp_path: Path
) -> None:
    for step in (4, 5):

        def stop(done: int, step: int = step) -> None:
            if done == step:
                os.kill(os.getpid(), signal.SIGTERM)

        clock.after_step = stop
        with pytest.raises(Stopped, match=f"after saving at step {step}") as stopped:
            train(tmp_path / "run", clock=clock)
        assert stopped.value.exit_code == 143
    clock.after_step = lambda done: None
    assert_same(train(tmp_path / "run", clock=clock), unbroken)


@pytest.mark.parametrize(
    ("patience", "epochs"), [(0, 3), (1, 2), (2, 3)], ids=["off", "one", "two"]
)
def test_patience_ends_a_training_that_gets_no_better(
    patience: int, epochs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(monkeypatch, 0.5, 0.5, 0.4)
    _, rows = train(tmp_path / "run", patience=patience)
    assert [row["epoch"] for row in rows] == list(range(1, epochs + 1))


def test_a_better_epoch_renews_the_patience(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(monkeypatch, 0.5, 0.4, 0.6)
    job = make_job(tmp_path / "run", one_device(), epochs=3)
    assert len(loop.train(job, patience=2)) == 3


def test_patience_survives_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    scored(monkeypatch, 0.5, 0.4, 0.3)
    clock.after_step = lambda done: (
        os.kill(os.getpid(), signal.SIGTERM) if done == 4 else None
    )
    with pytest.raises(Stopped):
        train(tmp_path / "run", patience=1, clock=clock)
    assert len(train(tmp_path / "run", patience=1, clock=clock)[1]) == 2
    assert state.read_history(str(tmp_path / "run"))[-1]["epoch"] == 2


def refuse_to_train(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*values: Any) -> None:
        raise AssertionError("it trains")

    monkeypatch.setattr(loop.Training, "_call", never)


def test_a_training_that_patience_ended_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(monkeypatch, 0.5, 0.4, 0.3)
    _, rows = train(tmp_path / "run", patience=1)
    refuse_to_train(monkeypatch)
    assert train(tmp_path / "run", patience=1)[1] == rows


def test_the_minutes_are_those_of_all_restarts_together(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.after_step = lambda done: (
        os.kill(os.getpid(), signal.SIGTERM) if done == 4 else None
    )
    with pytest.raises(Stopped):
        train(tmp_path / "run", max_minutes=5, clock=clock)
    # Another process has another clock, and what lies between costs nothing.
    clock.now = 5.0
    job, rows = train(tmp_path / "run", max_minutes=5, clock=clock)
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 3), (2, 5)]
    refuse_to_train(monkeypatch)
    clock.now = 99.0
    again, same = train(tmp_path / "run", max_minutes=5, clock=clock)
    assert_same((again, same), (job, rows))
    newest = tf.train.latest_checkpoint(str(tmp_path / "run" / "checkpoints" / "last"))
    assert newest.endswith("ckpt-5")


def test_the_line_of_an_epoch_cut_short_counts_the_steps_it_had(
    clock: Clock, tmp_path: Path
) -> None:
    _, short = train(tmp_path / "short", max_minutes=2, clock=clock)
    job = make_job(tmp_path / "whole", one_device(), epochs=1, steps_per_epoch=2)
    whole = loop.train(job)
    assert short[0]["step"] == 2
    assert short[0]["loss"] == pytest.approx(whole[0]["loss"], rel=1e-6)


def test_two_replicas_save_and_end_as_one_device_does(
    clock: Clock, saved: list[Progress], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"save_minutes": 2, "max_minutes": 5, "clock": clock}
    _, rows = train(tmp_path / "timed", two_replicas, **options)
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 3), (2, 5)]
    assert [x.step for x in saved if x.step < 5] == [2, 3]
    scored(monkeypatch, 0.5, 0.5, 0.4)
    _, rows = train(tmp_path / "patient", two_replicas, patience=1)
    assert [row["epoch"] for row in rows] == [1, 2]


def test_with_more_minutes_a_training_goes_on_as_if_it_had_not_ended(
    unbroken: tuple[loop.Job, Rows], clock: Clock, tmp_path: Path
) -> None:
    assert len(train(tmp_path / "run", max_minutes=4, clock=clock)[1]) == 2
    assert_same(train(tmp_path / "run", max_minutes=60, clock=clock), unbroken)


def test_the_least_of_minutes_is_one_step_and_a_model(
    clock: Clock, tmp_path: Path
) -> None:
    job, rows = train(tmp_path / "run", max_minutes=1e-9, clock=clock)
    assert [row["step"] for row in rows] == [1]
    state.load_best(job.run_dir, job.model)


def test_a_signal_during_validation_stops_it_and_costs_no_step(
    unbroken: tuple[loop.Job, Rows], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = loop.compile_validation
    ended = []

    def compile_validation(job: loop.Job) -> Callable[[], Any]:
        validate = original(job)

        def interrupted() -> Any:
            os.kill(os.getpid(), signal.SIGTERM)
            ended.append(validate())
            return ended[-1]

        return interrupted

    with monkeypatch.context() as patched:
        patched.setattr(loop, "compile_validation", compile_validation)
        with pytest.raises(Stopped, match="SIGTERM after saving at step 3"):
            train(tmp_path / "run")
    assert ended == []
    steps = []
    record = loop.Training._call
    monkeypatch.setattr(
        loop.Training,
        "_call",
        lambda self: (steps.append(self._progress.step), record(self)),
    )
    assert_same(train(tmp_path / "run"), unbroken)
    assert min(steps) == 3


def test_a_signal_while_the_step_is_compiled_stops_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: list[Progress]
) -> None:
    ended = []

    def compile_training(job: loop.Job) -> Callable[..., Any]:
        def compiling(*values: Any) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            ended.append(True)

        return compiling

    monkeypatch.setattr(loop, "compile_training", compile_training)
    with pytest.raises(Stopped, match="the same command goes on") as stopped:
        train(tmp_path / "run")
    assert stopped.value.exit_code == 143
    assert ended == saved == []


def test_a_signal_during_a_save_lets_it_finish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Checkpoints.save

    def save(self: Checkpoints, progress: Progress) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        original(self, progress)

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "save", save)
        with pytest.raises(Stopped, match="SIGINT after saving at step 3") as stopped:
            train(tmp_path / "run")
    assert stopped.value.exit_code == 130
    job = make_job(tmp_path / "run", one_device())
    assert Checkpoints(job.run_dir, job.model, job.optimizer).restore().epoch == 1


def test_a_second_signal_stops_at_once(clock: Clock, tmp_path: Path) -> None:
    def twice(done: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    clock.after_step = twice
    with pytest.raises(Stopped, match="at once by a second signal") as stopped:
        train(tmp_path / "run", clock=clock)
    assert stopped.value.exit_code == 143


def test_a_run_that_another_process_took_saves_nothing(
    tmp_path: Path, saved: list[Progress]
) -> None:
    def taken() -> None:
        raise Unavailable("taken")

    with pytest.raises(Unavailable):
        train(tmp_path / "run", still_ours=taken)
    assert saved == []
    assert not (tmp_path / "run" / "checkpoints" / "best").exists()


class Crash(Exception):
    """Stands for a kill: nothing is saved on the way out."""


def test_a_kill_between_the_best_model_and_its_checkpoint_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epoch 2 is trained again and, say on other devices, not the best any more."""
    with monkeypatch.context() as patched:
        scored(patched, 0.5, 0.6, 0.1)
        original = Checkpoints.save

        def save(self: Checkpoints, progress: Progress) -> None:
            if progress.epoch == 2:
                raise Crash
            original(self, progress)

        patched.setattr(Checkpoints, "save", save)
        with pytest.raises(Crash):
            train(tmp_path / "run")
    scored(monkeypatch, 0.5, 0.4, 0.3)
    train(tmp_path / "run")
    newest = tf.train.latest_checkpoint(str(tmp_path / "run" / "checkpoints" / "best"))
    assert newest.endswith("ckpt-3")


def test_best_score_epoch_and_minutes_are_in_the_checkpoint(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(monkeypatch, 0.2, 0.5, 0.4)
    job, _ = train(tmp_path / "run", clock=clock)
    progress = Checkpoints(job.run_dir, job.model, job.optimizer).restore()
    assert (progress.best_score, progress.best_epoch, progress.best_step) == (0.5, 2, 6)
    assert progress.trained_s == 9 * 60


def test_a_step_of_twenty_times_the_usual_is_reported_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch = pace.Pace()
    caplog.set_level(logging.WARNING, "seamline")
    watch.add(0, 1, 500.0)
    for step in range(1, 8):
        watch.add(step, 1, 0.5)
    watch.add(8, 1, 9.9)
    assert caplog.messages == []
    watch.add(9, 1, 10.5)
    watch.add(10, 1, 10.5)
    watch.add(11, 1, 0.5)
    watch.add(12, 1, 11.0)
    assert caplog.messages == [
        "Warning: step 9 to 9 took 10.5 s; the usual is 0.500 s a step",
        "Warning: step 12 to 12 took 11.0 s; the usual is 0.500 s a step",
    ]


def test_one_slow_step_among_many_of_a_call_is_seen(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch = pace.Pace()
    caplog.set_level(logging.WARNING, "seamline")
    for step in range(10):
        watch.add(step, 10, 1.0)
    watch.add(100, 10, 1.9)
    assert caplog.messages == []
    watch.add(110, 10, 3.0)
    [line] = caplog.messages
    assert line.startswith("Warning: step 110 to 119 took 3.0 s")


def test_a_call_has_about_a_seconds_steps() -> None:
    watch = pace.Pace()
    assert watch.count(100) == 1
    watch.add(0, 1, 0.1)
    assert watch.count(100) == 10
    assert watch.count(4) == 4
    watch.add(1, 10, 0.01)
    assert watch.count(100) == 50
    watch.add(11, 1, 7.0)
    assert watch.count(100) == 1
