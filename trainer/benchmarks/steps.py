"""The training loop beside a bare one and beside Keras: what does a step cost?

And checkpoints of the same models.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer import dataset, pipeline
from trainer.benchmarks.measurements import Measurement
from trainer.benchmarks.settings import Settings
from trainer.benchmarks.training import one_batch
from trainer.data.card import Card
from trainer.engine import options, precisions
from trainer.engine.job import Job, build_job, build_spec
from trainer.engine.loop import Training
from trainer.engine.state import Checkpoints, Progress
from trainer.engine.steps import compile_training
from trainer.labels import IGNORE_LABEL
from trainer.model.unet import as_of_keras, build_model
from trainer.recipes import RECIPES, Recipe

CASES = {
    "densenet121_frozen": ("densenet121", "frozen"),
    "mobilenetv2_trainable": ("mobilenetv2", "full"),
}
"""Name -> encoder, and how it learns."""

_STEPS = 12
_WARM = 2
_EQUAL_STEPS = 20
_LAST_BIT = 2.0**-24
_DESCENT: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 0.01, "momentum": 0.0}
_OF_A_STEP = (
    *("loss", "label_smoothing", "schedule", "warmup_steps", "clip_norm"),
    *("weight_decay", "accumulate", "layer_decay", "encoder_learning_rate_factor"),
    *("decoder_dropout", "unfreeze_epoch"),
)
"""Knobs by which a step may do what Keras' `fit` does not."""
_SAVES = 3


def measure(
    settings: Settings, devices: tf.distribute.Strategy, parts: Collection[str]
) -> list[Measurement]:
    """Measures the loop of `trainer.task` beside two peers, for two models.

    The loop is all that a training does in its epochs: input, metrics, progress,
    logging and timed checkpoints. `bare` is a `tf.function` with a gradient and an
    update, called on one tensor in memory: same model, loss, clipping, optimizer, batch
    and precision. `keras_fit` is what Keras does with that tensor by itself; see
    `_plain_keras`. Where the device is faster in bfloat16 (see `precisions.settle`),
    the loop in it is measured beside the same `fit` in float32.

    Where the recipe trains as Keras by itself would (`--recipe=tutorial` does), both
    begin with equal weights and their losses are compared first.

    Weights are random; they take the same time.

    Args:
      settings: of these, recipe, data, limits, seed, repeats and XLA. A turn has the
        recipe's steps of an epoch, or 12.
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
            steps_per_epoch=settings.recipe.steps_per_epoch or _STEPS,
            epochs=settings.repeats + 1,
        )
        for precision in dict.fromkeys(("float32", faster)):
            with tempfile.TemporaryDirectory(prefix="seamline-") as run_dir:
                place = (prepared.records_dir, prepared.card)
                job = _job(run_dir, recipe, place, settings, devices, precision)
                if "step" in parts:
                    full = name if precision == "float32" else f"{name}.{precision}"
                    names = place[1].label_names
                    if precision == "float32" and trains_plainly(recipe):
                        rows += _loss_difference(name, job, recipe, names)
                    peer = _plain_keras(job, recipe, names)
                    rows += _beside_peers(full, job, peer, settings.repeats, precision)
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
    _, xla = options.settle(recipe, devices, precision, settings.xla)
    return build_job(*job, xla)


def _beside_peers(
    name: str, job: Job, peer: keras.Model, repeats: int, precision: str
) -> list[Measurement]:
    """Turns of as many steps each; the first epoch compiles and is not timed."""
    training = Training(job, save_minutes=5)
    peers = {"keras_fit": _fit(job, peer)}
    if precision == "float32":
        peers["bare"] = _bare(job)
    steps = job.steps_per_epoch
    training.open()
    training.train_epoch()
    for take in peers.values():
        take(_WARM)
    seconds: dict[str, list[float]] = {"loop": [], **{name: [] for name in peers}}
    for _ in range(repeats):
        training.skip_validation()
        seconds["loop"].append(_seconds(training.train_epoch))
        for other, take in peers.items():
            seconds[other].append(_seconds(functools.partial(take, steps)))
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
    turns = f"{len(seconds['loop'])} turns of {job.steps_per_epoch} steps"
    rows = []
    for peer in sorted(set(seconds) - {"loop"}):
        pairs = zip(seconds["loop"], seconds[peer], strict=True)
        ratios = [other / own for own, other in pairs]
        what = f"images/s of the loop / of {_PEERS[peer]}; {turns}, "
        what += f"{min(ratios):.3f} to {max(ratios):.3f}"
        ratio = f"step.{'loop_vs_bare' if peer == 'bare' else 'vs_keras_fit'}.{name}"
        rows.append(Measurement(ratio, statistics.median(ratios), "", what))
    images, at = job.steps_per_epoch * job.batch_size, job.val.image_size
    for who, spent in seconds.items():
        used = "float32" if who == "keras_fit" else precision
        rate = images / statistics.median(spent)
        what = f"batch {job.batch_size} at {at}², {used}"
        what += ", XLA" if job.xla and who == "loop" else ""
        rows.append(Measurement(f"step.{who}.{name}", rate, "images/s", what))
    return rows


def _plain_keras(job: Job, recipe: Recipe, label_names: list[str]) -> keras.Model:
    """The same network, compiled as a script would have it.

    Keras' own layers, none folded, fused or skipped in the backward pass; an encoder
    that does not learn has `trainable = False`. The recipe's kind of optimizer, Keras'
    own cross-entropy and accuracy; no clipping, and no other losses.
    """
    several = job.strategy.num_replicas_in_sync > 1
    spec = build_spec(recipe, label_names, "float32")
    # Where the encoder may learn, all layers are those of Keras.
    spec = dataclasses.replace(spec, encoder_training="full")
    # On one device nobody has a strategy, and with one Keras goes without XLA.
    with job.strategy.scope() if several else contextlib.nullcontext():
        model = as_of_keras(build_model(spec, synchronized=several))
        model.get_layer(spec.encoder).trainable = recipe.encoder_training != "frozen"
        optimizer = keras.optimizers.get(recipe.optimizer)
        optimizer.learning_rate = recipe.learning_rate
        cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, cross_entropy, metrics=["accuracy"])
    return model


def _keras_batch(job: Job) -> tuple[tf.Tensor, tf.Tensor]:
    """The first batch, as Keras' losses take it: they know no ignore label."""
    [(images, masks)] = job.stream.batches(0, 1)
    labels = tf.where(masks == IGNORE_LABEL, 0, tf.cast(masks, tf.int32))
    return tf.cast(images, tf.float32), labels


