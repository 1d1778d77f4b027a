"""The training loop beside a bare one: what does all that we add to a step cost?

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

import tensorflow as tf

from trainer import dataset, pipeline
from trainer.benchmarks.measurements import Measurement
from trainer.benchmarks.settings import Settings
from trainer.data.card import Card
from trainer.engine.job import Job, build_job, build_spec
from trainer.engine.loop import Training
from trainer.engine.state import Checkpoints, Progress
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
    """Measures the loop of `trainer.task` beside a bare loop, for two models.

    The first is all that a training does in its epochs: input, metrics, progress,
    logging and timed checkpoints. The second is a `tf.function` with a gradient and an
    update, called on one tensor in memory: same model, loss, clipping, optimizer, batch
    and precision. Weights are random; they take the same time.

    Args:
      settings: of these, recipe, data, limits, seed and repeats.
      devices: to train on.
      parts: "step", "checkpoint" (a whole checkpoint on the local disk) or both.

    Raises:
      SeamlineError: a value, file or folder that only the user can mend.
    """
    prepared = dataset.prepare(**settings.data)
    assert prepared.card is not None, "one host alone always seals"
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
        with tempfile.TemporaryDirectory(prefix="seamline-") as run_dir:
            place = prepared.records_dir
            job = _job(run_dir, recipe, place, prepared.card, settings, devices)
            if "step" in parts:
                rows += _beside_bare(name, job, settings.repeats)
            if "checkpoint" in parts:
                rows += _checkpoint(name, job)
    return rows


def _job(
    run_dir: str,
    recipe: Recipe,
    records_dir: str,
    card: Card,
    settings: Settings,
    devices: tf.distribute.Strategy,
) -> Job:
    stream, val = pipeline.open_input(
        recipe, records_dir, card, settings.seed, settings.input_limits
    )
    spec = build_spec(recipe, card, "float32")
    return build_job(run_dir, spec, recipe, card, settings.seed, devices, stream, val)


def _beside_bare(name: str, job: Job, repeats: int) -> list[Measurement]:
    """Turns of as many steps each; the first epoch compiles and is not timed."""
    bare, training = _bare(job), Training(job, save_minutes=5)
    training.open()
    training.train_epoch()
    bare(_WARM)
    loop_s, bare_s = [], []
    for _ in range(repeats):
        training.skip_validation()
        loop_s.append(_seconds(training.train_epoch))
        bare_s.append(_seconds(lambda: bare(_STEPS)))
    training.close()
    ratios = [other / own for own, other in zip(loop_s, bare_s, strict=True)]
    images = _STEPS * job.batch_size
    what = f"batch {job.batch_size} at {job.val.image_size}², float32"
    turns = f"{repeats} turns of {_STEPS} steps"
    return [
        Measurement(
            f"step.loop_vs_bare.{name}",
            statistics.median(ratios),
            "",
            f"images/s of the loop / of a bare tf.function on one tensor; {turns}, "
            f"{min(ratios):.3f} to {max(ratios):.3f}",
        ),
        Measurement(
            f"step.loop.{name}", images / statistics.median(loop_s), "images/s", what
        ),
        Measurement(
            f"step.bare.{name}", images / statistics.median(bare_s), "images/s", what
        ),
    ]


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
