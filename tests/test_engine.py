from __future__ import annotations

import functools
import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.data import augment
from trainer.data.examples import Examples, in_memory
from trainer.data.inputs import Stream
from trainer.data.order import Order
from trainer.engine import loop, pace, state, steps, strategy
from trainer.engine.job import Job
from trainer.engine.schedules import build_optimizer
from trainer.engine.strategy import build_strategy, distribute
from trainer.errors import SeamlineError, Stopped
from trainer.limits import Limits
from trainer.model import losses
from trainer.model.unet import ModelSpec, batch_norms

NAMES = ["null", "disc", "square", "never"]
WEIGHTS = [0.125**0.5, 1, 1, 1]
SPEC = ModelSpec(
    encoder="mobilenetv2",
    encoder_training="full",
    preprocessing="encoder",
    image_size=32,
    batch_norm_momentum=0.9,
    precision="float32",
    label_names=NAMES,
)


def shapes(count: int, seed: int) -> Examples:
    """Bright discs and squares; some pixels ignored, in some images most of them."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 90, (count, 32, 32, 3)).astype(np.uint8)
    masks = np.zeros((count, 32, 32), np.uint8)
    rows, columns = np.mgrid[:32, :32]
    for image, mask in zip(images, masks, strict=True):
        y, x = random.integers(8, 24, 2)
        disc = (rows - y) ** 2 + (columns - x) ** 2 < 36
        square = (abs(rows - x) < 4) & (abs(columns - y) < 4)
        for label, where in ((1, disc), (2, square)):
            mask[where] = label
            image[where] = (200, 90 * label, 40)
        mask[: random.integers(0, 20)] = 255
    return in_memory([str(index) for index in range(count)], images, masks)


def small_model(synchronized: bool) -> keras.Model:
    """A few layers with batch norm: all that the loop knows of a model."""
    image = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(1 / 255)(image)
    for filters in (8, 8):
        x = keras.layers.Conv2D(filters, 3, padding="same")(x)
        x = keras.layers.BatchNormalization(momentum=0.9)(x)
        x = keras.layers.ReLU()(x)
    model = keras.Model(image, keras.layers.Conv2D(len(NAMES), 1)(x))
    for layer in batch_norms(model):
        layer.synchronized = synchronized
    return model


def make_job(run_dir: Path, devices: tf.distribute.Strategy, **changes: object) -> Job:
    keras.utils.set_random_seed(0)
    with devices.scope():
        model = small_model(synchronized=devices.num_replicas_in_sync > 1)
        optimizer = build_optimizer(
            "sgd",
            learning_rate=float(changes.pop("learning_rate", 0.02)),
            schedule="cosine",
            total_steps=9,
            weight_decay=0.0,
        )
        optimizer.build(model.trainable_variables)
    loss = losses.build_loss("weighted_cross_entropy+dice", weights=WEIGHTS)
    values = {
        "model": model,
        "optimizer": optimizer,
        "loss": loss,
        "strategy": devices,
        "stream": Stream(
            examples=changes.pop("train", shapes(10, seed=0)),
            order=Order(10, copies=1, seed=0),
            policy=augment.find("random"),
            batch_size=4,
            seed=0,
            limits=Limits(input_memory_mb=64, input_threads=2, prefetch=2),
        ),
        "val": shapes(6, seed=1),
        "classes": len(NAMES),
        "epochs": 3,
        "steps_per_epoch": 3,
        "clip_norm": 1.0,
        "run_dir": str(run_dir),
    }
    run_dir.mkdir(exist_ok=True)
    return Job(**{**values, **changes})


def one_device() -> tf.distribute.Strategy:
    return tf.distribute.OneDeviceStrategy("/cpu:0")


@functools.cache
def two_replicas() -> tf.distribute.Strategy:
    """One for all tests: two in a process would number their collectives alike."""
    return tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])


def weights(job: Job) -> list[np.ndarray]:
    return [np.array(value) for value in job.model.get_weights()]


def without_times(rows: list[dict]) -> list[dict]:
    times = ("seconds", "images_per_second", "input_wait_fraction")
    return [{k: v for k, v in row.items() if k not in times} for row in rows]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, list[dict]]:
    job = make_job(tmp_path_factory.mktemp("run") / "unbroken", one_device())
    return job, loop.train(job)


def test_training_lowers_the_loss_and_logs_each_epoch_once(
    unbroken: tuple[Job, list[dict]],
) -> None:
    job, rows = unbroken
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert [row["step"] for row in rows] == [3, 6, 9]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert state.read_history(job.run_dir) == rows
    assert set(rows[0]) == {
        *("epoch", "step", "seconds", "loss", "accuracy", "learning_rate"),
        *("images_per_second", "input_wait_fraction", "val_loss", "val_accuracy"),
        *("val_foreground_accuracy", "val_mean_iou", "val_mean_recall"),
    }
    assert all(0 <= row["input_wait_fraction"] <= 1 for row in rows)
    events = os.listdir(Path(job.run_dir) / "tensorboard")
    assert len(events) == 1


def test_a_step_begins_when_its_wait_for_input_has_been_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a thread that has other work would look at the clock after it."""
    seen = []

    def record(*_: object) -> Callable[..., tuple[tf.Tensor, ...]]:
        def step(images: tf.Tensor, masks: tf.Tensor) -> tuple[tf.Tensor, ...]:
            seen.append(images)
            return tf.constant(0.0), tf.constant(0, tf.int64), tf.constant(1, tf.int64)

        return step

    monkeypatch.setattr(steps, "_step_on", record)
    job = make_job(tmp_path / "run", one_device())
    batches = steps.training_iterator(job, 0)
    steps.compile_training(job)(batches, tf.constant(1), tf.constant(0))
    [waited] = seen[-1].op.control_inputs
    [added] = [x.op for x in waited.inputs if x.op.type == "Sub"]
    assert [x.op.type for x in added.inputs] == ["Timestamp", "Timestamp"]


