"""The tables of docs/scale.md follow from the figures that it gives."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from trainer.data.plan import SHARD_BYTES

PAGE = (Path(__file__).parent.parent / "docs" / "scale.md").read_text()
UNITS = {"MB": 1e6, "GB": 1e9, "TB": 1e12, "s": 1, "min": 60, "h": 3600, "": 1}


def number(text: str) -> float:
    """ "2.6 GB/s" -> 2.6e9, "10^6" -> 1e6, "1.6 h" -> 5760."""
    if power := re.fullmatch(r"10\^(\d)", text):
        return 10.0 ** int(power[1])
    found = re.match(r"([\d.,]+) ?(MB|GB|TB|min|h|s|)", text)
    assert found, text
    return float(found[1].replace(",", "")) * UNITS[found[2]]


def figure(name: str) -> float:
    [row] = [x for x in PAGE.splitlines() if x.startswith(f"| {name}")]
    return number(row.split("|")[2].strip())


def table(heading: str) -> list[list[float]]:
    part = PAGE.split(f"## {heading}")[1].split("\n## ")[0]
    rows = [x.strip("| ").split(" | ") for x in part.splitlines() if x.startswith("|")]
    return [[number(x) for x in row] for row in rows[2:]]


STREAMED = figure("streamed")
HELD = figure("the same from memory")
CONVERTED = figure("conversion")
RECORD = figure("bytes of a record (")
INDEX = figure("bytes of a record's line")
CARD = figure("bytes of a shard's line")
EXAMPLE = figure("bytes of an example held")
ALONE, AMONG_OTHERS = figure("one GPU"), figure("each of several")


def test_what_gpus_need_is_multiplied_rightly() -> None:
    rows = table("What GPUs need")
    assert [row[0] for row in rows] == [1, 8, 64, 512]
    for gpus, *found in rows:
        rate = gpus * (ALONE if gpus == 1 else AMONG_OTHERS)
        expected = [rate, rate / STREAMED, rate / HELD, rate * RECORD]
        expected += [1e6 / rate, 1e8 / rate]
        assert found == pytest.approx(expected, rel=0.04)


def test_what_records_take_is_multiplied_rightly() -> None:
    rows = table("What records take")
    assert [row[0] for row in rows] == [1e6, 1e8]
    for examples, *found in rows:
        size = examples * RECORD
        shards = size / SHARD_BYTES
        expected = [size, shards, shards * CARD, examples * INDEX, examples * EXAMPLE]
        expected += [size / 1e9, examples / CONVERTED / 64]
        assert found == pytest.approx(expected, rel=0.04)
