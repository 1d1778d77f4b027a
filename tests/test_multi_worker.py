"""Two workers on this machine, real processes: as one, or not at all."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.cluster import (
    Ended,
    outcome,
    run_workers,
    steps_outcome,
    train_on_workers,
)
from tests.events import Events
from tests.test_engine import make_job, one_device, two_replicas
from tests.test_survival import FULL
from trainer.engine import loop, pace, state, steps
from trainer.errors import Stopped


def error_of(ended: Ended) -> str:
    assert "Traceback" not in ended.output
    [line] = [x for x in ended.output.splitlines() if x.startswith("error:")]
    return line


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """Five steps on one device: the second batch of three is ragged."""
    return steps_outcome(make_job(tmp_path_factory.mktemp("a") / "r", one_device()), 5)


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    return steps_outcome(
        make_job(tmp_path_factory.mktemp("b") / "r", two_replicas()), 5
    )


def assert_same_training(
    ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]
) -> None:
    np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-6)
    np.testing.assert_allclose(ours["val_loss"], theirs["val_loss"], rtol=1e-5)
    np.testing.assert_array_equal(ours["confusion"], theirs["confusion"])
    for name in ours:
        if name.startswith("weight"):
            np.testing.assert_allclose(ours[name], theirs[name], atol=1e-5)


def assert_same_bits(
    ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]
) -> None:
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        assert value.tobytes() == theirs[name].tobytes(), name


def test_two_replicas_train_as_one_device(
    alone: dict[str, np.ndarray], mirrored: dict[str, np.ndarray]
) -> None:
    assert_same_training(mirrored, alone)


@pytest.mark.parametrize("virtual", [0, 2])
def test_two_workers_train_as_two_replicas_and_agree_bit_for_bit(
    virtual: int, mirrored: dict[str, np.ndarray], tmp_path: Path
) -> None:
    ended = train_on_workers(tmp_path / "run", steps=5, virtual=virtual)
    assert [x.code for x in ended] == [0, 0], ended
    replicas = 2 * max(virtual, 1)
    assert f"2 workers with {max(virtual, 1)} replicas" in ended[0].output
    assert f"{replicas} in all (--strategy=auto)" in ended[0].output
    assert_same_training(outcome(tmp_path / "run", 0), mirrored)
    assert_same_bits(outcome(tmp_path / "run", 0), outcome(tmp_path / "run", 1))


def test_parts_of_a_batch_work_on_workers_as_on_replicas(
    tmp_path: Path,
) -> None:
    (tmp_path / "alone").mkdir()
    job = make_job(tmp_path / "alone" / "run", two_replicas(), accumulate=2)
    ended = train_on_workers(tmp_path / "run", steps=5, changes={"accumulate": 2})
    assert [x.code for x in ended] == [0, 0], ended
    assert_same_training(outcome(tmp_path / "run", 0), steps_outcome(job, 5))
    assert_same_bits(outcome(tmp_path / "run", 0), outcome(tmp_path / "run", 1))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("unbroken") / "run"
    ended = train_on_workers(run_dir)
    assert [x.code for x in ended] == [0, 0], ended
    assert_same_bits(outcome(run_dir, 0), outcome(run_dir, 1))
    return run_dir


@pytest.mark.parametrize("dying", [0, 1])
def test_when_a_worker_is_killed_the_other_ends_and_both_go_on_together(
    dying: int, unbroken: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    what = {"signal": "SIGKILL", "at_step": 5, "signal_worker": dying}
    # This fails where the other has not ended after 60 s.
    ended = train_on_workers(run_dir, killed=dying, **what)
    assert ended[dying].code == -9
    left = ended[1 - dying]
    assert left.code == 75, left.output
    [line] = [x for x in left.output.splitlines() if x.startswith("error:")]
    assert f"worker {dying} (localhost:" in line
    assert "was lost" in line
    again = train_on_workers(run_dir)
    assert [x.code for x in again] == [0, 0], again
    assert "Resuming from" in again[0].output
    for worker in (0, 1):
        assert_same_bits(outcome(run_dir, worker), outcome(unbroken, 0))


@pytest.mark.parametrize("freezing", [0, 1] if FULL else [0])
def test_when_a_worker_freezes_the_other_ends_by_itself(
    freezing: int, tmp_path: Path
) -> None:
    # Nothing closes its connections: only its heartbeats tell.
    ended = train_on_workers(
        tmp_path / "run",
        **{"signal": "SIGSTOP", "at_step": 5, "signal_worker": freezing},
        frozen=freezing,
    )
    left = ended[1 - freezing]
    assert left.code == 75, left.output
    line = error_of(left)
    assert f"worker {freezing} (localhost:" in line
    assert "was lost" in line


def test_a_loss_that_is_no_number_ends_all_and_the_chief_alone_draws_the_batch(
    tmp_path: Path,
) -> None:
    changes = {"learning_rate": 1e20, "clip_norm": 0.0}
    ended = train_on_workers(tmp_path / "run", changes=changes)
    assert [x.code for x in ended] == [42, 42], ended
    picture = tmp_path / "run" / "figures" / "bad_batch.png"
    assert f"(its batch: {picture})" in error_of(ended[0])
    assert "(its batch: worker 0 saves a picture of it)" in error_of(ended[1])
    assert picture.stat().st_size > 1000


def test_sigterm_to_one_worker_stops_both_at_the_same_step(
    unbroken: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    ended = train_on_workers(run_dir, signal="SIGTERM", at_step=5, signal_worker=1)
    assert [x.code for x in ended] == [143, 143], ended
    for each in ended:
        assert "stopped by SIGTERM after saving at step 5" in each.output
    again = train_on_workers(run_dir)
    assert [x.code for x in again] == [0, 0], again
    assert "1 epochs, 5 steps done" in again[0].output
    assert_same_bits(outcome(run_dir, 1), outcome(unbroken, 0))
    rows = [state.read_history(str(place)) for place in (run_dir, unbroken)]
    for ours, theirs in zip(*rows, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-12)
        assert ours["val_loss"] == theirs["val_loss"]


def test_a_run_stopped_on_two_replicas_goes_on_on_one_with_the_same_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_job(tmp_path / "whole", two_replicas())
    expected = steps_outcome(whole, 9)["loss"][4:]
    monkeypatch.setattr(pace, "_MOST_STEPS_A_CALL", 1)
    original = loop.bars.Bar.update

    def update(bar: loop.bars.Bar, count: int, note: str = "") -> None:
        original(bar, count, note)
        if bar._done == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop.bars.Bar, "update", update)
    with pytest.raises(Stopped, match="at step 4"):
        loop.train(make_job(tmp_path / "run", two_replicas()))
    job = make_job(tmp_path / "run", one_device())
    checkpoints = state.Checkpoints(job.run_dir, job.model, job.optimizer)
    assert checkpoints.restore().step == 4
    ours, theirs = steps.training_iterator(job, 4), steps.training_iterator(whole, 4)
    for _ in range(5):
        parts = [whole.strategy.experimental_local_results(x) for x in next(theirs)]
        for mine, pieces in zip(next(ours), parts, strict=True):
            np.testing.assert_array_equal(mine, np.concatenate(pieces))
    batches, run_steps = steps.training_iterator(job, 4), steps.compile_training(job)
    losses = [
        float(run_steps(batches, tf.constant(1), tf.constant(step))[0])
        for step in range(4, 9)
    ]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


TINY = (
    *("--encoder=tiny", "--encoder_weights=none", "--encoder_training=frozen"),
    *("--image_size=32", "--batch_size=4", "--steps_per_epoch=2", "--epochs=1"),
    "--run_dir=run",
)
"""Flags of a training that two workers finish soon."""


def test_workers_started_with_different_commands_are_refused(
    drawn: Path, tmp_path: Path
) -> None:
    ended = run_workers(
        *("trainer.task", f"--dataset={drawn}", *TINY),
        each=[("--seed=1", "--records_dir=a"), ("--seed=2", "--records_dir=b")],
        cwd=tmp_path,
        timeout=200,
    )
    assert [x.code for x in ended] == [42, 42], ended
    assert "seed: 1 at worker 0, 2 here" in error_of(ended[1])
    for one in ended:
        assert "worker 1 was started with other values than worker 0" in error_of(one)
    assert not (tmp_path / "run").exists()


def test_workers_with_different_numbers_of_devices_are_refused(
    drawn: Path, tmp_path: Path
) -> None:
    ended = run_workers(
        *("trainer.task", f"--dataset={drawn}", *TINY),
        each=[(), ("--num_virtual_devices=2",)],
        cwd=tmp_path,
    )
    assert [x.code for x in ended] == [42, 42], ended
    for one in ended:
        assert "workers have different numbers of devices" in error_of(one)


def test_a_worker_that_finds_no_records_says_where_it_looked(
    drawn: Path, tmp_path: Path
) -> None:
    for name in ("chief", "other"):
        (tmp_path / name).mkdir()
    ended = run_workers(
        *("trainer.task", f"--dataset={drawn}", *TINY, "--records_dir=here"),
        folders=("chief", "other"),
        cwd=tmp_path,
        timeout=200,
    )
    assert [x.code for x in ended] == [75, 42], ended
    line = error_of(ended[1])
    assert "--records_dir=here: worker 1 finds no records there" in line
    assert "worker 1 (localhost:" in error_of(ended[0])
    assert not (tmp_path / "chief" / "run").exists()


def test_the_command_trains_on_two_workers_and_the_chief_alone_writes(
    drawn: Path, tmp_path: Path
) -> None:
    arguments = ("trainer.task", f"--dataset={drawn}", *TINY, "--profile_steps=1,1")
    ended = run_workers(*arguments, cwd=tmp_path, timeout=400)
    assert [x.code for x in ended] == [0, 0], ended
    assert "Batch: 4 examples in all, 2 a replica: 2 workers" in ended[1].output
    assert "Done: open run/report.html" in ended[0].output
    assert "Done" not in ended[1].output
    assert "Records: " in ended[0].output
    for name in ("export/saved_model.pb", "report.html", "scores.json", "config.json"):
        assert (tmp_path / "run" / name).exists(), name
    events, plugins = sorted((tmp_path / "run" / "tensorboard").iterdir())
    assert events.name.startswith("events.out.tfevents.")
    assert len(list(plugins.rglob("*.xplane.pb"))) == 1
    assert Events(tmp_path / "run").steps("examples") == [2]
    assert ["Profile: steps 1 to 1" in one.output for one in ended] == [True, False]
    assert sorted(x.name for x in tmp_path.iterdir()) == ["records", "run"]
