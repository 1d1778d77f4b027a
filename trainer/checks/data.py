"""The dataset, its records, and the memory that their input takes."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np

from trainer import limits, machine
from trainer.checks.table import Table, Verdict
from trainer.data import augment, examples, inputs, preparation
from trainer.data.card import Card
from trainer.data.examples import Examples
from trainer.data.inputs import Share
from trainer.data.pairs import BadSample
from trainer.data.preparation import Outlook
from trainer.data.reader import Reader
from trainer.recipes import Recipe

_MB = 1 << 20


def check_data(table: Table, data: dict[str, Any]) -> Outlook:
    """The records that are there, or the dataset that they would be made from.

    Args:
      table: gets two rows.
      data: keyword arguments of `preparation.prepare`.

    Returns:
      What was found.
    """
    outlook = Outlook(data["records_dir"], None, None)
    with table.checking("dataset"):
        outlook = preparation.look(**data)
        skip_bad = data.get("skip_bad", False)
        table.add("dataset", *_describe(outlook, data["dataset"], skip_bad))
    card, place = outlook.card, outlook.records_dir
    if card is None or place is None:
        why = "there are none yet; training makes them first"
        if table.rows[-1].verdict in (Verdict.FAIL, Verdict.RETRY):
            why = "the row above comes first"
        table.add("records", Verdict.UNCHECKED, why)
        return outlook
    with table.checking("records"):
        for split in card.splits:
            _read_firsts(place, card, split)
        counts = [f"{part['examples']} {x}" for x, part in card.splits.items()]
        size = sum(row["bytes"] for row in card.shards) / _MB
        table.add(
            "records",
            Verdict.OK,
            f"{place}: {' + '.join(counts)} examples, {size:.1f} MB in "
            f"{len(card.shards)} shards; sizes right, the first record of each sound",
        )
    return outlook


def _describe(outlook: Outlook, dataset: str, skip_bad: bool) -> tuple[Verdict, str]:
    """What the dataset is; its first pair is read where it is to be converted."""
    source, card = outlook.source, outlook.card
    if source is None and card is not None:
        name = card.source["name"]
        why = f"the records, made from '{name}', are taken without it"
        if dataset == "sample":
            why = "the sample would be drawn first; then the records are compared"
        return Verdict.UNCHECKED, why
    if source is None:
        where = "downloaded" if dataset == "ccp" else "drawn"
        where = "downloaded, or else the sample drawn" if dataset == "auto" else where
        return Verdict.UNCHECKED, f"--dataset={dataset}: would be {where} first"
    found = f"{source.name}: {len(source.files)} pairs"
    if card is not None:
        return Verdict.OK, f"{found}, those that the records were made from"
    try:
        source.read(next(iter(source.files)))
    except BadSample as error:
        if skip_bad:
            return Verdict.NOTE, f"{found} to convert. Left out: {error}"
        return Verdict.FAIL, f"{error}; or leave bad pairs out with --skip_bad"
    return Verdict.OK, f"{found} to convert, the first one sound; all are checked then"


def _read_firsts(records_dir: str, card: Card, split: str) -> None:
    """Reads the first record of each shard, with its checksums."""
    counts = [row["examples"] for row in card.splits[split]["shards"]]
    starts = itertools.accumulate(counts[:-1], initial=0)
    firsts = [start for start, count in zip(starts, counts, strict=True) if count]
    for _ in Reader(records_dir, card, split).stream(firsts):
        pass


def check_memory(
    table: Table,
    recipe: Recipe,
    outlook: Outlook,
    share: Share,
    input_limits: dict[str, int],
) -> None:
    """Examples and batches beside what this process takes already, within the limit."""
    with table.checking("memory"):
        use = limits.settle(**input_limits)
        card, place = outlook.card, outlook.records_dir
        if card is None or place is None:
            table.add("memory", Verdict.UNCHECKED, f"needs the records; {_limit()}")
            return
        size = recipe.image_size
        plan = examples.plan_memory(card, ("val", "train"), image_size=size, limits=use)
        held = sum(needed for needed, kept in plan.values() if kept)
        left = use.left(held, parts=len(plan))
        alone = dataclasses.replace(left, input_threads=1)
        pipelines = least = 0
        for split, policy in (("val", "none"), ("train", recipe.augment)):
            found = examples.streamed(place, card, split, image_size=size)
            if plan[split][1]:
                found = _in_memory(size)
            rows = recipe.batch_size // share.pieces
            reckoned = inputs.cost(found, rows, augment.find(policy))
            pipelines += inputs.footprint(reckoned, left, share.local)
            least += inputs.footprint(reckoned, alone, share.local)
        table.add("memory", *_weigh(held, pipelines, least))


def _in_memory(size: int) -> Examples:
    """Examples of which fetching takes nothing, to reckon with; there are none."""
    images = np.empty((0, size, size, 3), np.uint8)
    return examples.in_memory([], images, images[..., 0])


def _weigh(held: int, pipelines: int, least: int) -> tuple[Verdict, str]:
    """Whether it fits.

    Args:
      held: bytes of the examples that stay in memory.
      pipelines: bytes of all batches in the making and waiting, of both pipelines.
      least: the same with one batch at a time in the making.
    """
    own, allowed = machine.own_memory(), machine.memory_limit()
    told = (
        f"TensorFlow {own // _MB} MB + examples {held // _MB} MB + batches "
        f"{pipelines // _MB} MB; {_limit()}; weights and activations not reckoned"
    )
    fix = "give more memory, or a smaller --batch_size or --image_size"
    if own + held + least > allowed:
        return Verdict.FAIL, f"{told}; {fix}"
    if own + held + pipelines > allowed:
        return Verdict.NOTE, f"{told}; close to the limit: {fix}"
    return Verdict.OK, told


def _limit() -> str:
    return f"limit {machine.memory_limit() // _MB} MB ({machine.memory_source()})"
