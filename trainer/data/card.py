"""The dataset card: what a folder of records holds, and the proof that it does.

`card.json` is written last, so records without a valid card are not a dataset.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from trainer import storage
from trainer.errors import SeamlineError

CARD_NAME = "card.json"
FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
    """Contents of `card.json`.

    Attributes:
      source: `{"name": …, "listing": digest of the source's file names and sizes}`.
      label_names: class names in id order.
      ignore_label: mask value that counts nowhere.
      record_size: short side of the stored photos at most, 0 for the original size.
      split: `{"seed": …, "fraction": …}`.
      splits: per split: `examples`, `ids`, and `shards`, each with `name`, `examples`,
        `bytes`, `sha256`, `crc32c` (base64, as GCS gives it).
      classes: per class: `name`, and per split `images` and `pixels`.
      rejected: pairs left out: `file` and `problem`.
      sizes: `"HxW"` of the original photos -> how many.
    """

    source: dict[str, str]
    label_names: list[str]
    ignore_label: int
    record_size: int
    split: dict[str, float]
    splits: dict[str, dict[str, Any]]
    classes: list[dict[str, Any]]
    rejected: list[dict[str, str]]
    sizes: dict[str, int]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over everything the card says."""
        content = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def frequencies(self, split: str) -> list[float]:
        """Share of each class among the labelled pixels of a split."""
        pixels = [row[split]["pixels"] for row in self.classes]
        return [count / max(sum(pixels), 1) for count in pixels]

    def to_dict(self) -> dict[str, Any]:
        """What `card.json` holds."""
        return {
            "format_version": FORMAT_VERSION,
            **dataclasses.asdict(self),
            "fingerprint": self.fingerprint,
        }


def write_card(records_dir: str, card: Card) -> None:
    """Writes `card.json`: from here on the folder is a dataset."""
    path = storage.join(records_dir, CARD_NAME)
    storage.write_text(path, json.dumps(card.to_dict(), indent=1) + "\n")


def has_card(records_dir: str) -> bool:
    """True when the folder claims to be a dataset."""
    return storage.exists(storage.join(records_dir, CARD_NAME))


def read_card(records_dir: str) -> Card:
    """Reads the card and checks it against itself and the shards' sizes.

    Raises:
      SeamlineError: no card, one that was altered, or shards that are missing or of
        another length.
    """
    path = storage.join(records_dir, CARD_NAME)
    if not storage.exists(path):
        raise SeamlineError(
            f"{path}: no dataset card, so {records_dir} is not a complete dataset; "
            "run python -m trainer.convert again"
        )
    card = _parse(path)
    for shard in (row for part in card.splits.values() for row in part["shards"]):
        name = storage.join(records_dir, shard["name"])
        if not storage.exists(name):
            raise SeamlineError(f"{name}: this shard is missing; convert again")
        if storage.size(name) != shard["bytes"]:
            raise SeamlineError(
                f"{name}: {storage.size(name)} bytes, but the card says "
                f"{shard['bytes']}; convert again"
            )
    return card


def _parse(path: str) -> Card:
    try:
        content = json.loads(storage.read_text(path))
        version = content.pop("format_version")
        fingerprint = content.pop("fingerprint")
        card = Card(**content) if version == FORMAT_VERSION else None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SeamlineError(f"{path}: not a dataset card; convert again") from error
    if card is None:
        raise SeamlineError(
            f"{path}: format version {version}, but this release reads "
            f"{FORMAT_VERSION}; convert again"
        )
    if card.fingerprint != fingerprint:
        raise SeamlineError(
            f"{path}: altered since it was written (fingerprint differs); convert again"
        )
    return card


def digest(content: bytes) -> dict[str, Any]:
    """Length and checksums of a file as the card lists them."""
    import base64

    import google_crc32c

    crc = google_crc32c.Checksum(content).digest()
    return {
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "crc32c": base64.b64encode(crc).decode(),
    }


def verify(records_dir: str) -> Card:
    """Re-reads every shard and compares its checksums with the card's.

    Raises:
      SeamlineError: names the first file that differs.
    """
    card = read_card(records_dir)
    for shard in (row for part in card.splits.values() for row in part["shards"]):
        path = storage.join(records_dir, shard["name"])
        if digest(storage.read_bytes(path))["sha256"] != shard["sha256"]:
            raise SeamlineError(
                f"{path}: contents differ from the card's checksum; convert again"
            )
    return card