def test_an_iterator_of_one_replica_is_left_without_waiting(tmp_path: Path) -> None:
    """Distributed ones have an autotuner, which TensorFlow waits for."""
    job = make_job(tmp_path / "run", one_device())
    batches = job.stream.batches(0, 1)
    assert not batches.options().autotune.enabled
    assert distribute(job.strategy, batches) is batches
    assert type(steps.training_iterator(job, 0)) is type(iter(batches))
    assert distribute(two_replicas(), batches) is not batches


def test_two_replicas_train_as_one_device_does(
    unbroken: tuple[Job, list[dict]], tmp_path: Path
) -> None:
    job = make_job(tmp_path / "run", two_replicas())
    rows = loop.train(job)
    for ours, theirs in zip(rows, unbroken[1], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=2e-4)
        assert ours["val_loss"] == pytest.approx(theirs["val_loss"], rel=2e-3)
    first, second = weights(job), weights(unbroken[0])
    differences = [np.abs(a - b).max() for a, b in zip(first, second, strict=True)]
    assert max(differences) < 5e-3


@pytest.mark.parametrize("text", ["weighted_cross_entropy+dice", "focal", "lovasz"])
def test_the_first_step_of_two_replicas_is_that_of_one(
    text: str, tmp_path: Path
) -> None:
    losses_seen = []
    after = []
    loss = losses.build_loss(text, weights=WEIGHTS, smoothing=0.1)
    for name, devices in (("one", one_device()), ("two", two_replicas())):
        job = make_job(tmp_path / name, devices, loss=loss)
        batches = steps.training_iterator(job, 0)
        run_steps = steps.compile_training(job)
        totals = run_steps(batches, tf.constant(1), tf.constant(0))
        losses_seen.append(float(totals[0]))
        after.append((weights(job), [int(x) for x in totals[1:3]]))
    assert losses_seen[0] == pytest.approx(losses_seen[1], rel=1e-6)
    for first, second in zip(after[0][0], after[1][0], strict=True):
        np.testing.assert_allclose(first, second, atol=1e-5)
    assert after[0][1] == after[1][1]


class _Interrupt(Exception):
    """Stands for a crash: nothing is saved on the way out."""


