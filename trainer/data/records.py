"""TFRecords: the Example schema, writing shards, reading them back.

An Example holds, all as one value each:

    image_id     bytes, UTF-8
    image        bytes, JPEG, RGB at the record size
    mask         bytes, PNG of one channel, label ids, same size as the image
    height       int64, of the original photo
    width        int64
    native_mask  bytes, PNG of one channel at the original size; only in `val`, where
                 scores at the original size need it
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import tensorflow as tf

from trainer import storage
from trainer.data.card import Card, digest
from trainer.errors import SeamlineError

SPLITS = ("train", "val")
SHARD_NAME = re.compile(r"(train|val)-\d{5}(\.draft|-of-\d{5}\.tfrecord)")
_JPEG_QUALITY = 95
_SHARD_BYTES = 150 << 20

_FEATURES = {
    "image_id": tf.io.FixedLenFeature([], tf.string),
    "image": tf.io.FixedLenFeature([], tf.string),
    "mask": tf.io.FixedLenFeature([], tf.string),
    "height": tf.io.FixedLenFeature([], tf.int64),
    "width": tf.io.FixedLenFeature([], tf.int64),
    "native_mask": tf.io.FixedLenFeature([], tf.string, default_value=""),
}


def encode(
    image_id: str,
    image: np.ndarray,
    mask: np.ndarray,
    native_mask: np.ndarray,
    *,
    keep_native: bool,
) -> bytes:
    """Serialises one Example.

    Args:
      image_id: name of the example.
      image: uint8 `[h, w, 3]` RGB.
      mask: uint8 `[h, w]`.
      native_mask: uint8 `[H, W]` at the original size.
      keep_native: store `native_mask` too, not just its size.
    """
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    values = {
        "image_id": image_id.encode(),
        "image": cv2.imencode(".jpg", bgr, quality)[1].tobytes(),
        "mask": cv2.imencode(".png", mask)[1].tobytes(),
    }
    if keep_native:
        values["native_mask"] = cv2.imencode(".png", native_mask)[1].tobytes()
    features = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        for name, value in values.items()
    }
    for name, length in zip(("height", "width"), native_mask.shape, strict=True):
        features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=[length]))
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True)


class ShardWriter:
    """Writes the Examples of one split, a new shard after every 150 MB.

    Shards get their final names (`train-00000-of-00004.tfrecord`) in `close`, when
    their number is known.
    """

    def __init__(self, folder: str, split: str) -> None:
        self._folder, self._split = folder, split
        self._counts: list[int] = []
        self._bytes = 0
        self._writer: tf.io.TFRecordWriter | None = None

    def write(self, serialized: bytes) -> None:
        """Appends one Example."""
        if self._writer is None or self._bytes > _SHARD_BYTES:
            self._finish()
            self._writer = tf.io.TFRecordWriter(self._draft(len(self._counts)))
            self._counts.append(0)
            self._bytes = 0
        self._writer.write(serialized)
        self._counts[-1] += 1
        self._bytes += len(serialized)

    def close(self) -> list[dict[str, Any]]:
        """Names the shards and returns the card's rows for them."""
        self._finish()
        rows = []
        for index, examples in enumerate(self._counts):
            name = f"{self._split}-{index:05d}-of-{len(self._counts):05d}.tfrecord"
            path = storage.join(self._folder, name)
            storage.rename(self._draft(index), path)
            checks = digest(storage.read_bytes(path))
            rows.append({"name": name, "examples": examples, **checks})
        return rows

    def _finish(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _draft(self, index: int) -> str:
        return storage.join(self._folder, f"{self._split}-{index:05d}.draft")


@dataclasses.dataclass(frozen=True)
class Record:
    """One Example as read back, images still encoded."""

    image_id: str
    image: bytes
    mask: bytes
    native_mask: bytes


def read(records_dir: str, card: Card, split: str) -> Iterator[Record]:
    """Yields the records of a split in order of id.

    Raises:
      SeamlineError: a shard is damaged; names it and the record.
    """
    for shard in card.splits[split]["shards"]:
        path = storage.join(records_dir, shard["name"])
        count = 0
        try:
            for raw in tf.data.TFRecordDataset(path).as_numpy_iterator():
                row = tf.io.parse_single_example(raw, _FEATURES)
                yield Record(
                    row["image_id"].numpy().decode(),
                    row["image"].numpy(),
                    row["mask"].numpy(),
                    row["native_mask"].numpy(),
                )
                count += 1
        except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
            raise SeamlineError(
                f"{path}: damaged at record {count}; convert again"
            ) from error
        if count != shard["examples"]:
            raise SeamlineError(
                f"{path}: {count} records, but the card says {shard['examples']}; "
                "convert again"
            )


def decode_image(encoded: bytes) -> np.ndarray:
    """JPEG bytes -> uint8 `[h, w, 3]` RGB."""
    bgr = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def decode_mask(encoded: bytes) -> np.ndarray:
    """PNG bytes -> uint8 `[h, w]` label ids."""
    return cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_GRAYSCALE)


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 `[h, w, 3]` -> uint8 `[height, width, 3]`.

    Shrinks by area (every pixel counts once), enlarges bilinearly.
    """
    shrinks = height <= image.shape[0] and width <= image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=method)


def resize_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 `[h, w]` -> uint8 `[height, width]` by nearest neighbour, always.

    `INTER_NEAREST_EXACT` takes the pixel nearest to each new pixel's centre, which is
    what fits `resize_image`; OpenCV's `INTER_NEAREST` is off by up to half a pixel.
    """
    return cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
