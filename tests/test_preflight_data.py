"""Records, datasets to convert and the memory for them are looked at."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.gcs import Cloud
from tests.preflight import ask, empty_place, files, row  # noqa: F401
from trainer import machine, storage
from trainer.checks.table import Verdict


def test_sound_records_are_told_with_their_sizes(records_dir: Path) -> None:
    table = ask(data={"records_dir": str(records_dir)})
    found = row(table, "records")
    assert found.verdict is Verdict.OK
    assert found.found.startswith(f"{records_dir}: 11 train + 3 val examples, ")
    assert row(table, "dataset").verdict is Verdict.UNCHECKED
    assert table.exit_code == 0


@pytest.mark.parametrize("spoil", ["card", "size", "byte", "missing", "index"])
def test_records_that_are_damaged_fail(
    spoil: str, records_dir: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(records_dir, tmp_path / "spoiled"))
    [shard] = folder.glob("val-*.tfrecord")
    content = bytearray(shard.read_bytes())
    if spoil == "card":
        text = (folder / "card.json").read_text()
        (folder / "card.json").write_text(text.replace("skin", "kins"))
    elif spoil == "size":
        shard.write_bytes(content[:-1])
    elif spoil == "byte":
        content[40] ^= 1
        shard.write_bytes(content)
    elif spoil == "index":
        [index] = folder.glob("val-*.index.json")
        index.write_bytes(index.read_bytes().replace(b"[", b"(", 1))
    else:
        shard.unlink()
    table = ask(data={"records_dir": str(folder)})
    assert table.exit_code == 42
    [found] = [row for row in table.rows if row.verdict is Verdict.FAIL]
    assert found.check in ("dataset", "records")
    assert found.found.startswith(f"{folder}/{'card' if spoil == 'card' else 'val'}")


def test_a_dataset_to_convert_is_counted_and_a_pair_of_it_read(
    drawn: Path, dataset: Path, work: Path
) -> None:
    table = ask(data={"dataset": str(drawn)})
    assert row(table, "dataset").found.startswith("figures: 14 pairs to convert")
    assert row(table, "records").verdict is Verdict.UNCHECKED
    assert table.exit_code == 0
    for mask in (dataset / "annotations" / "pixel-level").iterdir():
        mask.write_bytes(b"")
    table = ask(data={"dataset": str(dataset)})
    assert row(table, "dataset").verdict is Verdict.FAIL
    assert "0001.mat: is empty" in row(table, "dataset").found
    table = ask(data={"dataset": str(dataset), "skip_bad": True})
    assert row(table, "dataset").verdict is Verdict.NOTE
    assert files(work) == []


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ({"dataset": "/nowhere"}, "--dataset=/nowhere: no such folder"),
        ({"split_fraction": 0.0}, "--split_fraction=0.0: 14 examples give 0"),
        ({"records_dir": "full"}, "--records_dir=full: holds files but no dataset"),
    ],
)
def test_what_a_conversion_refuses_fails(
    data: dict[str, Any], found: str, drawn: Path, work: Path
) -> None:
    (work / "full").mkdir()
    (work / "full" / "letter.txt").write_text("mine")
    table = ask(data={"dataset": str(drawn), **data})
    assert row(table, "dataset").verdict is Verdict.FAIL
    assert row(table, "dataset").found.startswith(found)
    assert files(work) == [str(work / "full"), str(work / "full" / "letter.txt")]


def test_records_of_another_dataset_fail(records_dir: Path, dataset: Path) -> None:
    (dataset / "photos" / "0001.jpg").unlink()
    (dataset / "annotations" / "pixel-level" / "0001.mat").unlink()
    data = {"dataset": str(dataset), "records_dir": str(records_dir)}
    found = row(ask(data=data), "dataset")
    assert found.verdict is Verdict.FAIL
    assert "whose files are not those of" in found.found


def test_a_download_that_cannot_begin_may_be_tried_again() -> None:
    table = ask(data={"dataset": "ccp"})
    assert row(table, "dataset").verdict is Verdict.RETRY
    assert table.exit_code == 75
    assert row(ask(data={"dataset": "auto"}), "dataset").verdict is Verdict.UNCHECKED
    drawn_first = row(ask(data={"dataset": "sample"}), "dataset")
    assert drawn_first.found == "--dataset=sample: would be drawn first"


def test_records_in_a_bucket_are_read(
    cloud: Cloud, bucket: str, records_dir: Path
) -> None:
    del cloud
    for name in storage.list_files(str(records_dir)):
        content = (records_dir / name).read_bytes()
        storage.write_bytes(f"{bucket}/r/{name}", content)
    table = ask(data={"records_dir": f"{bucket}/r"})
    assert row(table, "records").verdict is Verdict.OK
    [shard] = records_dir.glob("train-*.tfrecord")
    storage.write_bytes(f"{bucket}/r/{shard.name}", shard.read_bytes()[:-9])
    assert row(ask(data={"records_dir": f"{bucket}/r"}), "dataset").verdict is (
        Verdict.FAIL
    )


def test_memory_is_what_the_input_reckons_with(
    records_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {"records_dir": str(records_dir)}
    assert row(ask(data=data), "memory").verdict is Verdict.OK
    monkeypatch.setattr(machine, "own_memory", lambda: 300 << 20)
    monkeypatch.setattr(machine, "memory_limit", lambda: 400 << 20)
    monkeypatch.setattr(machine, "memory_source", lambda: machine.CONTAINER)
    # Batches of 1,024 · 1,024 pixels: 14 examples take 56 MB, so that each pipeline has
    # 122 MB. Two batches wait in 26 MB; two of 36 MB may be made at once, one must be.
    large = {"image_size": 1024, "batch_size": 1}
    use = {"input_memory_mb": 300, "input_threads": 3, "prefetch": 2}
    found = row(ask(large, data, input_limits=use), "memory")
    assert found.verdict is Verdict.FAIL
    assert "limit 400 MB (container limit (cgroup))" in found.found
    monkeypatch.setattr(machine, "own_memory", lambda: 200 << 20)
    monkeypatch.setattr(machine, "memory_limit", lambda: 420 << 20)
    assert row(ask(large, data, input_limits=use), "memory").verdict is Verdict.NOTE
    monkeypatch.setattr(machine, "memory_limit", lambda: 900 << 20)
    assert row(ask(large, data, input_limits=use), "memory").verdict is Verdict.OK
    many = row(ask(data=data, input_limits={"input_memory_mb": 9000}), "memory")
    assert many.found.startswith("--input_memory_mb=9000: this process may use 900 MB")
