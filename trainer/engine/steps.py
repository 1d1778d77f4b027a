"""The compiled steps: `strategy.run` inside a `tf.function`, several a host call.

The same code for one device and for many.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from trainer.data import inputs
from trainer.engine import head, workers
from trainer.engine.accumulation import Accumulation
from trainer.engine.job import Job
from trainer.engine.strategy import distribute, share_of
from trainer.engine.updates import add_over_replicas, apply_gradients, hits
from trainer.labels import IGNORE_LABEL
from trainer.model.unet import still_batch_norms

log = logging.getLogger("seamline")

_WATCHED = 4
_MORE_WITHOUT_GRADIENTS = 4


def training_iterator(job: Job, start: int) -> Iterator:
    """Batches from step `start` to the end, for the job's strategy."""
    stop, share = job.epochs * job.steps_per_epoch, share_of(job.strategy)
    return iter(distribute(job.strategy, job.stream.batches(start, stop, share)))


def compile_training(job: Job) -> Callable:
    """(iterator, count, first step) -> loss sum, right, labelled, wait, bad step."""
    phase = functools.cache(functools.partial(_compile_phase, job))

    def run_steps(iterator: Iterator, count: tf.Tensor, first: tf.Tensor) -> Any:
        frozen = job.encoder is not None and int(first) < job.unfreeze_step
        return phase(frozen)(iterator, count, first)

    return run_steps


