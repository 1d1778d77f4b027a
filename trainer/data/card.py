"""The dataset card: what a folder of records holds, and the proof that it does.

`card.json` is written last, so records without a valid card are not a dataset.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Iterator
from typing import Any

from trainer import storage
from trainer.errors import SeamlineError

CARD_NAME = "card.json"
FORMAT_VERSION = 4
FRAME_BYTES = 16
"""What a TFRecord adds to its payload: uint64 length and masked CRC-32C of it before,
masked CRC-32C of the payload behind, all little-endian (`tf.io.TFRecordWriter`)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
    """Contents of `card.json`.

    Attributes:
      source: `{"name": …, "listing": digest of the source's files}`.
      label_names: class names in label order.
      ignore_label: label that counts nowhere.
      labels: `{"ids": value of each class in the source's masks, "ignore": values that
        became `ignore_label`}`.
      record_size: short side of the stored photos at most, 0 for the original size.
      split: `{"seed": …, "fraction": …}`, or `{"given": true}` for lists of ids.
      splits: per split: `examples` and `shards`. Each of `shards` has `name`,
        `examples`, `bytes`, `longest` (bytes of its longest payload), `sha256`,
        `crc32c` (base64, as GCS gives it) and `index`: `bytes`, `sha256` and `crc32c`
        of the file beside it that tells of its examples, see `index.Index`. `bytes` is
        that of all payloads + `FRAME_BYTES * examples`.
      classes: per class: `name`, and per split `images` and `pixels` as stored.
      rejected: pairs left out: `file` and `problem`.
      sizes: `"HxW"` of the original photos -> how many.
    """

    source: dict[str, str]
    label_names: list[str]
    ignore_label: int
    labels: dict[str, list[int]]
    record_size: int
    split: dict[str, Any]
    splits: dict[str, dict[str, Any]]
    classes: list[dict[str, Any]]
    rejected: list[dict[str, str]]
    sizes: dict[str, int]

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over everything the card says."""
        return hashlib.sha256(self._unsealed().encode()).hexdigest()

    def frequencies(self, split: str) -> list[float]:
        """Share of each class among the labelled pixels of a split."""
        pixels = [row[split]["pixels"] for row in self.classes]
        return [count / max(sum(pixels), 1) for count in pixels]

    def image_counts(self, split: str) -> list[int]:
        """Number of examples of a split that hold each class."""
        return [row[split]["images"] for row in self.classes]

    @property
    def shards(self) -> list[dict[str, Any]]:
        """The rows of all shards, those of the first split first."""
        return [row for part in self.splits.values() for row in part["shards"]]

    def to_text(self) -> str:
        """The one text of this card: a byte that differs is damage."""
        text = self._unsealed()
        return text + _seal(hashlib.sha256(text.encode()).hexdigest())

    def to_dict(self) -> dict[str, Any]:
        """What `card.json` holds."""
        return {
            "format_version": FORMAT_VERSION,
            **self._fields(),
            "fingerprint": self.fingerprint,
        }

    def _unsealed(self) -> str:
        """The text as far as the fingerprint covers it."""
        values = {"format_version": FORMAT_VERSION, **self._fields()}
        return _lines(values).removesuffix("\n}")

    def _fields(self) -> dict[str, Any]:
        # Not `dataclasses.asdict`, which copies every row.
        names = [field.name for field in dataclasses.fields(self)]
        return {name: getattr(self, name) for name in names}


_SEAL_BEGINS = ',\n "fingerprint": "'


def _seal(digest: str) -> str:
    """The end of the text: the SHA-256 of all before it."""
    return f'{_SEAL_BEGINS}{digest}"\n}}\n'


def _lines(value: Any, margin: str = "\n ") -> str:
    """JSON: a line for each entry of a list, and each key of the objects around it."""
    if isinstance(value, dict) and value:
        rows = [f"{_encode(x)}: {_lines(y, margin + ' ')}" for x, y in value.items()]
        return "{" + margin + f",{margin}".join(rows) + margin[:-1] + "}"
    if isinstance(value, list) and value:
        return "[" + margin + f",{margin}".join(map(_encode, value)) + margin[:-1] + "]"
    return _encode(value)


_encode = json.JSONEncoder().encode


def index_name(shard: str) -> str:
    """Name of the index of a shard."""
    return f"{shard.removesuffix('.tfrecord')}.index.json"


def files(row: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The files of a shard: what each is, its name, its `bytes` and checksums."""
    yield "shard", row["name"], row
    yield "index", index_name(row["name"]), row["index"]


def has_card(records_dir: str) -> bool:
    """True when the folder claims to be a dataset."""
    return storage.exists(storage.join(records_dir, CARD_NAME))


def read_card(records_dir: str) -> Card:
    """Reads the card and checks it against itself and the sizes of its files.

    Raises:
      SeamlineError: no card, one that was altered, or shards or indexes that are
        missing or of another length.
    """
    card = read_card_alone(records_dir)
    there = storage.list_files(records_dir)
    for what, name, checks in itertools.chain.from_iterable(map(files, card.shards)):
        info = there.get(name)
        if info is not None and info.size == checks["bytes"]:
            continue
        path = storage.join(records_dir, name)
        if info is None:
            raise SeamlineError(f"{path}: this {what} is missing; convert again")
        raise SeamlineError(
            f"{path}: {info.size} bytes, but the card says {checks['bytes']}; "
            "convert again"
        )
    return card


def read_card_alone(records_dir: str) -> Card:
    """Reads the card and checks it against itself, whatever the shards are.

    Raises:
      SeamlineError: no card, or one that was altered.
    """
    path = storage.join(records_dir, CARD_NAME)
    if not storage.exists(path):
        raise SeamlineError(
            f"{path}: no dataset card, so {records_dir} is not a complete dataset; "
            "run python -m trainer.convert again"
        )
    return parse(storage.read_bytes(path), path)


def parse(content: bytes, path: str) -> Card:
    """The card in the bytes of `card.json`.

    Raises:
      SeamlineError: no card, of another format, altered in a single byte, or one that
        contradicts itself.
    """
    try:
        fields = json.loads(content)
        version = fields.pop("format_version")
        fields.pop("fingerprint")
        card = Card(**fields) if version == FORMAT_VERSION else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SeamlineError(f"{path}: not a dataset card; convert again") from error
    if card is None:
        raise SeamlineError(
            f"{path}: format version {version}, but this release reads "
            f"{FORMAT_VERSION}; convert again into another folder"
        )
    text = content.rpartition(_SEAL_BEGINS.encode())[0]
    digest = hashlib.sha256(text).hexdigest()
    if content[len(text) :] != _seal(digest).encode():
        raise SeamlineError(
            f"{path}: altered since it was written (fingerprint differs); convert again"
        )
    vars(card)["fingerprint"] = digest  # known without writing all of it again
    for split, part in card.splits.items():
        if part["examples"] != sum(row["examples"] for row in part["shards"]):
            raise SeamlineError(
                f"{path}: '{split}' has another number of examples than its shards; "
                "convert again"
            )
    return card


def digest(path: str) -> dict[str, Any]:
    """Length and checksums of a local file as the card lists them."""
    import base64

    import google_crc32c

    sha256, crc = hashlib.sha256(), google_crc32c.Checksum()
    size = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            sha256.update(block)
            crc.update(block)
            size += len(block)
    return {
        "bytes": size,
        "sha256": sha256.hexdigest(),
        "crc32c": base64.b64encode(crc.digest()).decode(),
    }
