"""Records -> batches: float32 images `[B, S, S, 3]` in 0..255, uint8 masks `[B, S, S]`.

*Batch k is a pure function of (records, seed, k)*: examples lie in memory at the
model's size, and everything else is arithmetic. The training examples form an endless
stream of passes; a pass is a permutation of all examples drawn from (seed, pass), and
batch k holds positions k·B .. (k+1)·B of the stream. Nothing before it is computed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from trainer import machine
from trainer.data import augment, records
from trainer.data.card import Card
from trainer.data.images import (
    decode_image,
    decode_mask,
    resize_image,
    resize_mask,
)
from trainer.errors import SeamlineError
from trainer.labels import IGNORE_LABEL


@dataclasses.dataclass(frozen=True)
class Examples:
    """A split in memory.

    Attributes:
      ids: names of the N examples.
      images: uint8 `[N, S, S, 3]` RGB.
      masks: uint8 `[N, S, S]`.
    """

    ids: list[str]
    images: np.ndarray
    masks: np.ndarray


def load(records_dir: str, card: Card, split: str, *, image_size: int) -> Examples:
    """Reads a split into memory, images and masks at the model's size.

    Raises:
      SeamlineError: a damaged shard, or more than half of this machine's memory.
    """
    count = card.splits[split]["examples"]
    total = sum(part["examples"] for part in card.splits.values())
    # TensorFlow keeps a copy of its own.
    needed = 2 * total * image_size**2 * 4
    limit = machine.memory_limit() // 2
    if needed > limit:
        raise SeamlineError(
            f"{records_dir}: {total} examples of {image_size}x{image_size} need "
            f"{needed >> 20} MB, more than half of the memory here "
            f"({limit >> 20} MB); use a smaller --image_size or a larger machine"
        )
    ids = []
    images = np.empty((count, image_size, image_size, 3), np.uint8)
    masks = np.empty((count, image_size, image_size), np.uint8)
    for index, record in enumerate(records.read(records_dir, card, split)):
        ids.append(record.image_id)
        images[index] = resize_image(decode_image(record.image), image_size, image_size)
        masks[index] = resize_mask(decode_mask(record.mask), image_size, image_size)
    return Examples(ids, images, masks)


def native_masks(records_dir: str, card: Card, split: str) -> Iterator[np.ndarray]:
    """Masks at the photos' original size, uint8 `[H, W]`, in order of id."""
    for record in records.read(records_dir, card, split):
        yield decode_mask(record.native_mask or record.mask)


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


def training_batches(
    examples: Examples,
    *,
    policy: augment.Policy,
    batch_size: int,
    seed: int,
    start: int,
    stop: int,
    share: Share = Share(),
) -> tf.data.Dataset:
    """Batches `start` .. `stop - 1` of the stream, one element a local replica.

    Args:
      examples: N of them.
      policy: augmentation.
      batch_size: the global batch, a multiple of `share.pieces`.
      seed: of order and augmentation.
      start, stop: global steps.
      share: this process's part.
    """
    images, masks = tf.constant(examples.images), tf.constant(examples.masks)
    count = len(examples.ids)
    rows = _rows(batch_size, share)

    def batch(step: tf.Tensor, piece: tf.Tensor) -> augment.Pair:
        position = step * batch_size + piece * rows + tf.range(rows, dtype=tf.int64)
        index, copy = locate(position, count=count, copies=policy.copies, seed=seed)
        drawn = tf.random.stateless_uniform(
            [batch_size, policy.amounts], seed=tf.stack([tf.cast(seed, tf.int64), step])
        )
        amounts = tf.gather(drawn, piece * rows + tf.range(rows, dtype=tf.int64))
        image = tf.cast(tf.gather(images, index), tf.float32)
        image, mask = policy.apply(image, tf.gather(masks, index), copy, amounts)
        image = tf.ensure_shape(image, [rows, *images.shape[1:]])
        return image, tf.ensure_shape(mask, [rows, *masks.shape[1:]])

    return _pipeline(batch, start, stop, share)


def locate(
    position: tf.Tensor, *, count: int, copies: int, seed: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Position in the endless stream -> (example, copy).

    Each pass of `count * copies` positions is a permutation, computed for single
    positions by a cipher on the index (TensorFlow's `index_shuffle`), so that
    a start at any step costs the same.

    Args:
      position: int64 `[B]`.
      count: number of examples.
      copies: how many times a pass holds each.
      seed: of the order.

    Returns:
      int64 `[B]` in 0..count-1 and int64 `[B]` in 0..copies-1.
    """
    length = count * copies
    turn, offset = position // length, position % length
    seeds = tf.stack(
        [tf.fill(tf.shape(turn), tf.cast(seed, tf.int64)), turn, turn * 0], axis=1
    )
    # The public wrapper takes one seed for all positions; the op takes one for each.
    shuffled = tf.raw_ops.RandomIndexShuffle(
        index=offset, seed=seeds, max_index=tf.cast(length - 1, tf.int64), rounds=4
    )
    return shuffled % count, shuffled // count


def ordered_batches(
    examples: Examples, *, batch_size: int, share: Share = Share()
) -> tf.data.Dataset:
    """All examples once in order; the last batch is filled up with ignored pixels.

    So every batch has the same shape on every replica and every example counts once.
    """
    images, masks = tf.constant(examples.images), tf.constant(examples.masks)
    count, rows = len(examples.ids), _rows(batch_size, share)

    def batch(step: tf.Tensor, piece: tf.Tensor) -> augment.Pair:
        position = step * batch_size + piece * rows + tf.range(rows, dtype=tf.int64)
        index = tf.minimum(position, count - 1)
        mask = tf.where(
            (position < count)[:, tf.newaxis, tf.newaxis],
            tf.gather(masks, index),
            tf.constant(IGNORE_LABEL, tf.uint8),
        )
        image = tf.cast(tf.gather(images, index), tf.float32)
        image = tf.ensure_shape(image, [rows, *images.shape[1:]])
        return image, tf.ensure_shape(mask, [rows, *masks.shape[1:]])

    return _pipeline(batch, 0, -(-count // batch_size), share)


def check_batch_size(batch_size: int, pieces: int) -> None:
    """Refuses a global batch that `pieces` replicas cannot share alike.

    Raises:
      SeamlineError: names the nearest that they can.
    """
    if batch_size % pieces:
        low = max(batch_size // pieces, 1) * pieces
        raise SeamlineError(
            f"--batch_size={batch_size}: must be a multiple of the {pieces} replicas; "
            f"nearest: {low} or {low + pieces}"
        )


def _rows(batch_size: int, share: Share) -> int:
    check_batch_size(batch_size, share.pieces)
    return batch_size // share.pieces


def _pipeline(
    batch: Callable[[tf.Tensor, tf.Tensor], augment.Pair],
    start: int,
    stop: int,
    share: Share,
) -> tf.data.Dataset:
    first, local = share.first, share.local
    slots = tf.data.Dataset.range(start * local, stop * local)
    dataset = slots.map(
        lambda slot: batch(slot // local, first + slot % local),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    options = tf.data.Options()
    # tf.data would take half of the host's memory, whatever the container's limit is.
    options.autotune.ram_budget = machine.memory_limit() // 8
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.OFF
    )
    return dataset.prefetch(2 * local).with_options(options)
