"""The examples of a split at the model's size: held in memory, or read when needed.

Both give the same pixels, so nothing that is computed from them can tell which it was.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import tensorflow as tf

from trainer import progress
from trainer.data.callbacks import numpy_function
from trainer.data.card import Card
from trainer.data.images import (
    decode_image,
    decode_mask,
    resize_image,
    resize_mask,
)
from trainer.data.reader import Reader
from trainer.data.records import Record
from trainer.labels import IGNORE_LABEL
from trainer.limits import Limits

log = logging.getLogger("seamline")

Arrays = tuple[np.ndarray, np.ndarray]
"""uint8 images `[N, S, S, 3]` RGB and uint8 masks `[N, S, S]`."""

_CHUNK = 16
_EXAMPLES_SHARE = 0.75
"""Of the input's memory, at most; the rest is for batches."""
_HELD = 4
"""Bytes a pixel of an image and its mask."""
_DECODING = 10
"""Bytes a stored pixel while a record is decoded: image, a copy of it, mask, spare."""


def _no_label_sets() -> np.ndarray:
    raise ValueError("which classes these examples hold was not said")


class Examples:
    """A split, by number.

    Attributes:
      ids: names of the N examples.
      image_size: S.
      held: bytes of memory that they take all the time.
      working_memory: number B of examples -> bytes that `fetch` of so many takes,
        besides what it returns.
      label_sets: called, gives bool `[N, classes]`: which classes occur in which masks
        as they are stored. Reads the indexes of all shards.
    """

    def __init__(
        self,
        ids: Sequence[str],
        image_size: int,
        fetch: Callable[[np.ndarray], Arrays],
        *,
        held: int = 0,
        working_memory: Callable[[int], int] = lambda count: 0,
        label_sets: Callable[[], np.ndarray] = _no_label_sets,
    ) -> None:
        """Takes `fetch`: int64 `[B]` numbers -> `Arrays` of those B examples."""
        # Batches are made in parallel already.
        cv2.setNumThreads(1)
        self.ids, self.image_size = ids, image_size
        self.held, self.working_memory = held, working_memory
        self.label_sets = label_sets
        self._fetch = fetch
        self._failures: dict[str, Exception] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def fetch(self, numbers: Sequence[int] | np.ndarray) -> Arrays:
        """Images and masks of the examples with these numbers, in their order.

        Raises:
          SeamlineError: a damaged record; names shard and record.
        """
        return self._fetch(np.asarray(numbers, np.int64))

    def gather(self, numbers: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`fetch` inside a pipeline: int64 `[B]` tensor -> the two as tensors."""

        def fetch(numbers: np.ndarray) -> Arrays:
            try:
                return self._fetch(numbers)
            except Exception as error:
                # TensorFlow passes on the text of an exception alone, after its type.
                self._failures[f"{type(error).__name__}: {error}"] = error
                raise

        images, masks = numpy_function(fetch, [numbers], [tf.uint8, tf.uint8])
        count, size = numbers.shape[0], self.image_size
        images = tf.ensure_shape(images, [count, size, size, 3])
        return images, tf.ensure_shape(masks, [count, size, size])

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Raises what went wrong in `gather`, not what TensorFlow makes of it.

        An error of TensorFlow that tells of none of these failures passes as it is.
        """
        try:
            yield
        except tf.errors.OpError as error:
            # Batches are made in parallel: more than one may have failed by now.
            for text in list(self._failures):
                if text in error.message:
                    raise self._failures.pop(text) from error
            raise


def in_memory(
    ids: Sequence[str], images: np.ndarray, masks: np.ndarray, **more: Any
) -> Examples:
    """Examples that lie in two arrays, as `Arrays`; `more`: see `Examples`."""
    return Examples(
        ids,
        images.shape[1],
        lambda numbers: (images[numbers], masks[numbers]),
        held=images.nbytes + masks.nbytes,
        **more,
    )


def streamed(records_dir: str, card: Card, split: str, *, image_size: int) -> Examples:
    """A split that is read and decoded each time examples are asked for."""
    reader, classes = Reader(records_dir, card, split), len(card.label_names)

    def fetch(numbers: np.ndarray) -> Arrays:
        count = len(numbers)
        images = np.empty((count, image_size, image_size, 3), np.uint8)
        masks = np.empty((count, image_size, image_size), np.uint8)
        for row, record in enumerate(reader.stream(numbers)):
            try:
                image, mask = _decode(record, classes)
            except ValueError as error:
                raise reader.damaged(int(numbers[row]), str(error)) from error
            images[row] = resize_image(image, image_size, image_size)
            masks[row] = resize_mask(mask, image_size, image_size)
        return images, masks

    decoding = _DECODING * _largest_photo(card)
    return Examples(
        reader.ids,
        image_size,
        fetch,
        working_memory=lambda count: reader.working_memory(count) + decoding,
        label_sets=lambda: reader.indexes.label_sets(classes),
    )


def _decode(record: Record, classes: int) -> tuple[np.ndarray, np.ndarray]:
    image, mask = decode_image(record.image), decode_mask(record.mask)
    if image.shape[:2] != mask.shape:
        height, width = image.shape[:2]
        raise ValueError(
            f"a photo of {width}x{height} pixels, but a mask of "
            f"{mask.shape[1]}x{mask.shape[0]}"
        )
    # Some losses would take such a label without a word: none of the classes is right.
    if ((mask >= classes) & (mask != IGNORE_LABEL)).any():
        raise ValueError(f"a label that is none of the {classes} classes")
    return image, mask


def _largest_photo(card: Card) -> int:
    """Pixels of the largest photo as it is stored."""
    most = 0.0
    for text in card.sizes:
        height, width = map(int, text.split("x"))
        side = min(height, width)
        shrunk = min(1, card.record_size / side) if card.record_size else 1
        most = max(most, height * width * shrunk**2)
    return round(most)


def open_splits(
    records_dir: str,
    card: Card,
    splits: Sequence[str],
    *,
    image_size: int,
    limits: Limits,
) -> list[Examples]:
    """Opens splits: in memory those that fit, the others to be read when needed.

    Args:
      records_dir, card: the dataset.
      splits: names; the first are the first to be held in memory.
      image_size: height and width that the model takes.
      limits: memory, and threads to read with.

    Raises:
      SeamlineError: a damaged shard; names it and the record.
    """
    kept = plan_memory(card, splits, image_size=image_size, limits=limits)
    opened = []
    for split, (needed, held) in kept.items():
        found = streamed(records_dir, card, split, image_size=image_size)
        log.info(
            "Input: %d %s examples at %d², %d MB: %s",
            len(found),
            split,
            image_size,
            needed >> 20,
            "held in memory" if held else "read from the records when needed",
        )
        if held:
            found = _load(found, split, limits)
        opened.append(found)
    return opened


def plan_memory(
    card: Card, splits: Sequence[str], *, image_size: int, limits: Limits
) -> dict[str, tuple[int, bool]]:
    """By split: bytes of all its examples, and whether they are held in memory.

    Args: see `open_splits`.
    """
    free = int(limits.memory * _EXAMPLES_SHARE)
    plan = {}
    for split in splits:
        needed = card.splits[split]["examples"] * image_size**2 * _HELD
        held = needed <= free
        free -= needed if held else 0
        plan[split] = (needed, held)
    return plan


def _load(examples: Examples, split: str, limits: Limits) -> Examples:
    """Reads all of a split into memory."""
    chunk_bytes = _CHUNK * examples.image_size**2 * _HELD
    a_thread = chunk_bytes + examples.working_memory(_CHUNK)
    free = int(limits.memory * (1 - _EXAMPLES_SHARE))
    threads = max(1, min(free // a_thread, limits.input_threads))
    count, size = len(examples), examples.image_size
    images = np.empty((count, size, size, 3), np.uint8)
    masks = np.empty((count, size, size), np.uint8)
    bar = progress.Bar(f"loading {split}", total=count, unit="examples")

    def load(start: int) -> int:
        chunk = slice(start, min(start + _CHUNK, count))
        images[chunk], masks[chunk] = examples.fetch(np.arange(count)[chunk])
        return chunk.stop - chunk.start

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        jobs = [pool.submit(load, start) for start in range(0, count, _CHUNK)]
        try:
            for job in jobs:
                bar.update(job.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    bar.close()
    return in_memory(examples.ids, images, masks, label_sets=examples.label_sets)