def crash_when(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str, when: Callable
) -> None:
    original = getattr(owner, name)

    def wrapped(self: object, *values: object) -> object:
        if when(*values):
            raise _Interrupt
        return original(self, *values)

    monkeypatch.setattr(owner, name, wrapped)


@pytest.mark.parametrize("where", ["before the history line", "before the checkpoint"])
def test_a_crash_is_made_good_to_the_same_weights_and_history(
    where: str,
    unbroken: tuple[Job, list[dict]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patched:
        if where == "before the history line":
            crash_when(patched, state.History, "append", lambda row: row["epoch"] == 2)
        else:
            crash_when(patched, state.Checkpoints, "save", lambda at: at.epoch == 2)
        with pytest.raises(_Interrupt):
            loop.train(make_job(tmp_path / "run", one_device()))
    job = make_job(tmp_path / "run", one_device())
    rows = loop.train(job)
    assert without_times(rows) == without_times(unbroken[1])
    for ours, theirs in zip(weights(job), weights(unbroken[0]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_sigterm_saves_in_the_middle_of_an_epoch_and_the_run_goes_on_exactly(
    unbroken: tuple[Job, list[dict]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        # One step a host call, and the signal after the fifth of nine.
        patched.setattr(pace, "_MOST_STEPS_A_CALL", 1)
        original = loop.bars.Bar.update

        def update(bar: object, count: int, note: str = "") -> None:
            original(bar, count, note)
            if bar._done == 5:
                os.kill(os.getpid(), signal.SIGTERM)

        patched.setattr(loop.bars.Bar, "update", update)
        with pytest.raises(Stopped, match="SIGTERM after saving at step 5") as stopped:
            loop.train(make_job(tmp_path / "run", one_device()))
    assert stopped.value.exit_code == 143
    job = make_job(tmp_path / "run", one_device())
    rows = loop.train(job)
    # The sum of three losses is rounded otherwise when it is added up in two calls.
    for ours, theirs in zip(rows, without_times(unbroken[1]), strict=True):
        assert without_times([ours])[0] == pytest.approx(theirs, rel=1e-6)
    for ours, theirs in zip(weights(job), weights(unbroken[0]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_finished_run_is_not_trained_again(
    unbroken: tuple[Job, list[dict]],
) -> None:
    again = make_job(Path(unbroken[0].run_dir), one_device())
    assert loop.train(again) == unbroken[1]
    for ours, theirs in zip(weights(again), weights(unbroken[0]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_best_model_is_the_one_of_the_best_epoch(
    unbroken: tuple[Job, list[dict]],
) -> None:
    run_dir, rows = unbroken[0].run_dir, unbroken[1]
    best = max(rows, key=lambda row: row["val_mean_iou"])
    folder = os.path.join(run_dir, "checkpoints", "best")
    newest = tf.train.latest_checkpoint(folder)
    assert newest.endswith(f"-{best['step']}")
    model = small_model(synchronized=False)
    state.load_best(run_dir, model)
    last = best["epoch"] == rows[-1]["epoch"]
    same = [
        np.array_equal(ours, theirs)
        for ours, theirs in zip(model.get_weights(), weights(unbroken[0]), strict=True)
    ]
    assert all(same) is last


def test_a_loss_that_is_no_number_stops_with_step_and_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace.Pace, "count", lambda self, left: 3)
    job = make_job(tmp_path / "run", one_device(), learning_rate=1e20, clip_norm=0.0)
    picture = tmp_path / "run" / "figures" / "bad_batch.png"
    with pytest.raises(SeamlineError) as told:
        loop.train(job)
    text = (
        r"learning_rate=(.*): the loss is not finite at step (\d) \(its batch: (.*)\);"
    )
    rate, step, place = re.search(text, str(told.value)).groups()
    # The host call goes on to step 3; the rate is that of the bad step, on a cosine
    # of 8 steps after a warm-up of one.
    assert 0 < int(step) < 3
    expected = 0.5e20 * (1 + np.cos(np.pi * (int(step) - 1) / 8))
    assert float(rate) == pytest.approx(expected, rel=1e-2)
    assert place == str(picture)
    assert picture.stat().st_size > 1000


def test_weights_that_the_last_step_spoils_are_found_by_the_validation(
    tmp_path: Path,
) -> None:
    values = {"learning_rate": 1e20, "clip_norm": 0.0, "steps_per_epoch": 1}
    job = make_job(tmp_path / "run", one_device(), **values)
    text = r"not finite in the validation after step 1 \(its batch: .*bad_batch.png\)"
    with pytest.raises(SeamlineError, match=text):
        loop.train(job)
    assert state.read_history(job.run_dir) == []
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_clipping_limits_the_norm_of_the_global_gradient(tmp_path: Path) -> None:
    moved = []
    for limit in (0.0, 1e-3):
        job = make_job(tmp_path / str(limit), two_replicas(), clip_norm=limit)
        before = [np.array(x) for x in job.model.trainable_variables]
        run_steps = steps.compile_training(job)
        run_steps(steps.training_iterator(job, 0), tf.constant(1), tf.constant(0))
        after = [np.array(x) for x in job.model.trainable_variables]
        pairs = zip(before, after, strict=True)
        moved.append(np.sqrt(sum(((a - b) ** 2).sum() for a, b in pairs)))
    # The warm-up starts at a tenth of 0.02; momentum has nothing to add yet.
    assert moved[1] == pytest.approx(0.002 * 1e-3, rel=1e-2)
    assert moved[0] > 10 * moved[1]


def test_the_cosine_schedule_warms_up_and_ends_at_zero() -> None:
    optimizer = build_optimizer(
        "adamw", learning_rate=1.0, schedule="cosine", total_steps=200, weight_decay=0.1
    )
    schedule = optimizer._learning_rate
    rates = [float(schedule(step)) for step in range(201)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert int(np.argmax(rates)) == 10
    assert rates[-1] == pytest.approx(0, abs=1e-6)
    middle = 0.5 * (1 + np.cos(np.pi * 0.5))
    assert rates[105] == pytest.approx(middle, abs=1e-6)


@pytest.mark.parametrize("name", ["rmsprop", "adam", "adamw", "sgd"])
def test_optimizers_are_the_ones_named(name: str) -> None:
    optimizer = build_optimizer(
        name, learning_rate=0.5, schedule="constant", total_steps=1, weight_decay=0.1
    )
    assert type(optimizer).__name__.lower() == name
    assert float(optimizer.learning_rate) == 0.5


def test_weight_decay_leaves_biases_and_batch_norms_alone() -> None:
    optimizer = build_optimizer(
        "adamw", learning_rate=1.0, schedule="constant", total_steps=1, weight_decay=0.1
    )
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(2), keras.layers.BatchNormalization()]
    )
    optimizer.build(model.trainable_variables)
    decays = [
        x.name for x in model.trainable_variables if optimizer._use_weight_decay(x)
    ]
    assert decays == ["kernel"]


def test_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(SeamlineError, match="mirrored, multi_worker"):
        build_strategy("cluster")


def test_mirrored_training_never_falls_back_to_the_cpu_of_a_gpu_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strategy, "DRIVER", str(tmp_path))
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [])
    with pytest.raises(SeamlineError, match="TensorFlow sees none"):
        build_strategy("mirrored")
    assert build_strategy("auto").num_replicas_in_sync == 1


def test_virtual_devices_after_tensorflow_started_are_refused() -> None:
    tf.zeros(1)
    with pytest.raises(SeamlineError, match="--num_virtual_devices=3"):
        build_strategy("mirrored", num_virtual_devices=3)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SeamlineError, match="not a run directory"):
        state.load_model(str(tmp_path))
    (tmp_path / "model.json").write_text(SPEC.to_json())
    with pytest.raises(SeamlineError, match="holds no trained model"):
        state.load_model(str(tmp_path))


def test_history_lines_beyond_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    lines = [json.dumps({"epoch": epoch}) + "\n" for epoch in (1, 2, 3)]
    (tmp_path / "history.jsonl").write_text("".join(lines))
    state.History(str(tmp_path), epochs_done=2)
    assert state.read_history(str(tmp_path)) == [{"epoch": 1}, {"epoch": 2}]
