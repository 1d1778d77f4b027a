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
from trainer.data.card import Card
from trainer.errors import SeamlineError, Unavailable


@dataclasses.dataclass
class Count:
    """What records hold.

    Attributes:
      ids: of the examples, in order.
      images: int64 `[classes]`, examples that hold each class.
      pixels: int64 `[classes]`, pixels of each class as stored.
    """

    ids: list[str]
    images: np.ndarray
    pixels: np.ndarray

    @classmethod
    def of_nothing(cls, classes: int) -> Count:
        """No examples yet."""
        return cls([], np.zeros(classes, np.int64), np.zeros(classes, np.int64))

    def add(self, image_id: str, pixels: np.ndarray) -> None:
        """Counts one example: int64 `[classes]` of pixels."""
        self.ids.append(image_id)
        self.images += pixels > 0
        self.pixels += pixels


def verify(records_dir: str) -> Card:
    """Re-reads a whole dataset.

    Raises:
      SeamlineError: names the card, or every shard that is not what it should be.
    """
    card = cards.read_card_alone(records_dir)
    jobs = [(split, *job) for split in card.splits for job in _jobs(card, split)]
    counts: dict[str, Count] = {
        split: Count.of_nothing(len(card.label_names)) for split in card.splits
    }
    problems = []
    bar = progress.Bar("verifying", total=len(jobs), unit="shards")

    def check(job: tuple[str, dict[str, Any], list[str]]) -> Count | SeamlineError:
        _, row, ids = job
        path = storage.join(records_dir, row["name"])
        try:
            return check_shard(path, row, ids, classes=len(card.label_names))
        except Unavailable:
            raise
        except SeamlineError as problem:
            return problem

    with concurrent.futures.ThreadPoolExecutor(machine.cpu_limit()) as pool:
        for (split, *_), count in zip(jobs, pool.map(check, jobs), strict=True):
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


def _jobs(card: Card, split: str) -> list[tuple[dict[str, Any], list[str]]]:
    """Each shard's row with the ids that it must hold."""
    jobs, start = [], 0
    for row in card.splits[split]["shards"]:
        stop = start + row["examples"]
        jobs.append((row, card.splits[split]["ids"][start:stop]))
        start = stop
    return jobs


def _compare_totals(records_dir: str, card: Card, counts: dict[str, Count]) -> None:
    for split, count in counts.items():
        for key, found in (("images", count.images), ("pixels", count.pixels)):
            if [row[split][key] for row in card.classes] != found.tolist():
                raise SeamlineError(
                    f"{storage.join(records_dir, cards.CARD_NAME)}: its {key} by class "
                    f"are not those of the records of '{split}'; convert again"
                )


def check_shard(
    path: str, row: dict[str, Any], ids: list[str], *, classes: int
) -> Count:
    """Re-reads a shard: its bytes, every record, every image and label.

    Args:
      path: of the shard, local or remote.
      row: `bytes`, `sha256` and `examples` as they should be.
      ids: of its examples, in order.
      classes: how many there are.

    Returns:
      What it holds.

    Raises:
      SeamlineError: names the shard and what is wrong.
    """
    try:
        return _check_shard(path, row, ids, classes)
    except (FileNotFoundError, tf.errors.NotFoundError) as error:
        raise SeamlineError(f"{path}: this shard is missing; convert again") from error


def _check_shard(path: str, row: dict[str, Any], ids: list[str], classes: int) -> Count:
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
            count = count_records(local, classes)
        except (SeamlineError, ValueError) as error:
            raise SeamlineError(f"{path}: {error}; convert again") from error
    if count.ids != ids or len(ids) != row["examples"]:
        raise SeamlineError(f"{path}: holds other examples than listed; convert again")
    return count


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
    for record in records.read_shard(path):
        image = images.decode_image(record.image)
        mask = images.decode_mask(record.mask)
        if image.shape[:2] != mask.shape:
            raise ValueError(f"{record.image_id}: image and mask differ in size")
        native = images.decode_mask(record.native_mask or record.mask)
        if record.native_mask and native.shape != (record.height, record.width):
            raise ValueError(f"{record.image_id}: native mask of another size")
        count.add(record.image_id, encoding.count_pixels(mask, classes))
    return count
