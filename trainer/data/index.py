"""What each shard holds, example by example, in a file beside it: read when needed.

The index of `train-00000-of-00004.tfrecord` is `train-00000-of-00004.index.json`:

    {"ids": […], "labels": […], "lengths": […]}

with an entry for each example, in order; see `Index`. The card lists its length and
checksums, so that the card's fingerprint covers it. The card itself grows with the
shards, not with the examples: 10^8 of them start as fast as a thousand.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, overload

import numpy as np

from trainer import storage
from trainer.data.card import FRAME_BYTES, index_name
from trainer.errors import SeamlineError

_KEPT_EXAMPLES = 1 << 20
"""So many have their place kept in memory: some 100 MB."""
_THREADS = 16

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Index:
    """What a shard holds, an entry for each example.

    Attributes:
      ids: names of the examples.
      labels: the classes in the mask as stored, as a bit mask in hexadecimal (bit c:
        class c has a pixel); see `unpack_labels`.
      lengths: bytes of each record's payload. Payload k begins at byte
        `sum(lengths[:k]) + FRAME_BYTES * k + 12` of the shard.
    """

    ids: list[str] = dataclasses.field(default_factory=list)
    labels: list[str] = dataclasses.field(default_factory=list)
    lengths: list[int] = dataclasses.field(default_factory=list)

    def to_bytes(self) -> bytes:
        """Content of the file, the same bytes every time."""
        return (json.dumps(dataclasses.asdict(self)) + "\n").encode()


def pack_labels(pixels: np.ndarray) -> str:
    """The classes that occur, as `labels` has them: int64 `[classes]` of pixels."""
    packed = np.packbits(pixels > 0, bitorder="little").tobytes()
    return f"{int.from_bytes(packed, 'little'):x}"


def unpack_labels(texts: Sequence[str], classes: int) -> np.ndarray:
    """Which classes occur in which masks: bool `[len(texts), classes]`."""
    width = (classes + 7) // 8
    packed = b"".join(int(text, 16).to_bytes(width, "little") for text in texts)
    table = np.frombuffer(packed, np.uint8).reshape(len(texts), width)
    return np.unpackbits(table, axis=1, count=classes, bitorder="little").astype(bool)


def read_index(folder: str, row: dict[str, Any]) -> Index:
    """The index of a shard, proven to be the one that the card lists.

    Args:
      folder: where the shard is, local or remote.
      row: of the shard in the card.

    Raises:
      SeamlineError: it is missing, damaged, or says what cannot be true of the shard.
      Unavailable: a bucket does not answer.
    """
    path = storage.join(folder, index_name(row["name"]))
    try:
        content = storage.read_bytes(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SeamlineError(f"{path}: this index is missing; convert again") from error
    except OSError as error:
        if storage.is_remote(path):
            raise
        raise SeamlineError(
            f"{path}: cannot be read ({error.strerror}); mend the disk or its "
            "permissions"
        ) from error
    if hashlib.sha256(content).hexdigest() != row["index"]["sha256"]:
        raise SeamlineError(
            f"{path}: contents differ from the card's checksum; convert again"
        )
    index = Index(**json.loads(content))
    if problem := _contradiction(index, row):
        raise SeamlineError(f"{path}: {problem}; convert again")
    return index


def _contradiction(index: Index, row: dict[str, Any]) -> str | None:
    """What index and card say of a shard that cannot both be true, if anything."""
    listed = {len(index.ids), len(index.labels), len(index.lengths), row["examples"]}
    if len(listed) > 1:
        return "other numbers of examples, ids, labels and lengths"
    framed = sum(index.lengths) + FRAME_BYTES * len(index.lengths)
    if (framed, max(index.lengths, default=0)) != (row["bytes"], row["longest"]):
        return f"its lengths do not add up to the bytes of {row['name']}"
    return None


@dataclasses.dataclass(frozen=True)
class Places:
    """Where the records of a shard lie.

    Attributes:
      ids: names of the n examples.
      lengths: bytes of the payloads, int64 `[n]`.
      offsets: first bytes of their frames, int64 `[n]`.
    """

    ids: list[str]
    lengths: np.ndarray
    offsets: np.ndarray


class Indexes:
    """The indexes of a split's shards, each read when first needed; a part is kept.

    May be used by many threads at once. Those of a bucket are read some at a time.

    Attributes:
      starts: position in the split of the first example of each shard, and behind them
        the number of examples: int64 `[shards + 1]`.
    """

    def __init__(self, folder: str, rows: Sequence[dict[str, Any]]) -> None:
        """Takes the shards' rows in the card; reads nothing."""
        counts = [row["examples"] for row in rows]
        self.starts = np.cumsum([0, *counts], dtype=np.int64)
        self._folder, self._rows = folder, rows
        self._remote = storage.is_remote(folder)
        # Starts its threads when they are needed: never for local records.
        self._pool = concurrent.futures.ThreadPoolExecutor(_THREADS, "indexes")
        self._locks = [threading.Lock() for _ in range(_THREADS)]
        most = max(1, _KEPT_EXAMPLES // max([1, *counts]))
        self._kept = functools.lru_cache(maxsize=most)(self._load)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def find(self, position: int) -> tuple[int, int]:
        """Number of the shard that holds a position, and which of its examples."""
        shard = int(np.searchsorted(self.starts, position, side="right")) - 1
        return shard, position - int(self.starts[shard])

    def places(self, shard: int) -> Places:
        """Where the records of a shard lie.

        Raises:
          SeamlineError: see `read_index`.
        """
        # Threads that want the same one at once wait for the first of them.
        with self._locks[shard % _THREADS]:
            return self._kept(shard)

    def locate(self, positions: np.ndarray) -> tuple[np.ndarray, ...]:
        """Where records lie.

        Args:
          positions: int64 `[B]`, at least one.

        Returns:
          Number of the shard, first byte of the frame, bytes of the payload: int64
          `[B]` each.

        Raises:
          SeamlineError: see `read_index`.
        """
        shards = np.searchsorted(self.starts, positions, side="right") - 1
        numbers = positions - self.starts[shards]
        offsets, lengths = np.empty((2, len(positions)), np.int64)
        order = np.argsort(shards, kind="stable")
        used, begins = np.unique(shards[order], return_index=True)
        rows = np.split(order, begins[1:])
        for found, own in zip(self._map(self.places, used.tolist()), rows, strict=True):
            offsets[own] = found.offsets[numbers[own]]
            lengths[own] = found.lengths[numbers[own]]
        return shards, offsets, lengths

    def label_parts(self, classes: int) -> Iterator[np.ndarray]:
        """`label_sets` of one shard after the other, in order."""

        def read(row: dict[str, Any]) -> np.ndarray:
            return unpack_labels(read_index(self._folder, row).labels, classes)

        return self._map(read, self._rows)

    def label_sets(self, classes: int) -> np.ndarray:
        """Which classes occur in which masks as stored; reads all indexes.

        Returns:
          bool `[examples, classes]`.

        Raises:
          SeamlineError: see `read_index`.
        """
        table, start = np.empty((len(self), classes), bool), 0
        for part in self.label_parts(classes):
            table[start : start + len(part)] = part
            start += len(part)
        return table

    def _load(self, shard: int) -> Places:
        index = read_index(self._folder, self._rows[shard])
        lengths = np.asarray(index.lengths, np.int64)
        framed = lengths + FRAME_BYTES
        return Places(index.ids, lengths, np.cumsum(framed) - framed)

    def _map(self, function: Callable[[Any], _T], values: Sequence) -> Iterator[_T]:
        """`map`, for a bucket in threads."""
        return (self._pool.map if self._remote else map)(function, values)


class Ids(Sequence[str]):
    """Names of the examples of a split, in order; the length is known without reading.

    Raises:
      SeamlineError: when one is asked for, see `read_index`.
    """

    def __init__(self, indexes: Indexes) -> None:
        self._indexes = indexes

    def __len__(self) -> int:
        return len(self._indexes)

    @overload
    def __getitem__(self, item: int) -> str: ...
    @overload
    def __getitem__(self, item: slice) -> list[str]: ...
    def __getitem__(self, item: int | slice) -> str | list[str]:
        if isinstance(item, slice):
            return [self[position] for position in range(len(self))[item]]
        shard, number = self._indexes.find(range(len(self))[item])
        return self._indexes.places(shard).ids[number]

    def __iter__(self) -> Iterator[str]:
        for shard in range(len(self._indexes.starts) - 1):
            yield from self._indexes.places(shard).ids
