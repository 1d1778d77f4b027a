"""Examples -> batches of images, float32 `[B, S, S, 3]`, and masks, uint8 `[B, S, S]`.

Images are RGB in 0..255. *Batch k is a pure function of (records, seed, k)*: the
training examples form an endless stream of passes (see `order`), and batch k holds
positions k·B .. (k+1)·B of it. The random numbers of an augmentation belong to the
position. Nothing before a batch is computed or read.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from trainer.data import augment
from trainer.data.examples import Examples
from trainer.data.order import Order, repeat_factors
from trainer.labels import IGNORE_LABEL
from trainer.limits import Limits
from trainer.recipe_checks import check_batch_size

log = logging.getLogger("seamline")

Pair = tuple[tf.Tensor, tf.Tensor]

_WAITING = 13
"""Bytes a pixel of a batch that waits."""


@dataclasses.dataclass(frozen=True)
class Share:
    """Which part of each global batch a process makes.

    Attributes:
      pieces: parts of a global batch, one a replica of the whole job.
      first: number of this process's first replica.
      local: how many replicas it has.
    """

    pieces: int = 1
    first: int = 0
    local: int = 1


@dataclasses.dataclass(frozen=True)
class Cost:
    """Bytes of memory of a batch: while it is made, and while it waits."""

    making: int
    waiting: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stream:
    """The training examples as an endless stream of batches.

    Attributes:
      examples: N of them.
      order: of the N examples, in `policy.copies`.
      policy: augmentation.
      batch_size: the global batch.
      seed: of augmentation.
      limits: of memory and threads; they change no batch.
    """

    examples: Examples
    order: Order
    policy: augment.Policy
    batch_size: int
    seed: int
    limits: Limits

    def batches(self, start: int, stop: int, share: Share = Share()) -> tf.data.Dataset:
        """Batches `start` .. `stop - 1`, one element a replica of this process.

        Raises:
          SeamlineError: replicas cannot share the batch alike.
        """
        rows = _rows(self.batch_size, share)

        def batch(step: tf.Tensor, piece: tf.Tensor) -> Pair:
            first = step * self.batch_size + piece * rows
            places = first + tf.range(rows, dtype=tf.int64)
            numbers, copies = self.order.locate(places)
            images, masks = self.examples.gather(numbers)
            drawn = amounts(first, rows, self.policy.amounts, seed=self.seed)
            return self.policy.apply(images, masks, copies, drawn)

        reckoned = cost(self.examples, rows, self.policy)
        return _pipeline(batch, start, stop, reckoned, self.limits, share)

    @property
    def steps(self) -> int:
        """Steps that see a whole pass."""
        return -(-self.order.length // self.batch_size)

    def where(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Which examples batch `step` holds, and which copies: int64 `[B]` each."""
        first = step * self.batch_size
        places = tf.range(first, first + self.batch_size, dtype=tf.int64)
        numbers, copies = self.order.locate(places)
        return numbers.numpy(), copies.numpy()


def build_stream(
    examples: Examples,
    *,
    policy: str,
    repeat_threshold: float,
    batch_size: int,
    seed: int,
    limits: Limits,
) -> Stream:
    """The training examples in order and augmented, rare classes more often.

    Args:
      examples: the split `train`.
      policy: see `augment.find`.
      repeat_threshold: see `repeat_factors`; 0: all examples alike.
      batch_size, limits: see `Stream`.
      seed: of order and augmentation.

    Raises:
      SeamlineError: no such policy; or, with a threshold, a damaged index.
    """
    found, repeats = augment.find(policy), None
    if repeat_threshold:
        repeats = repeat_factors(examples.label_sets(), repeat_threshold)
        log.info(
            "Rare classes: %d of %d examples come more often, up to %.1f times",
            (repeats > 1).sum(),
            len(repeats),
            repeats.max(),
        )
    return Stream(
        examples=examples,
        order=Order(len(examples), copies=found.copies, seed=seed, repeats=repeats),
        policy=found,
        batch_size=batch_size,
        seed=seed,
        limits=limits,
    )


