"""The training loop beside a bare one and beside Keras: what does a step cost?

And checkpoints of the same models.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Collection
from pathlib import Path

import keras
import tensorflow as tf

from trainer import dataset, pipeline
from trainer.benchmarks.measurements import Measurement
from trainer.benchmarks.settings import Settings
from trainer.data.card import Card
from trainer.engine import precisions
from trainer.engine.job import Job, build_job, build_spec
from trainer.engine.loop import Training
from trainer.engine.state import Checkpoints, Progress
from trainer.labels import IGNORE_LABEL
from trainer.model.unet import build_model
from trainer.recipes import Recipe

CASES = {
    "densenet121_frozen": ("densenet121", "frozen"),
    "mobilenetv2_trainable": ("mobilenetv2", "full"),
}
"""Name -> encoder, and how it learns."""

_STEPS = 12
_WARM = 2
_SAVES = 3


def measure(
    settings: Settings, devices: tf.distribute.Strategy, parts: Collection[str]
) -> list[Measurement]:
    """Measures the loop of `trainer.task` beside two peers, for two models.

    The loop is all that a training does in its epochs: input, metrics, progress,
    logging and timed checkpoints. `bare` is a `tf.function` with a gradient and an
    update, called on one tensor in memory: same model, loss, clipping, optimizer, batch
    and precision. `keras_fit` is what Keras does with that tensor by itself; see
    `_keras_fit`. Where the device is faster in bfloat16 (see `precisions.settle`), the
    loop in it is measured beside the same `fit` in float32.

    Weights are random; they take the same time.

    Args:
      settings: of these, recipe, data, limits, seed and repeats.
      devices: to train on.
      parts: "step", "checkpoint" (a whole checkpoint on the local disk) or both.

    Raises:
      SeamlineError: a value, file or folder that only the user can mend.
    """
    prepared = dataset.prepare(**settings.data)
    assert prepared.card is not None, "one host alone always seals"
    faster = precisions.settle("auto") if "step" in parts else "float32"
    rows = []
    for name, (encoder, training) in CASES.items():
        recipe = dataclasses.replace(
            settings.recipe,
            encoder=encoder,
            encoder_training=training,
            encoder_weights="none",
            steps_per_epoch=_STEPS,
            epochs=settings.repeats + 1,
        )
        for precision in dict.fromkeys(("float32", faster)):
            with tempfile.TemporaryDirectory(prefix="seamline-") as run_dir:
                place = (prepared.records_dir, prepared.card)
                job = _job(run_dir, recipe, place, settings, devices, precision)
                if "step" in parts:
                    full = name if precision == "float32" else f"{name}.{precision}"
                    fit = _keras_fit(job, recipe, place[1].label_names)
                    rows += _beside_peers(full, job, fit, settings.repeats, precision)
                if "checkpoint" in parts and precision == "float32":
                    rows += _checkpoint(name, job)
    return rows


def _job(
    run_dir: str,
    recipe: Recipe,
    place: tuple[str, Card],
    settings: Settings,
    devices: tf.distribute.Strategy,
    precision: str,
) -> Job:
    stream, val = pipeline.open_input(
        recipe, *place, settings.seed, settings.input_limits
    )
    spec = build_spec(recipe, place[1].label_names, precision)
    job = (run_dir, spec, recipe, place[1], settings.seed, devices, stream, val)
    return build_job(*job)


def _beside_peers(
    name: str,
    job: Job,
    fit: Callable[[int], object],
    repeats: int,
    precision: str,
) -> list[Measurement]:
    """Turns of as many steps each; the first epoch compiles and is not timed."""
    training = Training(job, save_minutes=5)
    peers = {"keras_fit": fit}
    if precision == "float32":
        peers["bare"] = _bare(job)
    training.open()
    training.train_epoch()
    for take in peers.values():
        take(_WARM)
    seconds: dict[str, list[float]] = {"loop": [], **{peer: [] for peer in peers}}
    for _ in range(repeats):
        training.skip_validation()
        seconds["loop"].append(_seconds(training.train_epoch))
        for peer, take in peers.items():
            seconds[peer].append(_seconds(functools.partial(take, _STEPS)))
    training.close()
    return _rows(name, seconds, job, precision)


_PEERS = {
    "keras_fit": "Keras' fit on one tensor in float32",
    "bare": "a bare tf.function on one tensor",
}


def _rows(
    name: str, seconds: dict[str, list[float]], job: Job, precision: str
) -> list[Measurement]:
    """Ratios first."""
    turns = f"{len(seconds['loop'])} turns of {_STEPS} steps"
    rows = []
    for peer in sorted(set(seconds) - {"loop"}):
        pairs = zip(seconds["loop"], seconds[peer], strict=True)
        ratios = [other / own for own, other in pairs]
        what = f"images/s of the loop / of {_PEERS[peer]}; {turns}, "
        what += f"{min(ratios):.3f} to {max(ratios):.3f}"
        ratio = f"step.{'loop_vs_bare' if peer == 'bare' else 'vs_keras_fit'}.{name}"
        rows.append(Measurement(ratio, statistics.median(ratios), "", what))
    images, at = _STEPS * job.batch_size, job.val.image_size
    for who, spent in seconds.items():
        used = "float32" if who == "keras_fit" else precision
        rate = images / statistics.median(spent)
        what = f"batch {job.batch_size} at {at}², {used}"
        rows.append(Measurement(f"step.{who}.{name}", rate, "images/s", what))
    return rows


def _keras_fit(
    job: Job, recipe: Recipe, label_names: list[str]
) -> Callable[[int], object]:
    """Steps of Keras' `fit`, as a script would have them.

    Keras' own layers, the recipe's kind of optimizer, Keras' own cross-entropy and
    accuracy; no clipping, and no other losses.
    """
    [(images, masks)] = job.stream.batches(0, 1)
    spec = build_spec(recipe, label_names, "float32")
    labels = tf.where(masks == IGNORE_LABEL, 0, tf.cast(masks, tf.int32))
    with job.strategy.scope():
        several = job.strategy.num_replicas_in_sync > 1
        frozen = spec.encoder_training == "frozen"
        if frozen:
            # Where the encoder may learn, all layers are those of Keras.
            spec = dataclasses.replace(spec, encoder_training="finetune")
        model = build_model(spec, synchronized=several)
        model.get_layer(spec.encoder).trainable = not frozen
        cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(recipe.optimizer, cross_entropy, metrics=["accuracy"])
    batch = (tf.cast(images, tf.float32), labels)
    batches = tf.data.Dataset.from_tensors(batch).repeat()
    return lambda steps: model.fit(batches, steps_per_epoch=steps, verbose=0)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _bare(job: Job) -> Callable[[int], float]:
    """Number of steps -> the last loss, once all of them are done."""
    variables = job.model.trainable_variables
    replicas = job.strategy.num_replicas_in_sync
    with job.stream.examples.explained():
        [(images, masks)] = job.stream.batches(0, 1)
    rows = job.batch_size // replicas
    images, masks = images[:rows], masks[:rows]

    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = job.model(images, training=True)
            loss = job.loss.value(job.loss.sums(logits, masks))
        gradients = tape.gradient(loss, variables)
        if job.clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, job.clip_norm)
        job.optimizer.apply(gradients, variables)
        return loss

    @tf.function
    def run() -> tf.Tensor:
        losses = job.strategy.run(step)
        return job.strategy.experimental_local_results(losses)[0]

    def repeat(count: int) -> float:
        for _ in range(count):
            loss = run()
        return float(loss)

    return repeat


def _checkpoint(name: str, job: Job) -> list[Measurement]:
    """Seconds and bytes of a whole checkpoint on the local disk."""
    with tempfile.TemporaryDirectory(prefix="seamline-") as folder:
        kept = Checkpoints(folder, job.model, job.optimizer)
        seconds = [
            _seconds(functools.partial(kept.save, Progress(step=step)))
            for step in range(1, 1 + _SAVES)
        ]
        files = Path(folder, "checkpoints", "last").glob(f"ckpt-{_SAVES}.*")
        size = sum(os.path.getsize(file) for file in files)
    return [
        Measurement(
            f"checkpoint.seconds.{name}",
            statistics.median(seconds),
            "s",
            f"model and optimizer to the local disk; median of {_SAVES}",
        ),
        Measurement(f"checkpoint.megabytes.{name}", size / 1e6, "MB", "of one"),
    ]
