"""The dataset card: what a folder of records holds, and the proof that it does.

`card.json` is written last, so records without a valid card are not a dataset.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import numpy as np

from trainer import storage
from trainer.errors import SeamlineError

CARD_NAME = "card.json"
FORMAT_VERSION = 3
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
      splits: per split: `examples`, `ids`, `labels` and `shards`. `labels` has a string
        for each id: the classes in the mask as stored, as a bit mask in hexadecimal
        (bit c: class c has a pixel); see `label_sets`. Each of `shards` has `name`,
        `examples`, `bytes`, `sha256`, `crc32c` (base64, as GCS gives it) and `lengths`:
        bytes of each record's payload, in order. Payload k begins at byte
        `sum(lengths[:k]) + FRAME_BYTES * k + 12`, and `bytes` is
        `sum(lengths) + FRAME_BYTES * examples`.
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

    @property
    def fingerprint(self) -> str:
        """SHA-256 over everything the card says."""
        content = json.dumps(self._fields(), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def frequencies(self, split: str) -> list[float]:
        """Share of each class among the labelled pixels of a split."""
        pixels = [row[split]["pixels"] for row in self.classes]
        return [count / max(sum(pixels), 1) for count in pixels]

    def image_counts(self, split: str) -> list[int]:
        """Number of examples of a split that hold each class."""
        return [row[split]["images"] for row in self.classes]

    def label_sets(self, split: str) -> np.ndarray:
        """Which classes occur in which masks of a split, as stored.

        Returns:
          bool `[examples, classes]`, rows in the order of `ids`.
        """
        texts, classes = self.splits[split]["labels"], len(self.label_names)
        width = (classes + 7) // 8
        packed = b"".join(int(text, 16).to_bytes(width, "little") for text in texts)
        table = np.frombuffer(packed, np.uint8).reshape(len(texts), width)
        bits = np.unpackbits(table, axis=1, count=classes, bitorder="little")
        return bits.astype(bool)

    @property
    def shards(self) -> list[dict[str, Any]]:
        """The rows of all shards, those of the first split first."""
        return [row for part in self.splits.values() for row in part["shards"]]

    def to_text(self) -> str:
        """The one text of this card: a byte that differs is damage."""
        return json.dumps(self.to_dict(), indent=1) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """What `card.json` holds."""
        return {
            "format_version": FORMAT_VERSION,
            **self._fields(),
            "fingerprint": self.fingerprint,
        }

    def _fields(self) -> dict[str, Any]:
        # Not `dataclasses.asdict`, which copies every id.
        names = [field.name for field in dataclasses.fields(self)]
        return {name: getattr(self, name) for name in names}


def pack_labels(pixels: np.ndarray) -> str:
    """The classes that occur, as `labels` has them: int64 `[classes]` of pixels."""
    packed = np.packbits(pixels > 0, bitorder="little").tobytes()
    return f"{int.from_bytes(packed, 'little'):x}"


def has_card(records_dir: str) -> bool:
    """True when the folder claims to be a dataset."""
    return storage.exists(storage.join(records_dir, CARD_NAME))


def read_card(records_dir: str) -> Card:
    """Reads the card and checks it against itself and the shards' sizes.

    Raises:
      SeamlineError: no card, one that was altered, or shards that are missing or of
        another length.
    """
    card = read_card_alone(records_dir)
    there = storage.list_files(records_dir)
    for shard in card.shards:
        name = storage.join(records_dir, shard["name"])
        info = there.get(shard["name"])
        if info is None:
            raise SeamlineError(f"{name}: this shard is missing; convert again")
        if info.size != shard["bytes"]:
            raise SeamlineError(
                f"{name}: {info.size} bytes, but the card says {shard['bytes']}; "
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
        fingerprint = fields.pop("fingerprint")
        card = Card(**fields) if version == FORMAT_VERSION else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SeamlineError(f"{path}: not a dataset card; convert again") from error
    if card is None:
        raise SeamlineError(
            f"{path}: format version {version}, but this release reads "
            f"{FORMAT_VERSION}; convert again into another folder"
        )
    if card.fingerprint != fingerprint or card.to_text().encode() != content:
        raise SeamlineError(
            f"{path}: altered since it was written (fingerprint differs); convert again"
        )
    if problem := _contradiction(card):
        raise SeamlineError(f"{path}: {problem}; convert again")
    return card


def _contradiction(card: Card) -> str | None:
    """What the card says of records that cannot all be true, if anything."""
    for split, part in card.splits.items():
        for row in part["shards"]:
            lengths = row.get("lengths", [])
            framed = sum(lengths) + FRAME_BYTES * len(lengths)
            if (len(lengths), framed) != (row["examples"], row["bytes"]):
                return f"the lengths of {row['name']} do not add up to its bytes"
        listed = {len(part["ids"]), len(part.get("labels", [])), part["examples"]}
        if listed != {sum(row["examples"] for row in part["shards"])}:
            return f"'{split}' has other numbers of examples, ids and labels"
    return None


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
