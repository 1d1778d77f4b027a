"""Source -> records: read every pair, refuse or record bad ones, write, seal."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import hashlib
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.random import RandomState

from trainer import progress, storage
from trainer.data import card as cards
from trainer.data import records, sources
from trainer.data.card import Card
from trainer.data.sources import BadSample, Source
from trainer.errors import SeamlineError
from trainer.labels import IGNORE_LABEL

log = logging.getLogger("seamline")

NEW_RECORDS: dict[str, Any] = {
    "record_size": 256,
    "split_fraction": 0.2,
    "split_seed": 0,
}
"""How records are made where nothing else is asked for."""

_MOST_SHOWN = 20


def split_ids(
    ids: Iterable[str], *, fraction: float, seed: int
) -> tuple[list[str], list[str]]:
    """Splits ids into (train, val), each sorted.

    Exactly scikit-learn's `train_test_split(sorted(ids), test_size=fraction,
    random_state=seed)`: the first `ceil(fraction * n)` of a permutation are validation.

    Raises:
      SeamlineError: a side would be empty.
    """
    ordered = sorted(ids)
    if not 0 <= fraction <= 1:
        raise SeamlineError(f"--split_fraction={fraction}: must lie in 0..1")
    held_out = math.ceil(fraction * len(ordered))
    if not 0 < held_out < len(ordered):
        raise SeamlineError(
            f"--split_fraction={fraction}: {len(ordered)} examples give {held_out} for "
            "validation; both sides need at least one"
        )
    order = RandomState(seed).permutation(len(ordered))
    val = {ordered[index] for index in order[:held_out]}
    return [x for x in ordered if x not in val], [x for x in ordered if x in val]


@dataclasses.dataclass
class _Tally:
    """Counts of one split, on masks as stored."""

    ids: list[str]
    images: np.ndarray
    pixels: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Converted:
    """One pair on its way from a reader to the writer."""

    image_id: str
    serialized: bytes
    histogram: np.ndarray
    size: str


def convert(
    source: Source,
    records_dir: str,
    *,
    record_size: int,
    split_fraction: float,
    split_seed: int,
    skip_bad: bool = False,
    workers: int = 0,
) -> Card:
    """Writes `records_dir`: shards first, `card.json` last.

    Args:
      source: where pairs come from.
      records_dir: folder to make, local or remote.
      record_size: short side of stored photos at most; 0 keeps the size.
      split_fraction: share held out for validation.
      split_seed: seed of the split.
      skip_bad: leave bad pairs out and say so in the card, instead of refusing.
      workers: parallel readers; 0: one a core.

    Returns:
      The card, as written.

    Raises:
      SeamlineError: bad pairs (all of them are listed), or a folder that holds
        something else; nothing is left behind.
    """
    _clear_leftovers(records_dir)
    if storage.list_folder(records_dir):
        raise SeamlineError(
            f"--records_dir={records_dir}: holds files but no dataset card; empty it "
            "or choose another folder"
        )
    splits = dict(
        zip(
            records.SPLITS,
            split_ids(source.files, fraction=split_fraction, seed=split_seed),
            strict=True,
        )
    )
    # A folder in a bucket or a mount point cannot be renamed; there, the card alone
    # makes the dataset.
    in_place = storage.is_remote(records_dir) or os.path.exists(records_dir)
    staging = records_dir if in_place else f"{records_dir.rstrip(os.sep)}.partial"
    if not in_place:
        storage.remove_folder(staging)
    missing = storage.missing_parents(staging)
    storage.make_folder(staging)
    try:
        card = _write(source, staging, splits, record_size, skip_bad, workers)
        card = dataclasses.replace(
            card, split={"seed": split_seed, "fraction": split_fraction}
        )
        cards.write_card(staging, card)
        if not in_place:
            storage.rename(staging, records_dir)
    except BaseException:
        _clear_leftovers(staging)
        storage.remove_empty_folders(missing)
        raise
    log.info(
        "Records: %s: %d train + %d val examples, %d left out",
        records_dir,
        *(card.splits[split]["examples"] for split in records.SPLITS),
        len(card.rejected),
    )
    return card


def _write(
    source: Source,
    folder: str,
    splits: dict[str, list[str]],
    record_size: int,
    skip_bad: bool,
    workers: int,
) -> Card:
    bad = [
        BadSample(mask, "has no photo of the same name; add it or remove the mask")
        for mask in source.orphans
    ]
    sizes: collections.Counter[str] = collections.Counter()
    tallies, shards = {}, {}
    bar = progress.Bar("converting", total=len(source.files), unit="pairs")
    for split, ids in splits.items():
        writer = records.ShardWriter(folder, split)
        tally = _tally(len(source.label_names))

        def read(image_id: str, keep_native: bool = split == "val") -> _Converted:
            return _convert_one(source, image_id, record_size, keep_native)

        for done in _in_order(read, ids, workers or os.cpu_count() or 1):
            bar.update(1)
            if isinstance(done, BadSample):
                bad.append(done)
                continue
            writer.write(done.serialized)
            tally.ids.append(done.image_id)
            tally.images += done.histogram > 0
            tally.pixels += done.histogram
            sizes[done.size] += 1
        shards[split], tallies[split] = writer.close(), tally
    bar.close()
    _refuse(bad, tallies, skip_bad)
    return _card(source, record_size, tallies, shards, bad, sizes)


def _clear_leftovers(folder: str) -> None:
    """Removes shards that no card vouches for: of a conversion that was killed."""
    names = storage.list_folder(folder)
    if cards.CARD_NAME not in names:
        for name in names:
            if records.SHARD_NAME.fullmatch(name):
                storage.remove_file(storage.join(folder, name))


def _tally(classes: int) -> _Tally:
    return _Tally([], np.zeros(classes, np.int64), np.zeros(classes, np.int64))


def _convert_one(
    source: Source, image_id: str, record_size: int, keep_native: bool
) -> _Converted:
    sample = source.read(image_id)
    height, width = sample.mask.shape
    scale = min(1.0, record_size / min(height, width)) if record_size else 1.0
    target = max(1, round(height * scale)), max(1, round(width * scale))
    image, mask = sample.image, sample.mask
    if target != (height, width):
        image = records.resize_image(image, *target)
        mask = records.resize_mask(mask, *target)
    serialized = records.encode(
        image_id, image, mask, sample.mask, keep_native=keep_native
    )
    histogram = np.bincount(mask[mask != IGNORE_LABEL], minlength=256)
    classes = len(source.label_names)
    return _Converted(image_id, serialized, histogram[:classes], f"{height}x{width}")


def _in_order(
    read: Callable[[str], _Converted], ids: list[str], workers: int
) -> Iterator[_Converted | BadSample]:
    """Results in the order of `ids`, with at most a few pairs a worker in memory."""

    def attempt(image_id: str) -> _Converted | BadSample:
        try:
            return read(image_id)
        except BadSample as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        waiting: collections.deque[concurrent.futures.Future] = collections.deque()
        for image_id in ids:
            waiting.append(pool.submit(attempt, image_id))
            if len(waiting) > 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _refuse(bad: list[BadSample], tallies: dict[str, _Tally], skip_bad: bool) -> None:
    lines = [str(problem) for problem in sorted(bad, key=lambda x: x.file)]
    if len(lines) == 1 and not skip_bad:
        raise SeamlineError(f"{lines[0]} (or leave it out with --skip_bad)")
    if lines and not skip_bad:
        rest = len(lines) - _MOST_SHOWN
        more = [f"… and {rest} more"] if rest > 0 else []
        head = f"{len(lines)} bad pairs; mend them or leave them out with --skip_bad:"
        raise SeamlineError("\n  ".join([head, *lines[:_MOST_SHOWN], *more]))
    for split, tally in tallies.items():
        if not tally.ids:
            raise SeamlineError(f"no usable pair is left for the split '{split}'")


def _card(
    source: Source,
    record_size: int,
    tallies: dict[str, _Tally],
    shards: dict[str, list[dict]],
    bad: list[BadSample],
    sizes: collections.Counter[str],
) -> Card:
    classes = [
        {
            "name": name,
            **{
                split: {
                    "images": int(tally.images[label]),
                    "pixels": int(tally.pixels[label]),
                }
                for split, tally in tallies.items()
            },
        }
        for label, name in enumerate(source.label_names)
    ]
    return Card(
        source={"name": source.name, "listing": source.listing()},
        label_names=source.label_names,
        ignore_label=IGNORE_LABEL,
        record_size=record_size,
        split={},
        splits={
            split: {
                "examples": len(tally.ids),
                "ids": tally.ids,
                "shards": shards[split],
            }
            for split, tally in tallies.items()
        },
        classes=classes,
        rejected=[{"file": x.file, "problem": x.problem} for x in bad],
        sizes=dict(sorted(sizes.items())),
    )


def default_folder(
    source: Source, *, record_size: int, split_fraction: float, split_seed: int
) -> str:
    """A folder of `records/` that another source or other values do not share."""
    key = f"{source.listing()} {record_size} {split_fraction} {split_seed}"
    short = hashlib.sha256(key.encode()).hexdigest()[:8]
    return os.path.join("records", f"{source.name.replace(' ', '-')}-{short}")


def prepare(
    *,
    dataset: str,
    records_dir: str | None,
    record_size: int | None,
    split_fraction: float | None,
    split_seed: int | None,
    skip_bad: bool = False,
    workers: int = 0,
) -> tuple[str, Card, str]:
    """Records for a training: those that are there, else made from `dataset`.

    Args:
      dataset: see `sources.find`. Records that are there must be made from it, as far
        as that can be told without a download.
      records_dir: where records are or go; None: a folder under `records/`.
      record_size, split_fraction, split_seed: None: those of the records, or
        256, 0.2 and 0 for new ones.
      skip_bad, workers: see `convert`.

    Returns:
      (records_dir, card, notice): the notice is what must be said of any result, or "".

    Raises:
      SeamlineError: see `convert` and `sources.find`; or records that were made from
        something else than asked for.
    """
    flags = {
        "record_size": record_size,
        "split_fraction": split_fraction,
        "split_seed": split_seed,
    }
    asked = {name: value for name, value in flags.items() if value is not None}
    if records_dir and cards.has_card(records_dir) and not sources.at_hand(dataset):
        return _reuse(records_dir, cards.read_card(records_dir), asked)
    source = sources.find(dataset)
    values = {**NEW_RECORDS, **asked}
    place = records_dir or default_folder(source, **values)
    if not cards.has_card(place):
        card = convert(source, place, **values, skip_bad=skip_bad, workers=workers)
        return place, card, source.notice
    card = cards.read_card(place)
    if card.source["listing"] != source.listing():
        raise SeamlineError(
            f"--records_dir={place}: made from '{card.source['name']}', whose files "
            f"are not those of --dataset={dataset}; choose another folder"
        )
    return _reuse(place, card, asked)


def _reuse(
    records_dir: str, card: Card, asked: dict[str, float]
) -> tuple[str, Card, str]:
    made = {
        "record_size": card.record_size,
        "split_fraction": card.split["fraction"],
        "split_seed": card.split["seed"],
    }
    for name, value in asked.items():
        if value != made[name]:
            raise SeamlineError(
                f"--{name}={value}: the records in {records_dir} were made with "
                f"{made[name]}; leave the flag out or choose another --records_dir"
            )
    log.info("Records: %s: found, used as they are", records_dir)
    drawn = card.source["name"] == sources.SAMPLE_NAME
    return records_dir, card, sources.SAMPLE_NOTICE if drawn else ""