def amounts(first: tf.Tensor, rows: int, count: int, *, seed: int) -> tf.Tensor:
    """Random numbers of positions `first` .. `first + rows - 1` of the stream.

    Philox is counter-based (Salmon et al., "Parallel random numbers: as easy as 1, 2,
    3", SC 2011): each position owns a run of counters, so that it has its numbers
    whatever batch it is in.

    Args:
      first: int64 scalar.
      rows, count: shape.
      seed: the key.

    Returns:
      float32 `[rows, count]` in [0, 1).
    """
    blocks = -(-count // 4)
    counter = tf.stack([tf.cast(first * blocks, tf.uint64), tf.constant(0, tf.uint64)])
    drawn = tf.raw_ops.StatelessRandomUniformV2(
        shape=[rows, 4 * blocks],
        key=tf.constant([seed], tf.uint64),
        counter=counter,
        alg=tf.random.Algorithm.PHILOX.value,
    )
    return drawn[:, :count]


def ordered_batches(
    examples: Examples, *, batch_size: int, limits: Limits, share: Share = Share()
) -> tf.data.Dataset:
    """All examples once in order; the last batch is filled up with ignored pixels.

    So every batch has the same shape on every replica and every example counts once.
    """
    count, rows = len(examples), _rows(batch_size, share)

    def batch(step: tf.Tensor, piece: tf.Tensor) -> Pair:
        position = step * batch_size + piece * rows + tf.range(rows, dtype=tf.int64)
        images, masks = examples.gather(tf.minimum(position, count - 1))
        there = (position < count)[:, tf.newaxis, tf.newaxis]
        ignored = tf.constant(IGNORE_LABEL, tf.uint8)
        return tf.cast(images, tf.float32), tf.where(there, masks, ignored)

    steps = -(-count // batch_size)
    reckoned = cost(examples, rows, augment.find("none"))
    return _pipeline(batch, 0, steps, reckoned, limits, share)


def _rows(batch_size: int, share: Share) -> int:
    check_batch_size(batch_size, share.pieces)
    return batch_size // share.pieces


def _pipeline(
    batch: Callable[[tf.Tensor, tf.Tensor], Pair],
    start: int,
    stop: int,
    reckoned: Cost,
    limits: Limits,
    share: Share,
) -> tf.data.Dataset:
    first, local = share.first, share.local
    slots = tf.data.Dataset.range(start * local, stop * local)

    # Whatever depends on a tensor is an op; to look for branches in all functions that
    # are called takes a second.
    @tf.autograph.experimental.do_not_convert
    def of_slot(slot: tf.Tensor) -> Pair:
        return batch(slot // local, first + slot % local)

    dataset = slots.map(
        of_slot,
        num_parallel_calls=parallel_calls(reckoned, limits, local),
        deterministic=True,
    )
    options = tf.data.Options()
    # Left alone, tf.data would take half of the host's memory and a thread for each of
    # its processors, whatever the container may use.
    options.autotune.enabled = False
    options.threading.private_threadpool_size = limits.input_threads
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.OFF
    )
    return dataset.prefetch(limits.prefetch * local).with_options(options)


def parallel_calls(reckoned: Cost, limits: Limits, local: int = 1) -> int:
    """How many batches may be made at once: one at least. Says so if memory is short.

    Args:
      reckoned: of a replica's part of a batch.
      limits: memory and threads.
      local: replicas of this process.
    """
    ahead = limits.prefetch * local * reckoned.waiting
    affordable = (limits.memory - ahead) // reckoned.making
    calls = max(1, min(affordable, limits.input_threads))
    if calls < limits.input_threads or affordable < 1:
        log.info(
            "Input: %d batches at a time, not %d: each takes %d MB, those made ahead "
            "%d MB of %d MB; --input_memory_mb gives more",
            calls,
            limits.input_threads,
            *(size >> 20 for size in (reckoned.making, ahead, limits.memory)),
        )
    return calls


def footprint(reckoned: Cost, limits: Limits, local: int = 1) -> int:
    """Bytes that a pipeline takes at most: batches in the making, and those that wait.

    Args: see `parallel_calls`.
    """
    calls = parallel_calls(reckoned, limits, local)
    return calls * reckoned.making + limits.prefetch * local * reckoned.waiting


def cost(examples: Examples, rows: int, policy: augment.Policy) -> Cost:
    """What a batch, or a replica's part of it, of so many rows takes."""
    pixels = rows * examples.image_size**2
    return Cost(
        making=pixels * policy.pixel_bytes + examples.working_memory(rows),
        waiting=pixels * _WAITING,
    )
