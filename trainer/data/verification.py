"""Proof that records are what their card says: every byte, record and label re-read."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from trainer import machine, progress, storage
from trainer.data import card as cards
from trainer.data import encoding, images, records
from trainer.data import index as indexes
from trainer.data.card import Card
from trainer.data.index import Index
from trainer.errors import SeamlineError, Unavailable


@dataclasses.dataclass
class Count:
    """What records hold.

    Attributes:
      index: of the examples, in order.
      images: int64 `[classes]`, examples that hold each class.
      pixels: int64 `[classes]`, pixels of each class as stored.
    """

    index: Index
    images: np.ndarray
    pixels: np.ndarray

    @classmethod
    def of_nothing(cls, classes: int) -> Count:
        """No examples yet."""
        zeros = np.zeros(classes, np.int64)
        return cls(Index(), zeros, zeros.copy())

    def add(self, image_id: str, pixels: np.ndarray, length: int) -> None:
        """Counts one example: int64 `[classes]` of pixels, bytes as serialized."""
        self.images += pixels > 0
        self.pixels += pixels
        self.index.ids.append(image_id)
        self.index.labels.append(indexes.pack_labels(pixels))
        self.index.lengths.append(length)


def verify(records_dir: str) -> Card:
    """Re-reads a whole dataset.

    Raises:
      SeamlineError: names the card, or every file that is not what it should be.
    """
    card = cards.read_card_alone(records_dir)
    jobs = [
        (split, row) for split, part in card.splits.items() for row in part["shards"]
    ]
    counts: dict[str, Count] = {
        split: Count.of_nothing(len(card.label_names)) for split in card.splits
    }
    problems = []
    bar = progress.Bar("verifying", total=len(jobs), unit="shards")

    def check(job: tuple[str, dict[str, Any]]) -> Count | SeamlineError:
        try:
            return check_shard(records_dir, job[1], classes=len(card.label_names))
        except Unavailable:
            raise
        except SeamlineError as problem:
            return problem

    with concurrent.futures.ThreadPoolExecutor(machine.cpu_limit()) as pool:
        for (split, _), count in zip(jobs, pool.map(check, jobs), strict=True):
            bar.update(1)
            if isinstance(count, SeamlineError):
                problems.append(str(count))
                continue
            counts[split].images += count.images
            counts[split].pixels += count.pixels
    bar.close()
    if problems:
        raise SeamlineError("\n  ".join(problems))
    _compare_totals(records_dir, card, counts)
    return card


def _compare_totals(records_dir: str, card: Card, counts: dict[str, Count]) -> None:
    for split, count in counts.items():
        for key, found in (("images", count.images), ("pixels", count.pixels)):
            if [row[split][key] for row in card.classes] != found.tolist():
                raise SeamlineError(
                    f"{storage.join(records_dir, cards.CARD_NAME)}: its {key} by class "
                    f"are not those of the records of '{split}'; convert again"
                )


def check_shard(folder: str, row: dict[str, Any], *, classes: int) -> Count:
    """Re-reads a shard and its index: all bytes, every record, every image and label.

    Args:
      folder: where they are, local or remote.
      row: of the shard in the card, as it should be.
      classes: how many there are.

    Returns:
      What it holds.

    Raises:
      SeamlineError: names the shard or its index, and what is wrong.
    """
    path, index = storage.join(folder, row["name"]), indexes.read_index(folder, row)
    try:
        count = _count_shard(path, row, classes)
    except (FileNotFoundError, tf.errors.NotFoundError) as error:
        raise SeamlineError(f"{path}: this shard is missing; convert again") from error
    for what, found, listed in (
        ("examples", count.index.ids, index.ids),
        ("lengths", count.index.lengths, index.lengths),
        ("labels", count.index.labels, index.labels),
    ):
        if found != listed:
            raise SeamlineError(
                f"{path}: holds other {what} than listed; convert again"
            )
    return count


def _count_shard(path: str, row: dict[str, Any], classes: int) -> Count:
    """What a shard with the right bytes holds."""
    info = storage.info(path)
    if info is None:
        raise FileNotFoundError(path)
    if info.size != row["bytes"]:
        raise SeamlineError(
            f"{path}: {info.size} bytes, but {row['bytes']} were written; convert again"
        )
    with _local(path) as local:
        if cards.digest(local)["sha256"] != row["sha256"]:
            raise SeamlineError(
                f"{path}: contents differ from the checksum; convert again"
            )
        try:
            return count_records(local, classes)
        except (SeamlineError, ValueError) as error:
            raise SeamlineError(f"{path}: {error}; convert again") from error


@contextlib.contextmanager
def _local(path: str) -> Iterator[str]:
    """The file itself, or a copy of a remote one for as long as it is needed."""
    if not storage.is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="seamline-") as folder:
        copy = os.path.join(folder, "shard")
        storage.download(path, copy)
        yield copy


def count_records(path: str, classes: int) -> Count:
    """Decodes every record of a local shard and counts labels.

    Raises:
      SeamlineError, ValueError: a record that cannot be decoded or does not fit.
    """
    count = Count.of_nothing(classes)
    for record, length in records.read_sized(path):
        image = images.decode_image(record.image)
        mask = images.decode_mask(record.mask)
        if image.shape[:2] != mask.shape:
            raise ValueError(f"{record.image_id}: image and mask differ in size")
        native = images.decode_mask(record.native_mask or record.mask)
        if record.native_mask and native.shape != (record.height, record.width):
            raise ValueError(f"{record.image_id}: native mask of another size")
        pixels = encoding.count_pixels(mask, classes)
        count.add(record.image_id, pixels, length)
    return count
