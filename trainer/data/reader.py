"""Random access to records: any of a split, in any order, each one proven to be sound.

Where a record lies follows from the lengths in the card, so nothing is scanned, and of
a bucket only the bytes asked for are fetched.
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
from trainer.data.records import Record
from trainer.errors import SeamlineError

_MOST_AT_ONCE = 16 << 20
"""Bytes of neighbours that are read as one range; more go in several."""
_GROUP_BYTES = 8 << 20
_COPIES = 4
"""Of the bytes read: as read, cut out, parsed, and what the allocator keeps."""
_THREADS = 16
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
    """

    def __init__(self, records_dir: str, card: Card, split: str) -> None:
        """Takes the card as it is; reads nothing yet.

        Raises:
          SeamlineError: the card has no examples of this split.
        """
        part = card.splits.get(split, {"ids": [], "shards": []})
        rows = part["shards"]
        self._ids: list[str] = part["ids"]
        if not self._ids or not rows:
            raise SeamlineError(
                f"{storage.join(records_dir, CARD_NAME)}: no examples of '{split}'; "
                "convert again"
            )
        self._paths = [storage.join(records_dir, row["name"]) for row in rows]
        lengths = [np.asarray(row["lengths"], np.int64) for row in rows]
        # Position in the split of the first record of each shard.
        self._firsts = np.cumsum([0, *map(len, lengths)])[:-1]
        self._lengths = np.concatenate(lengths)
        self._offsets = np.concatenate(
            [np.cumsum(part + FRAME_BYTES) - (part + FRAME_BYTES) for part in lengths]
        )
        # Starts its threads when they are needed: never for local records.
        self._pool = concurrent.futures.ThreadPoolExecutor(_THREADS, "records")
        self._remote = storage.is_remote(records_dir)

    def __len__(self) -> int:
        return len(self._lengths)

    def read(self, indices: Sequence[int] | np.ndarray) -> list[Record]:
        """Reads records; neighbours among them as one range.

        Args:
          indices: positions in `ids` of the card, 0 .. len - 1; any order, repeats too.

        Returns:
          The records, in the order asked for.

        Raises:
          IndexError: a position outside the split.
          SeamlineError: a shard is missing, or a record is not what the card says or
            fails a checksum; names the shard and the record.
          Unavailable: a bucket does not answer.
        """
        asked = np.asarray(indices, np.int64)
        wanted = np.unique(asked)
        if wanted.size and not 0 <= wanted[0] <= wanted[-1] < len(self):
            raise IndexError(f"positions {wanted[0]}..{wanted[-1]} of {len(self)}")
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
        group: list[int] = []
        size = 0
        for position in asked.tolist():
            length = int(self._lengths[position])
            if group and size + length > _GROUP_BYTES:
                yield from self.read(group)
                group, size = [], 0
            group.append(position)
            size += length
        yield from self.read(group)

    def working_memory(self, count: int) -> int:
        """Bytes that `stream` takes at most for `count` records."""
        largest = int(self._lengths.max(initial=0))
        return _COPIES * max(largest, min(_GROUP_BYTES, count * largest))

    def damaged(self, position: int, what: str) -> SeamlineError:
        """What to raise for a record that is not sound: its shard, number and id."""
        shard = int(np.searchsorted(self._firsts, position, side="right")) - 1
        return SeamlineError(
            f"{self._paths[shard]}: damaged at record {position - self._firsts[shard]} "
            f"('{self._ids[position]}'): {what}; convert again"
        )

    def _ranges(self, wanted: np.ndarray) -> list[_Range]:
        """What to read for these positions, which are sorted and differ."""
        shards = np.searchsorted(self._firsts, wanted, side="right") - 1
        offsets = self._offsets[wanted]
        ends = offsets + self._lengths[wanted] + FRAME_BYTES
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
        lengths = self._lengths[span.start : span.stop].tolist()
        for position, length in enumerate(lengths, span.start):
            image_id = self._ids[position]
            try:
                found.append(_record(content, place, length, image_id))
            except ValueError as error:
                raise self.damaged(position, str(error)) from error
            place += length + FRAME_BYTES
        return found

    def _fetch(self, span: _Range) -> bytes:
        path = self._paths[span.shard]
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
        raise ValueError(f"{found} bytes, but the card says {length}")
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