def _compile_phase(job: Job, frozen: bool) -> Callable:
    """As `compile_training`, for steps before `unfreeze_step` or for those after."""
    strategy = job.strategy
    if job.encoder is not None:
        when = f"frozen up to step {job.unfreeze_step}" if frozen else "learns"
        log.info("Encoder: %s; compiling that step", when)
    step = _step_of(job, frozen)

    @tf.function
    def run_steps(
        iterator: Iterator, count: tf.Tensor, first: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        # In float64 the sum of an epoch does not depend on how many steps a call has.
        loss_sum, wait = tf.constant(0.0, tf.float64), tf.constant(0.0, tf.float64)
        right = labelled = tf.constant(0, tf.int64)
        bad = tf.constant(-1)
        for index in tf.range(count):
            with tf.control_dependencies([loss_sum, wait]):
                before = tf.timestamp()
            with tf.control_dependencies([before]):
                images, masks = next(iterator)
            with tf.control_dependencies(strategy.experimental_local_results(masks)):
                wait += tf.timestamp() - before
            images = _after(wait, images)
            loss, correct, pixels = step(images, masks)
            if job.averages is not None:
                job.averages.update(first + index)
            loss_sum += tf.cast(loss, tf.float64)
            right, labelled = right + correct, labelled + pixels
            # Not by `if`: the host would wait for the loss of every step.
            found = tf.math.is_finite(loss)
            bad = tf.where(tf.logical_or(found, bad >= 0), bad, first + index)
        return loss_sum, right, labelled, wait, bad

    return run_steps


def _after(value: tf.Tensor, batch: Any) -> Any:
    """The batch, once `value` is known.

    The one thread of a single core would else compute the step before it looks at the
    clock, and a training be said to wait for its input for 0.98 of the time.
    """

    def passed(part: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies([value]):
            return tf.identity(part)

    return tf.nest.map_structure(passed, batch, expand_composites=True)


def _step_of(job: Job, frozen: bool) -> Callable:
    """Distributed (images, masks) -> loss, right and labelled pixels; one update."""
    variables = job.model.trainable_variables
    if not frozen:
        return _step_on(job, variables)
    assert job.encoder is not None
    encoder = {id(x) for x in job.encoder.variables}
    step = _step_on(job, [x for x in variables if id(x) not in encoder])

    def frozen_step(images: Any, masks: Any) -> tuple[tf.Tensor, ...]:
        with still_batch_norms(job.encoder):
            return step(images, masks)

    return frozen_step


def _step_on(job: Job, variables: list[keras.Variable]) -> Callable:
    compiled = functools.partial(tf.function, jit_compile=True) if job.xla else None
    if job.accumulate > 1:
        return Accumulation(
            job.model,
            job.loss,
            job.optimizer,
            job.strategy,
            variables=variables,
            parts=job.accumulate,
            clip_norm=job.clip_norm,
            compiled=compiled,
        ).step
    gradients_of = _gradients_of(job, variables)

    def replica_step(images: tf.Tensor, masks: tf.Tensor) -> tuple[tf.Tensor, ...]:
        gradients, loss, counts = gradients_of(images, masks)
        apply_gradients(job.optimizer, gradients, variables, job.clip_norm)
        right, labelled = add_over_replicas(counts)
        return loss, right, labelled

    compute = compiled(replica_step) if compiled else replica_step

    def step(images: Any, masks: Any) -> tuple[tf.Tensor, ...]:
        outputs = job.strategy.run(compute, args=(images, masks))
        return tuple(job.strategy.experimental_local_results(x)[0] for x in outputs)

    return step


def _gradients_of(job: Job, variables: list[keras.Variable]) -> Callable:
    """A replica's (images, masks) -> its gradients, the loss, right and labelled."""
    replicas, parts = job.strategy.num_replicas_in_sync, _parts(job)
    if parts > 1 and not job.loss.needs_logits:
        terms = (job.model, job.loss, job.optimizer)
        return head.HeadInParts(*terms, variables=variables, parts=parts).gradients

    def gradients_of(images: tf.Tensor, masks: tf.Tensor) -> tuple:
        with tf.GradientTape() as tape:
            logits = job.model(images, training=True)
            loss = job.loss.value(add_over_replicas(job.loss.sums(logits, masks)))
            # Every replica holds the whole loss, and the gradient of the sum over
            # replicas adds their gradients: each takes its part.
            share = job.optimizer.scale_loss(loss / replicas)
        return tape.gradient(share, variables), loss, hits(logits, masks)

    return gradients_of


def _parts(job: Job) -> int:
    """How many times a replica takes a part of its examples where logits are wide."""
    return _parts_within(job, head.LOGITS_BYTES)


def _parts_within(job: Job, limit: int) -> int:
    # What it costs on a GPU, where each part is some launches more, is not measured.
    if tf.config.list_logical_devices("GPU"):
        return 1
    examples = job.batch_size // job.strategy.num_replicas_in_sync
    return head.count_parts(examples, job.model, limit)


class Validation(NamedTuple):
    """What a pass over all validation examples finds.

    Attributes:
      confusion: int64 `[C, C]`, rows are the truth.
      loss: over all of them.
      labels: uint8 `[K, S, S]`, predicted for the examples that are `watched`.
    """

    confusion: np.ndarray
    loss: float
    labels: np.ndarray


def watched(job: Job) -> list[int]:
    """Numbers of up to four validation examples to look at after every epoch.

    The first of each batch, then the second, and so on: all are the chief's first
    replica's, which need not ask another one for what it predicted. Of other workers
    none.
    """
    if not workers.is_chief(job.strategy):
        return []
    batch_size = _validation_batch(job)
    rows = batch_size // job.strategy.num_replicas_in_sync
    starts = range(0, len(job.val), batch_size)
    numbers = [start + row for row in range(rows) for start in starts[:_WATCHED]]
    return sorted([x for x in numbers if x < len(job.val)][:_WATCHED])


def _validation_batch(job: Job) -> int:
    """Examples at once, over all replicas: no more than a step takes at once.

    Where logits are wide, four times as many as those a step takes a part of: without
    gradients they take less memory, and a quarter less time than one by one (170 masks
    of 128² and 59 classes: 1.36 s in batches of 4, 0.99 s in batches of 16).
    """
    parts = _parts_within(job, _MORE_WITHOUT_GRADIENTS * head.LOGITS_BYTES)
    return job.batch_size // max(parts, job.accumulate)


def compile_validation(job: Job) -> Callable[[], Validation]:
    """A function that validates on all examples, each counted once."""
    strategy, classes = job.strategy, job.classes
    batch_size = _validation_batch(job)
    batches = inputs.ordered_batches(
        job.val,
        batch_size=batch_size,
        limits=job.stream.limits,
        share=share_of(strategy),
    )
    dataset = distribute(strategy, batches)

    def step(images: tf.Tensor, masks: tf.Tensor) -> tuple[tf.Tensor, Any, tf.Tensor]:
        logits = job.model(images, training=False)
        labels = tf.argmax(logits, axis=-1)
        valid = tf.reshape(tf.not_equal(masks, IGNORE_LABEL), [-1])
        truth = tf.reshape(tf.cast(masks, tf.int64), [-1])
        pairs = truth * classes + tf.reshape(labels, [-1])
        pairs = tf.boolean_mask(pairs, valid)
        counts = tf.math.bincount(
            tf.cast(pairs, tf.int32), minlength=classes**2, maxlength=classes**2
        )
        # TensorFlow keeps int32 on the host, and adds up over replicas only what lies
        # on the devices; several values at once must be of one type.
        counts = add_over_replicas(tf.cast(counts, tf.int64))
        sums = add_over_replicas(job.loss.sums(logits, masks))
        return counts, sums, tf.cast(labels, tf.uint8)

    @tf.function(autograph=False)
    def run_step(images: tf.Tensor, masks: tf.Tensor) -> Any:
        outputs = strategy.run(step, args=(images, masks))
        return tf.nest.map_structure(
            lambda value: strategy.experimental_local_results(value)[0], outputs
        )

    places = [divmod(number, batch_size) for number in watched(job)]
    nothing = np.zeros((0, job.val.image_size, job.val.image_size), np.uint8)

    def validate() -> Validation:
        confusion = np.zeros(classes**2, np.int64)
        totals, shown = [], [nothing]
        with job.val.explained():
            for batch, (images, masks) in enumerate(dataset):
                counts, sums, labels = run_step(images, masks)
                confusion += counts.numpy()
                totals.append(sums)
                if rows := [row for at, row in places if at == batch]:
                    shown.append(labels.numpy()[rows])
        added = tf.nest.map_structure(lambda *parts: tf.add_n(parts), *totals)
        loss = float(job.loss.value(added))
        return Validation(
            confusion.reshape(classes, classes), loss, np.concatenate(shown)
        )

    return validate
