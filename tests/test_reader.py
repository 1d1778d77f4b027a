"""Random access to records; TensorFlow's own reader is the oracle."""

from __future__ import annotations

import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests import numbered
from tests.gcs import Cloud
from tests.gcs_gate import Request
from tests.test_buckets import at_once
from trainer import storage
from trainer.data import card as cards
from trainer.data import conversion, reader, records, sources
from trainer.data.preparation import NEW_RECORDS
from trainer.data.reader import Reader
from trainer.errors import SeamlineError, Unavailable
from trainer.storage import bucket_client

VALUES = {**NEW_RECORDS, "record_size": 16, "split_fraction": 0.5}


@pytest.fixture(scope="module")
def sharded(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`drawn` as tiny records, 7 in 3 shards of both splits; not to be changed."""
    folder = tmp_path_factory.mktemp("sharded") / "records"
    source = sources.open_folder(str(drawn), name="drawn")
    card = conversion.convert(source, str(folder), **VALUES, shard_bytes=2_500)
    assert card is not None
    for split in ("train", "val"):
        counts = [row["examples"] for row in card.splits[split]["shards"]]
        assert counts == [2, 2, 3]
    return folder


@pytest.fixture
def spoiled(sharded: Path, tmp_path: Path) -> Path:
    """A copy of `sharded` to spoil."""
    return Path(shutil.copytree(sharded, tmp_path / "records"))


@pytest.fixture
def uploaded(sharded: Path, bucket: str) -> str:
    """A copy of `sharded` in a bucket."""
    for path in sharded.iterdir():
        storage.write_bytes(f"{bucket}/records/{path.name}", path.read_bytes())
    return f"{bucket}/records"


def opened(folder: Path | str, split: str = "train") -> Reader:
    return Reader(str(folder), cards.read_card_alone(str(folder)), split)


def oracle(folder: Path, split: str = "train") -> list[records.Record]:
    """All records of a split, read by TensorFlow."""
    return list(records.read(str(folder), cards.read_card(str(folder)), split))


def lengths_of(folder: Path, number: int) -> list[int]:
    """Bytes of the payloads in a shard of `train`."""
    rows = cards.read_card_alone(str(folder)).splits["train"]["shards"]
    return numbered.index_of(folder, rows[number]).lengths


def id_of(folder: Path, position: int) -> str:
    """Name of a training example."""
    return opened(folder).ids[position]


def last_shard(folder: Path) -> Path:
    """The shard of records 4, 5 and 6 of `train`."""
    return folder / "train-00002-of-00003.tfrecord"


def watch_ranges(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """Collects (name, offset, length) of what is read from now on."""
    seen = []
    real = storage.read_range

    def read_range(path: str, offset: int, length: int) -> bytes:
        seen.append((Path(path).name, offset, length))
        return real(path, offset, length)

    monkeypatch.setattr(storage, "read_range", read_range)
    return seen


@pytest.mark.parametrize("split", ["train", "val"])
def test_any_records_come_in_the_order_asked_for(sharded: Path, split: str) -> None:
    expected, read = oracle(sharded, split), opened(sharded, split).read
    assert len(opened(sharded, split)) == len(expected) == 7
    assert read(range(7)) == expected
    assert read([]) == []
    assert all(bool(x.native_mask) == (split == "val") for x in expected)
    rng = np.random.default_rng(0)
    for count in (1, 2, 3, 7, 20):
        for _ in range(20):
            asked = rng.integers(0, 7, count)
            wanted = [expected[k] for k in asked]
            assert read(asked) == wanted
            assert read(asked.tolist()) == wanted
            assert read(asked.astype(np.uint8)) == wanted


def test_records_of_one_shard_without_neighbours_are_read(records_dir: Path) -> None:
    expected = oracle(records_dir)
    asked = [10, 0, 5, 3, 3]
    assert opened(records_dir).read(asked) == [expected[k] for k in asked]


@pytest.mark.parametrize("asked", [[7], [-1], [0, 7], [-1, 3], [1 << 40]])
def test_a_position_outside_the_split_is_an_error(
    sharded: Path, asked: list[int]
) -> None:
    with pytest.raises(IndexError, match="of 7"):
        opened(sharded).read(asked)


def test_neighbours_are_read_as_one_range_and_shards_as_several(
    sharded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = cards.read_card(str(sharded))
    rows = card.splits["train"]["shards"]
    read = opened(sharded).read
    seen = watch_ranges(monkeypatch)
    read([6, 3, 4, 0, 1, 5, 2])
    assert seen == [(row["name"], 0, row["bytes"]) for row in rows]
    seen.clear()
    read([6, 4, 1, 2, 4])
    first, second, third = ([n + 16 for n in lengths_of(sharded, k)] for k in range(3))
    assert seen == [
        (rows[0]["name"], first[0], first[1]),
        (rows[1]["name"], 0, second[0]),
        (rows[2]["name"], 0, third[0]),
        (rows[2]["name"], third[0] + third[1], third[2]),
    ]


def test_neighbours_of_many_bytes_are_read_in_several_ranges(
    sharded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = (length + 16 for length in lengths_of(sharded, 2))
    name = last_shard(sharded).name
    seen = watch_ranges(monkeypatch)
    for most, ranges in (
        (one + two + three, [(0, one + two + three)]),
        (one + two + three - 1, [(0, one + two), (one + two, three)]),
        (1, [(0, one), (one, two), (one + two, three)]),
    ):
        monkeypatch.setattr(reader, "_MOST_AT_ONCE", most)
        assert opened(sharded).read([4, 5, 6]) == oracle(sharded)[4:]
        assert seen == [(name, *part) for part in ranges]
        seen.clear()


def test_only_shards_that_hold_what_is_asked_for_are_opened(spoiled: Path) -> None:
    expected, read = oracle(spoiled), opened(spoiled).read
    for shard in spoiled.glob("*.tfrecord"):
        if shard != last_shard(spoiled):
            shard.unlink()
    assert read([6, 4]) == [expected[6], expected[4]]


def test_a_shard_without_examples_is_passed_over(spoiled: Path) -> None:
    card = cards.read_card(str(spoiled))
    rows = card.splits["train"]["shards"]
    empty = {"name": "none", "examples": 0, "longest": 0}
    rows[:] = [empty, rows[0], empty, empty, *rows[1:], empty]
    read = Reader(str(spoiled), card, "train").read
    assert read(range(7)) == oracle(spoiled)


@pytest.mark.parametrize("what", ["no shards", "empty shards", "no split"])
def test_a_card_without_examples_of_a_split_is_told(sharded: Path, what: str) -> None:
    card = cards.read_card(str(sharded))
    empty = {"name": "none", "examples": 0, "bytes": 0, "longest": 0}
    rows = [empty] * 2 if what == "empty shards" else []
    card.splits["val"] = {"examples": 0, "shards": rows}
    if what == "no split":
        del card.splits["val"]
    with pytest.raises(SeamlineError) as refused:
        Reader(str(sharded), card, "val")
    expected = f"{sharded}/card.json: no examples of 'val'; convert again"
    assert str(refused.value) == expected
    assert Reader(str(sharded), card, "train").read(range(7)) == oracle(sharded)


def problem(folder: Path, card: cards.Card, asked: list[int]) -> str:
    with pytest.raises(SeamlineError) as refused:
        Reader(str(folder), card, "train").read(asked)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_flipped_bit_in_any_byte_of_a_record_is_told_with_its_number_and_id(
    spoiled: Path,
) -> None:
    card, expected = cards.read_card(str(spoiled)), oracle(spoiled)
    lengths = lengths_of(spoiled, 2)
    shard, image_id = last_shard(spoiled), id_of(spoiled, 5)
    content = shard.read_bytes()
    start = lengths[0] + 16
    checksum = start + 12 + lengths[1]
    said = {}
    for place in range(start, checksum + 4):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        shard.write_bytes(changed)
        text = problem(spoiled, card, [4, 5, 6])
        begin = f"{shard}: damaged at record 1 ('{image_id}'): "
        assert text.startswith(begin)
        assert text.endswith("; convert again")
        said[place] = text[len(begin) : -len("; convert again")]
    # Its neighbours are sound all the same.
    assert opened(spoiled).read([6, 4]) == [expected[6], expected[4]]
    assert all("but its index says" in said[start + k] for k in range(8))
    assert {said[start + k] for k in range(8, 12)} == {
        "the checksum of its length differs"
    }
    rest = {said[place] for place in range(start + 12, checksum + 4)}
    assert rest == {"its checksum differs"}


def test_a_shard_cut_anywhere_gives_the_records_before_the_cut(spoiled: Path) -> None:
    card, expected = cards.read_card(str(spoiled)), oracle(spoiled)
    shard, content = last_shard(spoiled), last_shard(spoiled).read_bytes()
    ends = np.cumsum([length + 16 for length in lengths_of(spoiled, 2)])
    for cut in (len(content) - 1, ends[1] + 13, ends[1] + 1, ends[1], ends[0] + 5, 0):
        shard.write_bytes(content[:cut])
        whole = int((ends <= cut).sum())
        name = id_of(spoiled, 4 + whole)
        found = f"{shard}: damaged at record {whole} ('{name}'): the shard ends within"
        assert problem(spoiled, card, [6, 5, 4]).startswith(found)
        read = Reader(str(spoiled), card, "train").read
        assert read(range(4 + whole)) == expected[: 4 + whole]
        with pytest.raises(SeamlineError, match=r"record 2 .*the shard ends within it"):
            read([6])


def test_a_missing_shard_is_told(spoiled: Path) -> None:
    card, shard = cards.read_card(str(spoiled)), last_shard(spoiled)
    shard.unlink()
    expected = f"{shard}: this shard is missing; convert again"
    assert problem(spoiled, card, [0, 6]) == expected
    shard.mkdir()
    assert problem(spoiled, card, [6]).startswith(f"{shard}: cannot be read (Is a dir")
    shutil.rmtree(spoiled)
    spoiled.write_text("")
    index = f"{shard.with_suffix('.index.json')}: this index is missing; convert again"
    assert problem(spoiled, card, [6]) == index


def payloads(shard: Path) -> list[bytes]:
    return list(tf.data.TFRecordDataset(str(shard)).as_numpy_iterator())


def test_a_record_of_another_id_is_told_though_its_checksums_fit(
    spoiled: Path,
) -> None:
    card, shard = cards.read_card(str(spoiled)), last_shard(spoiled)
    one, two = opened(spoiled).ids[4:6]
    content = payloads(shard)
    swapped = [
        content[0].replace(one.encode(), two.encode()),
        content[1].replace(two.encode(), one.encode()),
        content[2],
    ]
    records.write_shard(str(shard), swapped)
    expected = f"{shard}: damaged at record 0 ('{one}'): it holds '{two}'; convert"
    assert problem(spoiled, card, [4, 5]).startswith(expected)
    expected = f"{shard}: damaged at record 1 ('{two}'): it holds '{one}'; convert"
    assert problem(spoiled, card, [5]).startswith(expected)


@pytest.mark.parametrize("what", ["no message", "no features", "no text"])
def test_a_payload_that_is_no_example_is_told_though_its_checksums_fit(
    spoiled: Path, what: str
) -> None:
    card, shard = cards.read_card(str(spoiled)), last_shard(spoiled)
    one, two, three = payloads(shard)
    image_id = id_of(spoiled, 5).encode()
    two = {
        "no message": b"\xff" * len(two),
        "no features": two.replace(b"image_id", b"image_no"),
        "no text": two.replace(image_id, b"\xff" * len(image_id)),
    }[what]
    records.write_shard(str(shard), [one, two, three])
    assert re.search(
        r"record 1 \('\d+'\): not an example of a photo and its mask; convert again$",
        problem(spoiled, card, [5]),
    )


def check_in_threads(read: Reader, expected: list[records.Record]) -> None:
    def check(number: int) -> bool:
        rng = np.random.default_rng(number)
        turns = [rng.integers(0, 7, 5) for _ in range(10)]
        return all(read.read(x) == [expected[k] for k in x] for x in turns)

    assert at_once(check, count=12) == [True] * 12


def test_many_threads_share_a_reader(sharded: Path) -> None:
    before = set(threading.enumerate())
    check_in_threads(opened(sharded), oracle(sharded))
    # The threads for buckets are not started.
    started = set(threading.enumerate()) - before
    assert not any(thread.name.startswith("records") for thread in started)


def test_many_threads_share_a_reader_of_a_bucket(sharded: Path, uploaded: str) -> None:
    check_in_threads(opened(uploaded), oracle(sharded))


def test_of_a_bucket_only_the_bytes_of_the_records_are_fetched(
    cloud: Cloud, sharded: Path, uploaded: str
) -> None:
    read, expected = opened(uploaded), oracle(sharded)
    read.read([0, 2, 4])  # so that their indexes are there
    rows = cards.read_card(str(sharded)).splits["train"]["shards"]
    first, third = ([n + 16 for n in lengths_of(sharded, k)] for k in (0, 2))
    with cloud.watching() as requests:
        assert read.read([6, 1, 5, 6]) == [expected[k] for k in (6, 1, 5, 6)]
    fetched = {(x.path.split("/")[-1].split("?")[0], x.range) for x in requests}
    assert fetched == {
        (rows[0]["name"], f"bytes={first[0]}-{sum(first) - 1}"),
        (rows[2]["name"], f"bytes={third[0]}-{sum(third) - 1}"),
    }
    assert len(requests) == 2
    assert not any(x.by_tensorflow for x in requests)


def test_ranges_of_a_bucket_are_fetched_at_the_same_time(
    cloud: Cloud, sharded: Path, uploaded: str
) -> None:
    read, expected = opened(uploaded), oracle(sharded)
    read.read([0, 2, 4])  # so that their indexes are there
    all_there = threading.Barrier(4)

    def hold(request: Request) -> None:
        all_there.wait(timeout=60)

    with cloud.watching(hold):
        assert read.read([6, 4, 2, 0]) == [expected[k] for k in (6, 4, 2, 0)]


def test_503_on_a_third_of_the_requests_changes_nothing(
    cloud: Cloud, sharded: Path, uploaded: str
) -> None:
    read, expected = opened(uploaded), oracle(sharded)
    with cloud.failing(1 / 3), cloud.watching() as requests:
        for _ in range(3):
            assert read.read([6, 4, 2, 0]) == [expected[k] for k in (6, 4, 2, 0)]
    assert len(requests) > 12


def test_a_bucket_that_does_not_answer_is_no_damage(
    cloud: Cloud, uploaded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_client, "DEADLINE", 0.3)
    read = opened(uploaded)
    with cloud.failing(1.0), pytest.raises(Unavailable, match="could not be reached"):
        read.ids[0]
    read.read([0, 6])
    with cloud.failing(1.0), pytest.raises(Unavailable, match="could not be reached"):
        read.read([0, 6])


def test_damage_in_a_bucket_is_told_as_on_a_disk(sharded: Path, uploaded: str) -> None:
    read, expected = opened(uploaded), oracle(sharded)
    url = f"{uploaded}/{last_shard(sharded).name}"
    content = bytearray(storage.read_bytes(url))
    content[-20] ^= 1
    storage.write_bytes(url, bytes(content))
    said = rf"^{url}: damaged at record 2 \('\d+'\): its checksum differs; convert"
    with pytest.raises(SeamlineError, match=said):
        read.read([0, 6])
    for cut in (len(content) - 1, 10):
        storage.write_bytes(url, bytes(content[:cut]))
        with pytest.raises(SeamlineError, match=r"record 2 .*the shard ends within it"):
            read.read([6])
    storage.remove_file(url)
    with pytest.raises(SeamlineError, match=f"^{url}: this shard is missing; convert"):
        read.read([0, 6])
    assert read.read([3]) == [expected[3]]
