"""The start of a training on records of many shards, in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from typing import Any

import numpy as np

from trainer import storage
from trainer.benchmarks import children
from trainer.benchmarks.measurements import Measurement
from trainer.benchmarks.settings import Settings
from trainer.data import card as cards
from trainer.data import images, records
from trainer.data.card import Card
from trainer.data.encoding import Encoded
from trainer.data.index import Index, pack_labels
from trainer.errors import SeamlineError
from trainer.labels import IGNORE_LABEL

LOCATED = "Located"
"""How the line begins that says where the examples of a batch are is known."""
_EXAMPLES, _SIDE, _CLASSES = 1000, 32, 59
_LINKS = 10_000
"""Names that one file gets; file systems allow some 60,000 (ext4: 65,000)."""


def measure(settings: Settings) -> list[Measurement]:
    """Seconds and peak memory from a process's start to batches of such records.

    They are in a temporary folder: `settings.shards` shards of a thousand examples
    each. All are real and hold the same small examples: files of many names.

    Raises:
      SeamlineError: no place for them, or a start that failed.
    """
    recipe = settings.recipe
    with tempfile.TemporaryDirectory(prefix="seamline-") as work:
        folder, told = os.path.join(work, "records"), os.path.join(work, "times.json")
        os.mkdir(folder)
        card = _write(folder, settings.shards)
        size = os.path.getsize(os.path.join(folder, cards.CARD_NAME))
        asked = {
            "records_dir": folder,
            "seed": settings.seed,
            "input_limits": settings.input_limits,
            "recipe": {
                "image_size": recipe.image_size,
                "batch_size": recipe.batch_size,
                "augment": recipe.augment,
            },
            "times": told,
        }
        command = ["trainer.benchmarks.scale_start", json.dumps(asked)]
        located, end = children.follow(command, LOCATED)
        times = json.loads(storage.read_text(told))
    what = f"{settings.shards:,} shards, {card.splits['train']['examples']:,} examples"
    batch = f"batch {recipe.batch_size}"
    rows = [
        ("card_megabytes", size / 1e6, "MB", f"card.json of {what}"),
        ("card_seconds", times["card"], "s", "to read and check it, and list files"),
        ("open_seconds", times["open"], "s", "to open both splits and read val"),
        ("order_seconds", times["order"], "s", f"{batch} of steps 0 and 10^9 located"),
        ("start_seconds", located.seconds, "s", "from the process's start to that"),
        ("batch_seconds", times["batches"], "s", "then to read and make both batches"),
        ("peak_memory_mb", end.megabytes, "MB", "of the process until then"),
    ]
    return [Measurement(f"scale.{name}", *rest) for name, *rest in rows]


def _write(folder: str, shards: int) -> Card:
    """Writes records of so many training shards, one more to validate on, their card.

    Raises:
      SeamlineError: the folder takes no hard links.
    """
    count, label = _EXAMPLES, np.eye(_CLASSES, dtype=np.int64)
    content = [records.serialize(_encoded(number)) for number in range(count)]
    index = Index(
        [f"{number:04d}" for number in range(count)],
        [pack_labels(label[number % _CLASSES]) for number in range(count)],
        [len(serialized) for serialized in content],
    )
    val = "val-00000-of-00001.tfrecord"
    files = [os.path.join(folder, name) for name in (val, cards.index_name(val))]
    records.write_shard(files[0], content)
    storage.write_bytes(files[1], index.to_bytes())
    row = {
        "name": val,
        "examples": count,
        "longest": max(index.lengths),
        **cards.digest(files[0]),
        "index": cards.digest(files[1]),
    }
    names = [f"train-{k:05d}-of-{shards:05d}.tfrecord" for k in range(shards)]
    _link(files[0], [os.path.join(folder, name) for name in names])
    _link(files[1], [os.path.join(folder, cards.index_name(name)) for name in names])
    card = _card({"train": [{**row, "name": name} for name in names], "val": [row]})
    storage.write_text(os.path.join(folder, cards.CARD_NAME), card.to_text())
    return card


def _encoded(number: int) -> Encoded:
    """An example of noise, whose mask holds one class alone."""
    noise = np.random.default_rng(number).integers(0, 256, (_SIDE, _SIDE, 3), np.uint8)
    mask = np.full((_SIDE, _SIDE), number % _CLASSES, np.uint8)
    return Encoded(
        image_id=f"{number:04d}",
        image=images.encode_image(noise),
        mask=images.encode_mask(mask),
        native_mask=b"",
        height=_SIDE,
        width=_SIDE,
        pixels=np.zeros(0, np.int64),
    )


def _card(shards: dict[str, list[dict[str, Any]]]) -> Card:
    splits = {
        split: {"examples": sum(row["examples"] for row in rows), "shards": rows}
        for split, rows in shards.items()
    }
    examples = {split: part["examples"] for split, part in splits.items()}
    counts = {
        split: {"images": count // _CLASSES, "pixels": count // _CLASSES * _SIDE**2}
        for split, count in examples.items()
    }
    names = [f"class {label}" for label in range(_CLASSES)]
    return Card(
        source={"name": "scale", "listing": ""},
        label_names=names,
        ignore_label=IGNORE_LABEL,
        labels={"ids": list(range(_CLASSES)), "ignore": [IGNORE_LABEL]},
        record_size=_SIDE,
        split={"given": True},
        splits=splits,
        classes=[{"name": name, **counts} for name in names],
        rejected=[],
        sizes={f"{_SIDE}x{_SIDE}": sum(examples.values())},
    )


def _link(path: str, names: list[str]) -> None:
    """Gives a file more names; a copy of it for every 10,000."""
    try:
        for number, name in enumerate(names):
            if number % _LINKS:
                os.link(names[number - number % _LINKS], name)
            else:
                shutil.copyfile(path, name)
    except OSError as error:
        raise SeamlineError(
            f"{os.path.dirname(path)}: cannot hold {len(names)} names of a file "
            f"({error.strerror}); set TMPDIR to a folder of another disk"
        ) from error
