"""TFRecords: the Example schema, writing a shard, reading shards back.

An Example holds, all as one value each:

    image_id     bytes, UTF-8
    image        bytes, JPEG, RGB at the record size
    mask         bytes, PNG of one channel, labels, same size as the image
    height       int64, of the original photo
    width        int64
    native_mask  bytes, PNG of one channel at the original size; only in `val`, where
                 scores at the original size need it, and where that size is another
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from trainer import storage
from trainer.data.card import Card
from trainer.data.encoding import Encoded
from trainer.data.images import decode_mask
from trainer.errors import SeamlineError
from trainer.storage import tf_files

FILE_NAME = re.compile(r"(train|val)-\d{5,}-of-\d{5,}\.(tfrecord|index\.json)")
"""Shards and their indexes."""


def serialize(encoded: Encoded) -> bytes:
    """One Example, the same bytes every time."""
    values = {
        "image_id": encoded.image_id.encode(),
        "image": encoded.image,
        "mask": encoded.mask,
    }
    if encoded.native_mask:
        values["native_mask"] = encoded.native_mask
    features = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        for name, value in values.items()
    }
    for name, length in (("height", encoded.height), ("width", encoded.width)):
        features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=[length]))
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True)


def write_shard(path: str, examples: Iterable[bytes]) -> None:
    """Writes a local shard and waits until the disk has it.

    Raises:
      SeamlineError: the disk is full or gone.
    """
    try:
        with tf.io.TFRecordWriter(path) as writer:
            for serialized in examples:
                writer.write(serialized)
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
    except (tf.errors.OpError, OSError) as error:
        text = getattr(error, "message", None) or getattr(error, "strerror", "")
        raise SeamlineError(f"{path}: cannot be written ({text})") from error


@dataclasses.dataclass(frozen=True)
class Record:
    """One Example as read back, images still encoded.

    Attributes:
      image_id: name of the pair.
      image: JPEG bytes.
      mask: PNG bytes of the labels.
      native_mask: PNG bytes of the labels at the photo's size; b"" in `train`, and
        where `mask` has that size.
      height, width: of the photo, in pixels.
    """

    image_id: str
    image: bytes
    mask: bytes
    native_mask: bytes
    height: int
    width: int


def read_shard(path: str) -> Iterator[Record]:
    """Yields the records of one shard, local or remote.

    Raises:
      SeamlineError: damaged; names the shard and the record.
    """
    for record, _ in read_sized(path):
        yield record


def read_sized(path: str) -> Iterator[tuple[Record, int]]:
    """Yields the records of one shard, each with the length of its payload in bytes.

    Raises:
      SeamlineError: damaged; names the shard and the record.
    """
    tf_files.check(path)
    count = 0
    try:
        for raw in tf.data.TFRecordDataset(path).as_numpy_iterator():
            yield parse(raw), len(raw)
            count += 1
    except (tf.errors.DataLossError, DecodeError, LookupError, ValueError) as error:
        raise SeamlineError(
            f"{path}: damaged at record {count}; convert again"
        ) from error


def parse(raw: bytes) -> Record:
    """The record in a payload, a serialized Example.

    Raises:
      DecodeError, LookupError, ValueError: it is none.
    """
    features = tf.train.Example.FromString(raw).features.feature
    native = features["native_mask"].bytes_list.value
    return Record(
        features["image_id"].bytes_list.value[0].decode(),
        features["image"].bytes_list.value[0],
        features["mask"].bytes_list.value[0],
        native[0] if native else b"",
        features["height"].int64_list.value[0],
        features["width"].int64_list.value[0],
    )


def native_masks(records_dir: str, card: Card, split: str) -> Iterator[np.ndarray]:
    """Masks at the photos' original size, uint8 `[H, W]`, in order of id."""
    for record in read(records_dir, card, split):
        yield decode_mask(record.native_mask or record.mask)


def read(records_dir: str, card: Card, split: str) -> Iterator[Record]:
    """Yields the records of a split in order of id.

    Raises:
      SeamlineError: a shard is damaged; names it and the record.
    """
    for shard in card.splits[split]["shards"]:
        path = storage.join(records_dir, shard["name"])
        count = 0
        for record in read_shard(path):
            yield record
            count += 1
        if count != shard["examples"]:
            raise SeamlineError(
                f"{path}: {count} records, but the card says {shard['examples']}; "
                "convert again"
            )
