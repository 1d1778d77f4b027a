"""Indexes of shards: read when needed, proven, a part of them kept."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from tests import numbered
from tests.gcs import Cloud
from tests.gcs_gate import Request
from tests.test_buckets import at_once
from trainer import storage
from trainer.data import card as cards
from trainer.data import examples, images, index, records
from trainer.data.index import Ids, Index, Indexes
from trainer.data.reader import Reader
from trainer.errors import SeamlineError
from trainer.limits import Limits

SHARDS, COUNT = 7, 25


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """25 examples in 7 shards of 4 or 3; not to be changed."""
    made = tmp_path_factory.mktemp("numbered")
    numbered.write(made, COUNT, shards=SHARDS)
    return made


@pytest.fixture
def spoiled(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "records"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the indexes that are read, one after the other."""
    seen: list[str] = []
    real = storage.read_bytes

    def read_bytes(path: str) -> bytes:
        if path.endswith(".index.json"):
            seen.append(Path(path).name)
        return real(path)

    monkeypatch.setattr(storage, "read_bytes", read_bytes)
    return seen


def opened(folder: Path | str) -> Reader:
    return Reader(str(folder), cards.read_card(str(folder)), "train")


def name(number: int) -> str:
    return f"train-{number:05d}-of-{SHARDS:05d}.index.json"


def test_opening_a_split_reads_no_index_until_one_is_needed(
    folder: Path, asked: list[str]
) -> None:
    card = cards.read_card(str(folder))
    none_held = Limits(input_memory_mb=0, input_threads=1, prefetch=1)
    [found] = examples.open_splits(
        str(folder), card, ["train"], image_size=32, limits=none_held
    )
    assert (len(found), len(found.ids), found.working_memory(3) > 0) == (25, 25, True)
    assert asked == []
    assert found.ids[9] == "0009"
    assert asked == [name(2)]
    found.fetch([8, 24, 10])
    assert asked == [name(2), name(6)]


def test_ids_are_a_sequence_of_all_names(folder: Path) -> None:
    ids, expected = opened(folder).ids, [f"{number:04d}" for number in range(COUNT)]
    assert isinstance(ids, Ids)
    assert list(ids) == expected == [ids[number] for number in range(COUNT)]
    assert ids[-1] == "0024"
    assert ids[np.int64(3)] == "0003"
    assert ids[2:20:5] == expected[2:20:5]
    assert ("0013" in ids, "0025" in ids) == (True, False)
    for outside in (COUNT, -COUNT - 1):
        with pytest.raises(IndexError):
            ids[outside]


def test_each_index_is_read_once_though_many_threads_want_it(
    folder: Path, asked: list[str]
) -> None:
    read = opened(folder)
    expected = list(records.read(str(folder), cards.read_card(str(folder)), "train"))

    def check(number: int) -> bool:
        wanted = np.random.default_rng(number).permutation(COUNT)
        return read.read(wanted) == [expected[k] for k in wanted]

    assert at_once(check, count=12) == [True] * 12
    assert sorted(asked) == [name(number) for number in range(SHARDS)]


