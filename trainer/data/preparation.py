"""Records for a training: those that are there, else made from a dataset."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
from typing import Any

from trainer.data import card as cards
from trainer.data import conversion, parts, plan, sources
from trainer.data.card import Card
from trainer.data.sources import Source
from trainer.errors import SeamlineError
from trainer.layout import Layout

log = logging.getLogger("seamline")

NEW_RECORDS: dict[str, Any] = {
    "record_size": 256,
    "split_fraction": 0.2,
    "split_seed": 0,
}
"""How records are made where nothing else is asked for."""

FOLDER = "records"
"""Where they go then, each dataset into a folder of its own."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Records that can be read.

    Attributes:
      records_dir: where they are.
      card: what they hold; None while other hosts still write their share.
      notice: what must be said of any result, or "".
      made: whether they were made now.
    """

    records_dir: str
    card: Card | None
    notice: str
    made: bool


def prepare(
    *,
    dataset: str,
    layout: Layout | None = None,
    records_dir: str | None = None,
    record_size: int | None = None,
    split_fraction: float | None = None,
    split_seed: int | None = None,
    skip_bad: bool = False,
    workers: int = 0,
    shard_index: int = 0,
    num_hosts: int = 1,
) -> Prepared:
    """Finds or makes records.

    Args:
      dataset, layout: see `sources.find`. Records that are there must be made from it,
        as far as that can be told without a download.
      records_dir: where records are or go; None: a folder under `records/`.
      record_size, split_fraction, split_seed: None: those of the records, or
        256, 0.2 and 0 for new ones.
      skip_bad, workers, shard_index, num_hosts: see `conversion.convert`.

    Raises:
      SeamlineError: see `convert` and `sources.find`; or records that were made from
        something else than asked for.
    """
    if num_hosts > 1 and not records_dir:
        raise SeamlineError(
            f"--num_hosts={num_hosts} needs --records_dir: a folder all hosts share"
        )
    asked = _asked(record_size, split_fraction, split_seed)
    if records_dir:
        parts.finish(records_dir)
        if cards.has_card(records_dir) and not sources.at_hand(dataset, layout):
            return _reuse(records_dir, cards.read_card(records_dir), asked)
    source = sources.find(dataset, layout)
    place, values = _settle(source, records_dir, asked)
    parts.finish(place)
    if cards.has_card(place):
        return _reuse_of(source, place, asked)
    made = conversion.convert(
        source,
        place,
        **values,
        skip_bad=skip_bad,
        worker_count=workers,
        shard_index=shard_index,
        num_hosts=num_hosts,
    )
    return Prepared(place, made, source.notice, made=True)


@dataclasses.dataclass(frozen=True)
class Outlook:
    """What `prepare` would begin with.

    Attributes:
      records_dir: where records are or would go; None: known once there are files.
      card: of the records that are there.
      source: what they would be made from, or were compared with; None: it was not
        asked for beside records, or would be made first.
    """

    records_dir: str | None
    card: Card | None
    source: Source | None


def look(
    *,
    dataset: str,
    layout: Layout | None = None,
    records_dir: str | None = None,
    record_size: int | None = None,
    split_fraction: float | None = None,
    split_seed: int | None = None,
    skip_bad: bool = False,
    workers: int = 0,
) -> Outlook:
    """What `prepare` would find and refuse; nothing is written, fetched or drawn.

    Args, Raises: see `prepare`.
    """
    del workers
    asked = _asked(record_size, split_fraction, split_seed)
    there = records_dir and cards.has_card(records_dir)
    if records_dir and there and not sources.at_hand(dataset, layout):
        card = cards.read_card(records_dir)
        return Outlook(records_dir, _reuse(records_dir, card, asked).card, None)
    source = sources.look(dataset, layout)
    if source is None:
        found = cards.read_card(records_dir) if records_dir and there else None
        return Outlook(records_dir, found, None)
    place, values = _settle(source, records_dir, asked)
    if cards.has_card(place):
        return Outlook(place, _reuse_of(source, place, asked).card, source)
    conversion.check_place(place)
    plan.build_plan(source, **values, skip_bad=skip_bad)
    return Outlook(place, None, source)


def _asked(
    record_size: int | None, split_fraction: float | None, split_seed: int | None
) -> dict[str, float]:
    flags = {
        "record_size": record_size,
        "split_fraction": split_fraction,
        "split_seed": split_seed,
    }
    return {name: value for name, value in flags.items() if value is not None}


def _settle(
    source: Source, records_dir: str | None, asked: dict[str, float]
) -> tuple[str, dict[str, Any]]:
    """Where records of `source` are or go, and how they are made."""
    if source.split:
        _refuse_random_split(asked, source.folder)
    values = {**NEW_RECORDS, **asked}
    return records_dir or default_folder(source, **values), values


def _reuse_of(source: Source, place: str, asked: dict[str, float]) -> Prepared:
    """The records in `place`, if they were made from `source` as it is."""
    card = cards.read_card(place)
    if card.source["listing"] != source.listing():
        raise SeamlineError(
            f"--records_dir={place}: made from '{card.source['name']}', whose "
            f"files are not those of {source.folder}; choose another folder"
        )
    return _reuse(place, card, asked)


def default_folder(
    source: Source, *, record_size: int, split_fraction: float, split_seed: int
) -> str:
    """A folder of `records/` that another source or other values do not share.

    Nor do releases that write another format of card.
    """
    values = (record_size, split_fraction, split_seed, cards.FORMAT_VERSION)
    key = " ".join(map(str, (source.listing(), *values)))
    short = hashlib.sha256(key.encode()).hexdigest()[:8]
    return os.path.join(FOLDER, f"{source.name.replace(' ', '-')}-{short}")


def _refuse_random_split(asked: dict[str, float], place: str) -> None:
    for name in ("split_fraction", "split_seed"):
        if name in asked:
            raise SeamlineError(
                f"--{name}={asked[name]}: {place} is split by lists of ids; leave the "
                "flag out"
            )


def _reuse(records_dir: str, card: Card, asked: dict[str, float]) -> Prepared:
    made = {
        "record_size": card.record_size,
        "split_fraction": card.split.get("fraction"),
        "split_seed": card.split.get("seed"),
    }
    if card.split.get("given"):
        _refuse_random_split(asked, records_dir)
    for name, value in asked.items():
        if value != made[name]:
            raise SeamlineError(
                f"--{name}={value}: the records in {records_dir} were made with "
                f"{made[name]}; leave the flag out or choose another --records_dir"
            )
    log.info("Records: %s: found, used as they are", records_dir)
    drawn = card.source["name"] == sources.SAMPLE_NAME
    return Prepared(
        records_dir, card, sources.SAMPLE_NOTICE if drawn else "", made=False
    )
