"""Conversions cut at every step, shared by hosts, and racing each other."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.test_conversion import content, convert, spoil
from trainer.data import card as cards
from trainer.data import (
    conversion,
    encoding,
    index,
    parts,
    records,
    sources,
    verification,
)
from trainer.data.preparation import NEW_RECORDS
from trainer.errors import SeamlineError


class Crash(BaseException):
    """Stands for a process that ends at once."""


def crash_before(
    monkeypatch: pytest.MonkeyPatch, place: object, name: str, which: int
) -> None:
    """Lets the call number `which` of a function never happen."""
    real: Callable = getattr(place, name)
    calls = []

    def planned(*values: object, **named: object) -> object:
        calls.append(values)
        if len(calls) == which:
            raise Crash
        return real(*values, **named)

    monkeypatch.setattr(place, name, planned)


STEPS = [
    *(("put", 1), ("put", 3), ("upload", 1), ("upload", 2), ("upload", 5)),
    *(("create", 1), ("create", 4), ("create", 5)),
    *(("move", 1), ("move", 2), ("move", 5), ("create", 6), ("remove_folder", 1)),
]
"""Where a conversion of four shards is cut: taking a shard in, the shard or its index,
its report, the seal, moving shards and indexes, the card, removing what is left."""


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step[0]}-{step[1]}")
def test_a_conversion_cut_at_any_step_is_finished_by_the_same_call(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: tuple[str, int]
) -> None:
    values = {"record_size": 0, "shard_bytes": 80_000}
    convert(drawn, tmp_path / "whole", **values)
    assert len(os.listdir(tmp_path / "whole")) == 9
    name, which = step
    with monkeypatch.context() as patched:
        place = parts.Parts if name == "put" else parts.storage
        crash_before(patched, place, name, which)
        with pytest.raises(Crash):
            convert(drawn, tmp_path / "r", **values)
    card_there = (tmp_path / "r" / "card.json").exists()
    if card_there:
        verification.verify(str(tmp_path / "r"))
        parts.finish(str(tmp_path / "r"))
    else:
        # Not even a reader who insists sees half a dataset.
        with pytest.raises(SeamlineError, match="not a complete dataset"):
            cards.read_card(str(tmp_path / "r"))
        parts.finish(str(tmp_path / "r"))
        if not (tmp_path / "r" / "card.json").exists():
            convert(drawn, tmp_path / "r", **values)
    assert card_there == (step == ("remove_folder", 1))
    assert content(tmp_path / "r") == content(tmp_path / "whole")


def test_shards_that_are_done_are_not_made_again(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"record_size": 0, "shard_bytes": 80_000}
    with monkeypatch.context() as patched:
        crash_before(patched, parts.Parts, "put", 4)
        with pytest.raises(Crash):
            convert(drawn, tmp_path / "r", **values)
    written = []
    real = records.write_shard
    monkeypatch.setattr(
        records,
        "write_shard",
        lambda path, examples: written.append(path) or real(path, examples),
    )
    convert(drawn, tmp_path / "r", **values)
    assert len(written) == 1


def test_a_finished_shard_that_was_damaged_meanwhile_is_made_again(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"record_size": 0, "shard_bytes": 80_000}
    convert(drawn, tmp_path / "whole", **values)
    with monkeypatch.context() as patched:
        crash_before(patched, parts.Parts, "put", 4)
        with pytest.raises(Crash):
            convert(drawn, tmp_path / "r", **values)
    [first, second, third] = sorted((tmp_path / "r" / ".parts").rglob("*.tfrecord"))
    damaged = bytearray(first.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    first.write_bytes(damaged)
    second.unlink()
    report = third.with_name(third.name + ".json")
    report.write_text(
        report.read_text().replace('\\"examples\\": ', '\\"examples\\":  ')
    )
    convert(drawn, tmp_path / "r", **values)
    assert content(tmp_path / "r") == content(tmp_path / "whole")


def test_a_seal_whose_shards_were_lost_is_taken_back(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        crash_before(patched, parts.storage, "move", 1)
        with pytest.raises(Crash):
            convert(drawn, tmp_path / "r")
    for shard in (tmp_path / "r" / ".parts").rglob("*.tfrecord"):
        shard.unlink()
    with pytest.raises(SeamlineError, match="run the same command again"):
        convert(drawn, tmp_path / "r")
    convert(drawn, tmp_path / "r")
    verification.verify(str(tmp_path / "r"))


def test_hosts_share_a_conversion_and_the_last_one_seals(
    drawn: Path, tmp_path: Path
) -> None:
    values = {"record_size": 0, "shard_bytes": 80_000}
    convert(drawn, tmp_path / "alone", **values)
    source = sources.open_folder(str(drawn), name="x")
    for host in (2, 0):
        card = conversion.convert(
            source,
            str(tmp_path / "r"),
            **{**NEW_RECORDS, **values},
            shard_index=host,
            num_hosts=3,
        )
        assert card is None
        assert not (tmp_path / "r" / "card.json").exists()
    convert(drawn, tmp_path / "r", **values, shard_index=1, num_hosts=3)
    assert content(tmp_path / "r") == content(tmp_path / "alone")


_count_pixels, _add = encoding.count_pixels, verification.Count.add

WRONG: dict[str, tuple[Any, str, Callable]] = {
    "classes": (
        encoding,
        "count_pixels",
        lambda mask, classes: np.ones(classes, np.int64),
    ),
    "pixels": (
        encoding,
        "count_pixels",
        lambda mask, classes: 2 * _count_pixels(mask, classes),
    ),
    "labels": (index, "pack_labels", lambda pixels: "1"),
    "lengths": (
        verification.Count,
        "add",
        lambda count, x, pixels, n: _add(count, x, pixels, n + 1),
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_host_does_not_trust_anothers_shard(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    values = {"record_size": 0, "shard_bytes": 80_000}
    convert(drawn, tmp_path / "alone", **values)
    source = sources.open_folder(str(drawn), name="x")
    hosts = {**NEW_RECORDS, **values, "num_hosts": 2}
    with monkeypatch.context() as patched:
        # A host that counts wrongly: bytes and checksums fit, what it reports does not.
        patched.setattr(*WRONG[wrong])
        conversion.convert(source, str(tmp_path / "r"), **hosts, shard_index=0)
    conversion.convert(source, str(tmp_path / "r"), **hosts, shard_index=1)
    assert content(tmp_path / "r") == content(tmp_path / "alone")


def test_the_bad_pairs_of_all_hosts_are_listed_by_the_last_one(
    dataset: Path, tmp_path: Path
) -> None:
    for image_id in ("0001", "0013"):
        spoil(dataset, image_id, 77)
    source = sources.open_folder(str(dataset), name="x")
    values = {**NEW_RECORDS, "record_size": 0, "shard_bytes": 80_000, "num_hosts": 2}
    assert conversion.convert(source, str(tmp_path / "r"), **values) is None
    with pytest.raises(SeamlineError, match=r"2 bad pairs(.|\n)*0001(.|\n)*0013"):
        conversion.convert(source, str(tmp_path / "r"), **values, shard_index=1)
    assert not (tmp_path / "r").exists() or os.listdir(tmp_path / "r") == []


def test_a_host_number_outside_the_hosts_is_refused(
    drawn: Path, tmp_path: Path
) -> None:
    with pytest.raises(SeamlineError, match=r"--shard_index=2: --num_hosts=2"):
        convert(drawn, tmp_path / "r", shard_index=2, num_hosts=2)


@pytest.mark.parametrize("same", [True, False])
def test_of_two_conversions_into_one_place_the_first_to_seal_wins(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    real = parts.seal
    rival = {} if same else {"record_size": 64}

    def seal_late(*values: object) -> bool:
        monkeypatch.setattr(parts, "seal", real)
        convert(drawn, tmp_path / "r", **rival)
        return real(*values)

    monkeypatch.setattr(parts, "seal", seal_late)
    if same:
        card = convert(drawn, tmp_path / "r")
        assert card.record_size == 256
    else:
        with pytest.raises(SeamlineError, match="another conversion was first"):
            convert(drawn, tmp_path / "r")
    assert verification.verify(str(tmp_path / "r")).record_size == (256 if same else 64)
    assert len(os.listdir(tmp_path / "r")) == 5


def test_a_conversion_that_is_overtaken_ends_before_its_next_shard(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = parts.Parts.put

    def put_late(*values: object) -> None:
        monkeypatch.setattr(parts.Parts, "put", real)
        convert(drawn, tmp_path / "r", record_size=64)
        real(*values)

    monkeypatch.setattr(parts.Parts, "put", put_late)
    with pytest.raises(SeamlineError, match="another conversion was first"):
        convert(drawn, tmp_path / "r", record_size=0, shard_bytes=80_000)
    assert verification.verify(str(tmp_path / "r")).record_size == 64
    assert len(os.listdir(tmp_path / "r")) == 5


@pytest.mark.parametrize("same", [True, False])
def test_overtaken_in_the_middle_of_a_shard_it_says_so_or_takes_the_same(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    real = records.serialize
    values = {"record_size": 0, "shard_bytes": 80_000}
    rival = values if same else {"record_size": 64}

    def serialize_late(encoded: object) -> bytes:
        monkeypatch.setattr(records, "serialize", real)
        convert(drawn, tmp_path / "r", **rival)
        return real(encoded)

    monkeypatch.setattr(records, "serialize", serialize_late)
    if same:
        convert(drawn, tmp_path / "r", **values)
    else:
        with pytest.raises(SeamlineError, match="another conversion was first"):
            convert(drawn, tmp_path / "r", **values)
    assert verification.verify(str(tmp_path / "r")).record_size == (0 if same else 64)
    assert ".parts" not in os.listdir(tmp_path / "r")


def test_a_host_that_comes_late_finds_the_same_dataset(
    drawn: Path, tmp_path: Path
) -> None:
    first = convert(drawn, tmp_path / "r")
    assert convert(drawn, tmp_path / "r", num_hosts=2, shard_index=1) == first
    with pytest.raises(SeamlineError, match="another conversion was first"):
        convert(drawn, tmp_path / "r", record_size=64)


def test_a_conversion_that_refuses_leaves_that_of_another_flag_alone(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(dataset, "0002", 77)
    real = parts.Parts.put

    def put_late(*values: object) -> None:
        monkeypatch.setattr(parts.Parts, "put", real)
        with pytest.raises(SeamlineError, match="label 77"):
            convert(dataset, tmp_path / "r")
        real(*values)

    monkeypatch.setattr(parts.Parts, "put", put_late)
    convert(dataset, tmp_path / "r", skip_bad=True)
    assert len(verification.verify(str(tmp_path / "r")).rejected) == 1


def test_a_shard_that_could_not_be_finished_is_removed(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(encoded: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(records, "serialize", stopped)
    with pytest.raises(KeyboardInterrupt):
        convert(drawn, tmp_path / "r")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_without_hard_links_one_alone_creates_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*unused: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    path = str(tmp_path / "seal.json")
    assert parts.storage.create(path, b"one")
    assert not parts.storage.create(path, b"two")
    assert parts.storage.read_bytes(path) == b"one"


def test_hosts_that_were_given_other_flags_are_told(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(
        conversion.log, "info", lambda text, *values: said.append(text % values)
    )
    source = sources.open_folder(str(drawn), name="x")
    for host, size in ((0, 128), (1, 256)):
        values = {**NEW_RECORDS, "record_size": size, "num_hosts": 2}
        place = str(tmp_path / "r")
        assert conversion.convert(source, place, **values, shard_index=host) is None
    assert any("1 shards of hosts 0 are not there yet" in line for line in said)
    assert any("conversion of other files or flags" in line for line in said)
