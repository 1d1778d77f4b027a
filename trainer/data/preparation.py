"""Records for a training: those that are there, else made from a dataset."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
from typing import Any

from trainer.data import card as cards
from trainer.data import conversion, parts, sources
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
    flags = {
        "record_size": record_size,
        "split_fraction": split_fraction,
        "split_seed": split_seed,
    }
    if num_hosts > 1 and not records_dir:
        raise SeamlineError(
            f"--num_hosts={num_hosts} needs --records_dir: a folder all hosts share"
        )
    asked = {name: value for name, value in flags.items() if value is not None}
    if records_dir:
        parts.finish(records_dir)
        if cards.has_card(records_dir) and not sources.at_hand(dataset, layout):
            return _reuse(records_dir, cards.read_card(records_dir), asked)
    source = sources.find(dataset, layout)
    if source.split:
        _refuse_random_split(asked, source.folder)
    values = {**NEW_RECORDS, **asked}
    place = records_dir or default_folder(source, **values)
    parts.finish(place)
    if cards.has_card(place):
        card = cards.read_card(place)
        if card.source["listing"] != source.listing():
            raise SeamlineError(
                f"--records_dir={place}: made from '{card.source['name']}', whose "
                f"files are not those of {source.folder}; choose another folder"
            )
        return _reuse(place, card, asked)
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


def default_folder(
    source: Source, *, record_size: int, split_fraction: float, split_seed: int
) -> str:
    """A folder of `records/` that another source or other values do not share.

    Nor do releases that write another format of card.
    """
    values = (record_size, split_fraction, split_seed, cards.FORMAT_VERSION)
    key = " ".join(map(str, (source.listing(), *values)))
    short = hashlib.sha256(key.encode()).hexdigest()[:8]
    return os.path.join("records", f"{source.name.replace(' ', '-')}-{short}")


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