def _fit(job: Job, model: keras.Model) -> Callable[[int], object]:
    """Number of steps -> as many of Keras' `fit` on one tensor."""
    options = tf.data.Options()
    # When an iterator is dropped, TensorFlow 2.21 may wait for its autotuner, which
    # sleeps 10 ms, 20 ms, 40 ms and so on: of 12 steps `fit` made 20.6 s, or 40.95 s.
    options.autotune.enabled = False
    batches = tf.data.Dataset.from_tensors(_keras_batch(job)).repeat()
    batches = batches.with_options(options)
    return lambda steps: model.fit(batches, steps_per_epoch=steps, verbose=0)


def trains_plainly(recipe: Recipe) -> bool:
    """Whether a step of the recipe is what Keras makes of `compile` and `fit`."""
    article = RECIPES["tutorial"]
    return all(getattr(recipe, name) == getattr(article, name) for name in _OF_A_STEP)


def _loss_difference(
    name: str, job: Job, recipe: Recipe, label_names: list[str]
) -> list[Measurement]:
    """The step of `trainer.task` beside Keras' `train_on_batch`, from equal weights.

    Both see the same batch again and again, and learn by `_DESCENT`: the article's
    RMSprop divides gradients by their own size, so where one is all rounding, its sign
    decides. What rounding alone makes of it is told too: Keras beside itself, begun
    with weights whose last bits differ.
    """
    recipe = dataclasses.replace(recipe, **_DESCENT)
    ours = _losses(job, recipe)
    peer, weights = _plain_keras(job, recipe, label_names), job.model.get_weights()
    random = np.random.default_rng(0)
    theirs = _keras_losses(job, peer, weights)
    moved = [
        x * (1 + random.choice([-_LAST_BIT, 0, _LAST_BIT], x.shape)) for x in weights
    ]
    again = _keras_losses(job, peer, moved)
    what = f"largest of {_EQUAL_STEPS} steps by SGD from equal weights on one batch; "
    what += f"losses {ours[0]:.4f} to {ours[-1]:.4f}"
    itself = "the same of Keras beside itself, last bits of its weights changed"
    rows = {"": (ours, what), "_of_keras": (again, itself)}
    return [
        Measurement(
            f"step.loss_difference{which}.{name}",
            max(abs(one - other) for one, other in zip(losses, theirs, strict=True)),
            "",
            detail,
        )
        for which, (losses, detail) in rows.items()
    ]


def _losses(job: Job, recipe: Recipe) -> list[float]:
    """Of the first steps of `trainer.task`; the model gets its weights back."""
    before = job.model.get_weights()
    with job.strategy.scope():
        optimizer = options.build_optimizer(
            recipe, job.model, _EQUAL_STEPS, precision="float32"
        )
    run_steps = compile_training(dataclasses.replace(job, optimizer=optimizer))
    batches, one = one_batch(job), tf.constant(1)
    totals = [run_steps(batches, one, tf.constant(x)) for x in range(_EQUAL_STEPS)]
    job.model.set_weights(before)
    return [float(loss) for loss, *_ in totals]


def _keras_losses(
    job: Job, peer: keras.Model, weights: list[np.ndarray]
) -> list[float]:
    """Of as many steps of Keras from these weights; plain SGD remembers nothing."""
    peer.set_weights(weights)
    images, labels = _keras_batch(job)
    losses = []
    for _ in range(_EQUAL_STEPS):
        # Else each call returns the mean of all before.
        peer.reset_metrics()
        losses.append(float(peer.train_on_batch(images, labels)[0]))
    return losses


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
        terms = {"strategy": job.strategy, "averages": job.averages}
        kept = Checkpoints(folder, job.model, job.optimizer, **terms)
        seconds = [
            _seconds(functools.partial(kept.save, Progress(step=step)))
            for step in range(1, 1 + _SAVES)
        ]
        files = Path(folder, "checkpoints", "last").glob(f"ckpt-{_SAVES}.*")
        size = sum(os.path.getsize(file) for file in files)
    what = "model, optimizer and averages" if job.averages else "model and optimizer"
    return [
        Measurement(
            f"checkpoint.seconds.{name}",
            statistics.median(seconds),
            "s",
            f"{what} to the local disk; median of {_SAVES}",
        ),
        Measurement(f"checkpoint.megabytes.{name}", size / 1e6, "MB", "of one"),
    ]
