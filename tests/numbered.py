"""Records whose masks say which example they are, written in no time."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np

from trainer.data import card as cards
from trainer.data import images, records
from trainer.data.card import Card
from trainer.data.encoding import Encoded
from trainer.data.index import Index

SIDE = 32
CLASSES = 200


def encoded(number: int) -> Encoded:
    """Example `number`: its mask holds one label alone, its image a gradient."""
    image, mask = _pictures(number % CLASSES)
    return Encoded(
        image_id=f"{number:04d}",
        image=image,
        mask=mask,
        native_mask=b"",
        height=SIDE,
        width=SIDE,
        pixels=np.zeros(0, np.int64),
    )


@functools.cache
def _pictures(label: int) -> tuple[bytes, bytes]:
    ramp = np.linspace(0, 255, SIDE).astype(np.uint8)
    image = np.stack([np.tile(ramp, (SIDE, 1))] * 3, axis=-1)
    image[: SIDE // 2] = label * 8 % 256
    mask = np.full((SIDE, SIDE), label, np.uint8)
    return images.encode_image(image), images.encode_mask(mask)


def write(folder: Path, count: int, *, shards: int, held_out: int = 0) -> Card:
    """Writes `count` training examples to so many shards, and their card.

    With `held_out`, so many more to one shard for validation.
    """
    folder.mkdir(parents=True, exist_ok=True)
    classes = min(count, CLASSES)
    val = _split(folder, "val", np.arange(count, count + held_out), min(held_out, 1))
    one, none = {"images": 1, "pixels": SIDE**2}, {"images": 0, "pixels": 0}
    card = Card(
        source={"name": "numbers", "listing": ""},
        label_names=[str(label) for label in range(classes)],
        ignore_label=255,
        labels={"ids": list(range(classes)), "ignore": [255]},
        record_size=SIDE,
        split={"seed": 0, "fraction": 0.0},
        splits={"train": _split(folder, "train", np.arange(count), shards), "val": val},
        classes=[
            {"name": str(label), "train": one, "val": none} for label in range(classes)
        ],
        rejected=[],
        sizes={f"{SIDE}x{SIDE}": count + held_out},
    )
    (folder / "card.json").write_text(card.to_text())
    return card


def _split(folder: Path, split: str, numbers: np.ndarray, shards: int) -> dict:
    rows = []
    for index, part in enumerate(np.array_split(numbers, shards) if shards else []):
        name = f"{split}-{index:05d}-of-{shards:05d}.tfrecord"
        content = [records.serialize(encoded(int(number))) for number in part]
        records.write_shard(str(folder / name), content)
        index = Index(
            [f"{number:04d}" for number in part],
            [f"{1 << int(number) % CLASSES:x}" for number in part],
            [len(serialized) for serialized in content],
        )
        beside = folder / cards.index_name(name)
        beside.write_bytes(index.to_bytes())
        rows.append(
            {
                "name": name,
                "examples": len(part),
                "longest": max(index.lengths, default=0),
                **cards.digest(str(folder / name)),
                "index": cards.digest(str(beside)),
            }
        )
    return {"examples": len(numbers), "shards": rows}


def index_of(folder: Path, row: dict) -> Index:
    """The index of a shard, without a look at its checksum."""
    return Index(**json.loads((folder / cards.index_name(row["name"])).read_text()))


def rewrite_index(folder: Path, row: dict, index: Index) -> None:
    """Puts another index beside a shard, and its checksums into the row."""
    path = folder / cards.index_name(row["name"])
    path.write_bytes(index.to_bytes())
    row["index"] = cards.digest(str(path))
