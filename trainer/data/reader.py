"""Random access to records: any of a split, in any order, each one proven to be sound.

Where a record lies follows from the index of its shard, so nothing is scanned, and of a
bucket only the bytes asked for are fetched.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import struct
from collections.abc import Iterator, Sequence

import google_crc32c
import numpy as np
from google.protobuf.message import DecodeError

from trainer import storage
from trainer.data import records
from trainer.data.card import CARD_NAME, FRAME_BYTES, Card
from trainer.data.index import Ids, Indexes
from trainer.data.records import Record
from trainer.errors import SeamlineError

_MOST_AT_ONCE = 16 << 20
"""Bytes of neighbours that are read as one range; more go in several."""
_GROUP_BYTES = 8 << 20
_COPIES = 4
"""Of the bytes read: as read, cut out, parsed, and what the allocator keeps."""
_THREADS = 48
"""Reads of a bucket at once. The client takes 0.9 ms of a core for one (docs/scale.md),
so as many keep it busy where an answer takes up to 40 ms."""
_HEAD, _TAIL = struct.Struct("<QI"), struct.Struct("<I")


@dataclasses.dataclass
class _Range:
    """Neighbours in one shard, read at once.

    Attributes:
      shard: its number.
      start, stop: positions of the records in the split.
      offset, end: bytes of the shard.
    """

    shard: int
    start: int
    stop: int
    offset: int
    end: int


class Reader:
    """Random access to the records of a split, local or gs://, by position in the card.

    May be used by many threads at once; they share the connections to a bucket.

    Attributes:
      ids: names of the examples, read when asked for.
      indexes: of the shards.
    """

    def __init__(self, records_dir: str, card: Card, split: str) -> None:
        """Takes the card as it is; reads nothing yet.

        Raises:
          SeamlineError: the card has no examples of this split.
        """
        self._rows = card.splits.get(split, {"shards": []})["shards"]
        self.indexes = Indexes(records_dir, self._rows)
        self.ids = Ids(self.indexes)
        if not len(self):
            raise SeamlineError(
                f"{storage.join(records_dir, CARD_NAME)}: no examples of '{split}'; "
                "convert again"
            )
        self._folder = records_dir
        self._longest = max(row["longest"] for row in self._rows)
        # Starts its threads when they are needed: never for local records.
        self._pool = concurrent.futures.ThreadPoolExecutor(_THREADS, "records")
        self._remote = storage.is_remote(records_dir)

    def __len__(self) -> int:
        return len(self.indexes)

    def read(self, indices: Sequence[int] | np.ndarray) -> list[Record]:
        """Reads records; neighbours among them as one range.

        Args:
          indices: positions in `ids`, 0 .. len - 1; any order, repeats too.

        Returns:
          The records, in the order asked for.

        Raises:
          IndexError: a position outside the split.
          SeamlineError: a shard or its index is missing, or a record is not what they
            say or fails a checksum; names the shard and the record.
          Unavailable: a bucket does not answer.
        """
        asked = np.asarray(indices, np.int64)
        if not asked.size:
            return []
        wanted = np.unique(asked)
        self._check(wanted[0], wanted[-1])
        ranges = self._ranges(wanted)
        read = (self._pool.map if self._remote else map)(self._read, ranges)
        found = [record for part in read for record in part]
        by_position = dict(zip(wanted.tolist(), found, strict=True))
        return [by_position[position] for position in asked.tolist()]

    def stream(self, indices: Sequence[int] | np.ndarray) -> Iterator[Record]:
        """`read`, but so that few records at a time take memory: see `working_memory`.

        Raises:
          As `read`, when it comes to the record.
        """
        asked = np.asarray(indices, np.int64)
        if not asked.size:
            return
        self._check(asked.min(), asked.max())
        lengths = self.indexes.locate(asked)[2]
        group: list[int] = []
        size = 0
        for position, length in zip(asked.tolist(), lengths.tolist(), strict=True):
            if group and size + length > _GROUP_BYTES:
                yield from self.read(group)
                group, size = [], 0
            group.append(position)
            size += length
        yield from self.read(group)

    def working_memory(self, count: int) -> int:
        """Bytes that `stream` takes at most for `count` records."""
        largest = self._longest
        return _COPIES * max(largest, min(_GROUP_BYTES, count * largest))

    def damaged(self, position: int, what: str) -> SeamlineError:
        """What to raise for a record that is not sound: its shard, number and id."""
        shard, number = self.indexes.find(position)
        return SeamlineError(
            f"{self._path(shard)}: damaged at record {number} "
            f"('{self.ids[position]}'): {what}; convert again"
        )

    def _check(self, first: int, last: int) -> None:
        if not 0 <= first <= last < len(self):
            raise IndexError(f"positions {first}..{last} of {len(self)}")

    def _path(self, shard: int) -> str:
        return storage.join(self._folder, self._rows[shard]["name"])

    def _ranges(self, wanted: np.ndarray) -> list[_Range]:
        """What to read for these positions, which are sorted and differ."""
        shards, offsets, lengths = self.indexes.locate(wanted)
        ends = offsets + lengths + FRAME_BYTES
        ranges: list[_Range] = []
        for position, shard, offset, end in zip(
            *(x.tolist() for x in (wanted, shards, offsets, ends)), strict=True
        ):
            last = ranges[-1] if ranges else None
            if (
                last
                and (last.shard, last.stop) == (shard, position)
                and end - last.offset <= _MOST_AT_ONCE
            ):
                last.stop, last.end = position + 1, end
            else:
                ranges.append(_Range(shard, position, position + 1, offset, end))
        return ranges

    def _read(self, span: _Range) -> list[Record]:
        content = self._fetch(span)
        found, place = [], 0
        there = self.indexes.places(span.shard)
        first = int(self.indexes.starts[span.shard])
        for position in range(span.start, span.stop):
            number = position - first
            length = int(there.lengths[number])
            try:
                found.append(_record(content, place, length, there.ids[number]))
            except ValueError as error:
                raise self.damaged(position, str(error)) from error
            place += length + FRAME_BYTES
        return found

    def _fetch(self, span: _Range) -> bytes:
        path = self._path(span.shard)
        try:
            return storage.read_range(path, span.offset, span.end - span.offset)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise SeamlineError(
                f"{path}: this shard is missing; convert again"
            ) from error
        except OSError as error:
            if self._remote:
                raise
            raise SeamlineError(
                f"{path}: cannot be read ({error.strerror}); mend the disk or its "
                "permissions"
            ) from error


def _record(content: bytes, place: int, length: int, image_id: str) -> Record:
    """The record whose frame begins at `place`.

    Raises:
      ValueError: says what is wrong with it.
    """
    start = place + _HEAD.size
    if len(content) < start + length + _TAIL.size:
        raise ValueError("the shard ends within it")
    found, check = _HEAD.unpack_from(content, place)
    if found != length:
        raise ValueError(f"{found} bytes, but its index says {length}")
    if check != _masked_crc32c(content[place : place + 8]):
        raise ValueError("the checksum of its length differs")
    payload = content[start : start + length]
    if _TAIL.unpack_from(content, start + length)[0] != _masked_crc32c(payload):
        raise ValueError("its checksum differs")
    try:
        record = records.parse(payload)
    except (DecodeError, LookupError, ValueError) as error:
        raise ValueError("not an example of a photo and its mask") from error
    if record.image_id != image_id:
        raise ValueError(f"it holds '{record.image_id}'")
    return record


def _masked_crc32c(content: bytes) -> int:
    """CRC-32C, rotated and shifted, as TFRecords store it (tsl/lib/hash/crc32c.h)."""
    crc = google_crc32c.value(content)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
