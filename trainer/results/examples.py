"""Which examples a person should see before training: random ones and rare classes.

Finding a rare class means decoding masks, so only as many are looked at as needed, and
of large datasets only the first of every shard.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator

import cv2
import numpy as np

from trainer.data import records
from trainer.data.card import Card
from trainer.data.images import decode_mask
from trainer.data.plan import SPLITS
from trainer.data.records import Record
from trainer.results.balance import by_share

MOST_LOOKED_AT = 3000
"""About as many examples are read of a large dataset: seconds."""
_LEAST_DECODED = 40
"""Masks of a split at least, or one crowded example would stand for many classes."""
_THREADS = 2


@dataclasses.dataclass(frozen=True)
class Example:
    """A record to draw: its split and, for a rare class, that label."""

    record: Record
    split: str
    label: int | None = None


@dataclasses.dataclass(frozen=True)
class Part:
    """The first records of one shard: what is looked at of it."""

    split: str
    shard: dict
    count: int


def plan_parts(card: Card, most: int = MOST_LOOKED_AT) -> list[Part]:
    """What to look at: everything, or an equal share of every shard, `most` or so."""
    examples = sum(card.splits[split]["examples"] for split in SPLITS)
    share = min(1.0, most / max(examples, 1))
    parts = []
    for split in SPLITS:
        for shard in card.splits[split]["shards"]:
            count = math.ceil(shard["examples"] * share)
            parts.append(Part(split, shard, count))
    return parts


def pick_random(parts: list[Part], count: int, seed: int = 0) -> list[int]:
    """Up to `count` different examples, as numbers in all parts together; rising."""
    every = sum(part.count for part in parts)
    return sorted(np.random.RandomState(seed).permutation(every)[:count].tolist())


def rarest(card: Card, most: int) -> list[int]:
    """Up to `most` labels, the fewest pixels first, of the rarer half that occurs.

    At least one, where any class occurs.
    """
    known = [
        label
        for label in reversed(by_share(card))
        if any(card.classes[label][split]["pixels"] for split in SPLITS)
    ]
    return known[: min(most, math.ceil(len(known) / 2))]


def count_labels(mask: bytes) -> list[int]:
    """Pixels of each of 256 labels in an encoded mask."""
    # A quarter of the time of numpy.bincount, which first widens the mask to int64.
    counts = cv2.calcHist([decode_mask(mask)], [0], None, [256], [0, 256])
    return counts.ravel().astype(int).tolist()


def find_examples(
    records_dir: str,
    card: Card,
    parts: list[Part],
    numbers: Iterable[int],
    labels: list[int],
) -> tuple[list[Example], list[Example]]:
    """Reads the examples with these numbers, and one for each of these labels.

    Records are read until all are found. Of the masks looked at until then, the one
    with the most pixels of a label stands for it.

    Returns:
      (with these numbers, for these labels); labels that were not found are left out.
    """
    wanted, chosen, start = set(numbers), [], 0
    best: dict[int, tuple[int, Example]] = {}
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        for part in parts:
            # Classes that occur elsewhere only need no look at the masks of this split.
            here = [x for x in labels if card.classes[x][part.split]["pixels"]]
            missing = {x for x in here if x not in best}
            ahead = {x - start for x in wanted if start <= x < start + part.count}
            start += part.count
            if not missing and not ahead:
                continue
            rows = _counted(_read(records_dir, card, part), pool, missing)
            for place, (record, counts) in enumerate(rows):
                if place in ahead:
                    ahead.remove(place)
                    chosen.append(Example(record, part.split))
                for label in here if counts else ():
                    if counts[label] > (best[label][0] if label in best else 0):
                        found = Example(record, part.split, label)
                        best[label] = (counts[label], found)
                        missing.discard(label)
                if not missing and not ahead and place >= _LEAST_DECODED:
                    break
    return chosen, [best[label][1] for label in labels if label in best]


def _read(records_dir: str, card: Card, part: Part) -> Iterator[Record]:
    """The records of one part."""
    only = {part.split: {**card.splits[part.split], "shards": [part.shard]}}
    rows = records.read(records_dir, dataclasses.replace(card, splits=only), part.split)
    return itertools.islice(rows, part.count)


def _counted(
    rows: Iterator[Record], pool: concurrent.futures.Executor, missing: set[int]
) -> Iterator[tuple[Record, list[int]]]:
    """Records with the pixels of each label, in order; decodes beside the reading.

    Once nothing is `missing` any more, masks stay undecoded, without counts.
    """
    waiting: collections.deque[tuple[Record, concurrent.futures.Future | None]]
    waiting = collections.deque()
    for place, row in enumerate(rows):
        # Decided here, not in the threads, whose order is another every time.
        decode = missing or place < _LEAST_DECODED
        waiting.append((row, pool.submit(count_labels, row.mask) if decode else None))
        if len(waiting) > 4 * _THREADS:
            yield _result(*waiting.popleft())
    while waiting:
        yield _result(*waiting.popleft())


def _result(
    record: Record, counted: concurrent.futures.Future | None
) -> tuple[Record, list[int]]:
    return record, counted.result() if counted else []