def test_no_more_indexes_are_kept_than_was_reckoned(
    folder: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Four examples a shard at most: two shards.
    monkeypatch.setattr(index, "_KEPT_EXAMPLES", 11)
    ids = opened(folder).ids
    for number in (0, 5, 1, 6, 9, 5, 10, 0):
        assert ids[number] == f"{number:04d}"
    # Shard 0 made place for shard 2, which was needed later than shard 1.
    assert asked == [name(0), name(1), name(2), name(0)]


def test_where_records_lie_is_known_in_any_order_and_past_empty_shards(
    folder: Path,
) -> None:
    rows = cards.read_card(str(folder)).splits["train"]["shards"]
    empty = {"name": "none", "examples": 0, "longest": 0}
    found = Indexes(str(folder), [empty, rows[0], empty, empty, *rows[1:], empty])
    place, expected = {0: 1, **{k: k + 3 for k in range(1, SHARDS)}}, []
    for number, row in enumerate(rows):
        offset = 0
        for length in numbered.index_of(folder, row).lengths:
            expected.append((place[number], offset, length))
            offset += length + 16
    wanted = np.random.default_rng(0).integers(0, COUNT, 100)
    located = zip(*(x.tolist() for x in found.locate(wanted)), strict=True)
    assert list(located) == [expected[k] for k in wanted]


def test_sets_of_labels_are_those_that_numpy_counts_in_the_masks(
    records_dir: Path,
) -> None:
    card = cards.read_card(str(records_dir))
    for split in ("train", "val"):
        counted = [
            np.bincount(images.decode_mask(record.mask).ravel(), minlength=256) > 0
            for record in records.read(str(records_dir), card, split)
        ]
        found = examples.streamed(str(records_dir), card, split, image_size=32)
        np.testing.assert_array_equal(found.label_sets(), np.stack(counted)[:, :59])
        roomy = Limits(input_memory_mb=100, input_threads=2, prefetch=1)
        [held] = examples.open_splits(
            str(records_dir), card, [split], image_size=32, limits=roomy
        )
        np.testing.assert_array_equal(held.label_sets(), found.label_sets())


def test_sets_of_labels_come_in_the_order_of_the_shards(folder: Path) -> None:
    sets = opened(folder).indexes.label_sets(COUNT)
    np.testing.assert_array_equal(sets, np.eye(COUNT, dtype=bool))


def test_an_index_survives_its_way_through_a_file(tmp_path: Path) -> None:
    made = Index(['a "b"', "ü/1"], ["0", "3f"], [10, 7])
    checks = {"name": "x.tfrecord", "examples": 2, "bytes": 49, "longest": 10}
    numbered.rewrite_index(tmp_path, checks, made)
    assert index.read_index(str(tmp_path), checks) == made
    assert (tmp_path / "x.index.json").read_bytes() == made.to_bytes()


def test_a_damaged_missing_or_foreign_index_is_one_line_that_names_it(
    spoiled: Path,
) -> None:
    path, other = spoiled / name(3), spoiled / name(4)
    card = cards.read_card(str(spoiled))
    content = path.read_bytes()
    altered = f"{path}: contents differ from the card's checksum; convert again"

    def said() -> str:
        with pytest.raises(SeamlineError) as refused:
            Reader(str(spoiled), card, "train").read([3, 14])
        return str(refused.value)

    for changed in (content[:-1], b"\x00" + content[1:], other.read_bytes()):
        path.write_bytes(changed)
        assert said() == altered
    opened_anew = Reader(str(spoiled), card, "train")
    with pytest.raises(SeamlineError) as refused:
        opened_anew.indexes.label_sets(COUNT)
    assert str(refused.value) == altered
    # The others are sound all the same.
    assert [x.image_id for x in opened_anew.read([3, 24])] == ["0003", "0024"]
    path.unlink()
    assert said() == f"{path}: this index is missing; convert again"
    path.mkdir()
    assert said().startswith(f"{path}: cannot be read (Is a directory); mend the disk")


def test_indexes_of_a_bucket_are_read_at_the_same_time_and_once(
    cloud: Cloud, folder: Path, bucket: str
) -> None:
    for path in folder.iterdir():
        storage.write_bytes(f"{bucket}/records/{path.name}", path.read_bytes())
    read = opened(f"{bucket}/records")
    all_there = threading.Barrier(4)

    def hold(request: Request) -> None:
        if ".index.json" in request.path:
            all_there.wait(timeout=60)

    wanted = [24, 9, 5, 1]
    with cloud.watching(hold) as requests:
        found = list(read.stream(wanted))
    assert [x.image_id for x in found] == [f"{k:04d}" for k in wanted]
    assert sum(".index.json" in x.path for x in requests) == 4
    sets = read.indexes.label_sets(COUNT)
    np.testing.assert_array_equal(sets, np.eye(COUNT, dtype=bool))
