"""Source -> records: read and check every pair, write shards, seal them with a card."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import functools
import logging
from collections.abc import Iterator

from trainer import machine, progress, storage
from trainer.data import card as cards
from trainer.data import parts, records
from trainer.data.card import Card
from trainer.data.parts import Parts, Report
from trainer.data.plan import SHARD_BYTES, SPLITS, Plan, Shard, build_plan
from trainer.data.shards import make_shards
from trainer.data.sources import Source
from trainer.errors import SeamlineError, Unavailable
from trainer.labels import IGNORE_LABEL

log = logging.getLogger("seamline")


def convert(
    source: Source,
    records_dir: str,
    *,
    record_size: int,
    split_fraction: float,
    split_seed: int,
    skip_bad: bool = False,
    worker_count: int = 0,
    shard_index: int = 0,
    num_hosts: int = 1,
    shard_bytes: int = SHARD_BYTES,
) -> Card | None:
    """Fills `records_dir`: shards first, `card.json` last.

    Killed at any moment, the same call goes on with the shards that are done. Several
    hosts may share the work: the last one done checks all and seals.

    Args:
      source: where pairs come from.
      records_dir: folder to make, local or remote.
      record_size: short side of stored photos at most; 0 keeps the size.
      split_fraction: share held out for validation.
      split_seed: seed of the split.
      skip_bad: leave bad pairs out and say so in the card, instead of refusing.
      worker_count: processes that read and encode; 0: one a processor.
      shard_index, num_hosts: which of so many hosts this is.
      shard_bytes: bytes a shard aims at.

    Returns:
      The card; None when other hosts still have shards to write.

    Raises:
      SeamlineError: bad pairs (all of them are listed; nothing is left behind), a
        folder that holds something else, or another conversion that was first.
    """
    _check_hosts(shard_index, num_hosts)
    plan = build_plan(
        source,
        record_size=record_size,
        split_fraction=split_fraction,
        split_seed=split_seed,
        skip_bad=skip_bad,
        shard_bytes=shard_bytes,
    )
    missing = storage.missing_parents(records_dir)
    done = Parts(records_dir, plan)
    mine = plan.shards[shard_index::num_hosts]
    try:
        parts.finish(records_dir)
        check_place(records_dir)
        with _overtaken(done):
            made = _write_shards(source, plan, done, mine, worker_count)
            if not _all_there(plan, done, shard_index, num_hosts):
                return None
            others = [shard for shard in plan.shards if shard.name not in made]
            made |= _write_shards(source, plan, done, others, worker_count)
            card = _conclude(source, plan, done, made, skip_bad, missing)
            if not parts.seal(records_dir, card, plan):
                raise parts.taken(records_dir)
    except parts.Overtaken:
        return _adopt(records_dir, source, plan, skip_bad)
    counts = [card.splits[split]["examples"] for split in SPLITS]
    text = "Records: %s: %d train + %d val examples, %d left out"
    log.info(text, records_dir, *counts, len(card.rejected))
    return card


def _check_hosts(shard_index: int, num_hosts: int) -> None:
    if not 0 <= shard_index < num_hosts:
        raise SeamlineError(
            f"--shard_index={shard_index}: --num_hosts={num_hosts} hosts have numbers "
            f"0..{num_hosts - 1}"
        )


def _all_there(plan: Plan, done: Parts, shard_index: int, num_hosts: int) -> bool:
    """Whether all hosts have written their shards; says which have not."""
    lacking = [
        str(number % num_hosts)
        for number, shard in enumerate(plan.shards)
        if done.report(shard) is None
    ]
    if lacking:
        log.info(
            "Host %d of %d is done; %d shards of hosts %s are not there yet, and the "
            "last host done seals",
            *(shard_index, num_hosts, len(lacking)),
            ", ".join(sorted(set(lacking), key=int)),
        )
    for other in done.other_plans() if num_hosts > 1 else []:
        log.info(
            "Note: %s holds parts of a conversion of other files or flags (%s); hosts "
            "that share a conversion must be given the same",
            *(done.folder, other),
        )
    return not lacking


def _conclude(
    source: Source,
    plan: Plan,
    done: Parts,
    made: dict[str, Report],
    skip_bad: bool,
    missing: list[str],
) -> Card:
    found = [made[shard.name] for shard in plan.shards]
    rejected = _rejected(plan, found)
    objection = _objection(plan, found, rejected, skip_bad)
    if objection:
        done.clear()
        storage.remove_empty_folders(missing)
        raise SeamlineError(objection)
    return _card(source, plan, found, rejected)


def check_place(records_dir: str) -> None:
    """Refuses a folder that holds anything but parts of a conversion.

    Raises:
      SeamlineError: names what it holds.
    """
    others = [
        name
        for name in storage.list_files(records_dir)
        if not name.startswith(f"{parts.FOLDER}/")
        and not records.FILE_NAME.fullmatch(name)
    ]
    if cards.CARD_NAME in others:
        raise parts.taken(records_dir)
    if others:
        raise SeamlineError(
            f"--records_dir={records_dir}: holds files but no dataset card "
            f"({others[0]}); empty it or choose another folder"
        )


@contextlib.contextmanager
def _overtaken(done: Parts) -> Iterator[None]:
    """Another conversion that seals takes the folder, and our parts, away."""
    try:
        yield
    except (OSError, SeamlineError):
        done.refuse_if_overtaken()
        raise


def _adopt(records_dir: str, source: Source, plan: Plan, skip_bad: bool) -> Card:
    """The dataset of a conversion that was first, if it is the same."""
    parts.finish(records_dir)
    if not cards.has_card(records_dir):
        raise Unavailable(
            f"--records_dir={records_dir}: another conversion was first and is not "
            "complete yet; run the same command again"
        )
    theirs = cards.read_card(records_dir)
    same = (
        theirs.source["listing"] == source.listing()
        and theirs.record_size == plan.record_size
        and theirs.split == plan.split
        and (skip_bad or not theirs.rejected)
    )
    if not same:
        raise parts.taken(records_dir)
    log.info("Records: %s: another conversion of the same was first", records_dir)
    return theirs


def _write_shards(
    source: Source, plan: Plan, done: Parts, shards: list[Shard], worker_count: int
) -> dict[str, Report]:
    """Makes those of `shards` that are not done and sound; name -> report of all."""
    made = {}
    names = done.begun()
    begun = [shard for shard in shards if shard.name in names]
    bar = progress.Bar("checking what is there", total=len(begun), unit="shards")
    check = functools.partial(done.verified, classes=len(source.labels.names))
    with concurrent.futures.ThreadPoolExecutor(machine.cpu_limit()) as pool:
        for shard, report in zip(begun, pool.map(check, begun), strict=True):
            bar.update(1)
            if report:
                made[shard.name] = report
    bar.close()
    if made:
        log.info("Found done and sound: %d of %d shards", len(made), len(shards))
    todo = [shard for shard in shards if shard.name not in made]
    if todo:
        made |= make_shards(source, plan, done, todo, worker_count=worker_count)
    return made


def _rejected(plan: Plan, reports: list[Report]) -> list[dict[str, str]]:
    """All pairs that cannot be used, by file."""
    rows = [{"file": x.file, "problem": x.problem} for x in plan.left_out]
    rows += [row for report in reports for row in report.rejected]
    return sorted(rows, key=lambda row: row["file"])


def _objection(
    plan: Plan, reports: list[Report], rejected: list[dict[str, str]], skip_bad: bool
) -> str | None:
    """Why there can be no dataset, if so."""
    lines = [f"{row['file']}: {row['problem']}" for row in rejected]
    if len(lines) == 1 and not skip_bad:
        return f"{lines[0]} (or leave it out with --skip_bad)"
    if lines and not skip_bad:
        head = f"{len(lines)} bad pairs; mend them or leave them out with --skip_bad:"
        return "\n  ".join([head, *lines])
    for split, found in _by_split(plan, reports).items():
        if not any(report.row["examples"] for report in found):
            return f"no usable pair is left for the split '{split}'"
    return None


def _by_split(plan: Plan, reports: list[Report]) -> dict[str, list[Report]]:
    found: dict[str, list[Report]] = {split: [] for split in SPLITS}
    for shard, report in zip(plan.shards, reports, strict=True):
        found[shard.split].append(report)
    return found


def _card(
    source: Source, plan: Plan, reports: list[Report], rejected: list[dict[str, str]]
) -> Card:
    of_split = _by_split(plan, reports)
    splits = {
        split: {
            "examples": sum(report.row["examples"] for report in made),
            "shards": [report.row for report in made],
        }
        for split, made in of_split.items()
    }
    classes = [
        {
            "name": name,
            **{
                split: {
                    "images": sum(report.images[label] for report in made),
                    "pixels": sum(report.pixels[label] for report in made),
                }
                for split, made in of_split.items()
            },
        }
        for label, name in enumerate(source.labels.names)
    ]
    sizes = sum(
        (collections.Counter(report.sizes) for report in reports), collections.Counter()
    )
    return Card(
        source={"name": source.name, "listing": source.listing()},
        label_names=source.label_names,
        ignore_label=IGNORE_LABEL,
        labels={"ids": list(source.labels.ids), "ignore": list(source.labels.ignore)},
        record_size=plan.record_size,
        split=plan.split,
        splits=splits,
        classes=classes,
        rejected=rejected,
        sizes=dict(sorted(sizes.items())),
    )
