from __future__ import annotations

import hashlib
import logging
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import numbered
from trainer import storage
from trainer.data import card as cards
from trainer.data import examples, images, inputs, records
from trainer.data.card import Card
from trainer.data.examples import Examples
from trainer.data.inputs import Share, Stream
from trainer.errors import SeamlineError
from trainer.limits import Limits

Batch = tuple[np.ndarray, np.ndarray]
ROOMY = Limits(input_memory_mb=1024, input_threads=2, prefetch=2)
TIGHT = Limits(input_memory_mb=0, input_threads=2, prefetch=1)


def dataset(folder: Path, count: int, *, shards: int = 1) -> Card:
    return numbered.write(folder, count, shards=shards)


def opened(
    folder: Path, card: Card, use: Limits = ROOMY, size: int = numbered.SIDE
) -> Examples:
    [found] = examples.open_splits(
        str(folder), card, ["train"], image_size=size, limits=use
    )
    return found


def stream_of(found: Examples, **values: object) -> Stream:
    asked = {"policy": "none", "batch_size": 4, "seed": 0, "repeat_threshold": 0.0}
    return inputs.build_stream(found, **{"limits": ROOMY, **asked, **values})


def batches(stream: Stream, start: int, stop: int, *share: Share) -> list[Batch]:
    return list(stream.batches(start, stop, *share).as_numpy_iterator())


def stream_whole(folder: Path, card: Card, use: Limits) -> None:
    found = opened(folder, card, use)
    with found.explained():
        batches(stream_of(found), 0, 10)


def numbers(found: list[Batch]) -> list[int]:
    return [int(mask[0, 0]) for _, masks in found for mask in masks]


def assert_same(one: list[Batch], other: list[Batch]) -> None:
    for mine, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(mine[0], theirs[0])
        np.testing.assert_array_equal(mine[1], theirs[1])


def joined(stream: Stream, start: int, stop: int, workers: int, local: int) -> list:
    """Global batches, put together from what each replica of each worker gets."""
    parts: list[list[Batch]] = [[] for _ in range(start, stop)]
    for worker in range(workers):
        share = Share(workers * local, first=worker * local, local=local)
        for index, piece in enumerate(batches(stream, start, stop, share)):
            parts[index // local].append(piece)
    return [
        (np.concatenate([x for x, _ in row]), np.concatenate([y for _, y in row]))
        for row in parts
    ]


@given(
    count=st.integers(1, 24),
    shards=st.integers(1, 4),
    rows=st.integers(1, 3),
    replicas=st.integers(1, 4),
    workers=st.integers(1, 3),
    calls=st.integers(1, 16),
    epoch=st.integers(0, 1000),
    late=st.integers(0, 4),
    seed=st.integers(0, 2**32 - 1),
    policy=st.sampled_from(["none", "random", "tutorial"]),
    repeat_threshold=st.sampled_from([0.0, 0.4]),
)
@settings(max_examples=30, deadline=None)
def test_the_stream_is_the_same_however_it_is_made(
    count: int,
    shards: int,
    rows: int,
    replicas: int,
    workers: int,
    calls: int,
    epoch: int,
    late: int,
    seed: int,
    policy: str,
    repeat_threshold: float,
) -> None:
    """In memory on one device, against streamed on all, started later."""
    batch_size = rows * replicas * workers
    start = epoch * count // batch_size
    with tempfile.TemporaryDirectory() as name:
        card = dataset(Path(name), count, shards=shards)
        plain = {
            "policy": policy,
            "batch_size": batch_size,
            "seed": seed,
            "repeat_threshold": repeat_threshold,
        }
        held = stream_of(opened(Path(name), card), **plain)
        use = Limits(input_memory_mb=64, input_threads=calls, prefetch=1)
        read = examples.streamed(name, card, "train", image_size=numbered.SIDE)
        streamed = stream_of(read, **plain, limits=use)
        whole = batches(held, start, start + 5)
        pieces = joined(streamed, start + late, start + 5, workers, replicas)
    assert_same(whole[late:], pieces)


@given(
    count=st.integers(1, 24),
    batch_size=st.integers(1, 9),
    epoch=st.integers(0, 10**6),
    seed=st.integers(0, 2**32 - 1),
    streamed=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_every_example_comes_once_an_epoch(
    count: int, batch_size: int, epoch: int, seed: int, streamed: bool
) -> None:
    first, last = epoch * count, (epoch + 1) * count
    start, stop = first // batch_size, -(-last // batch_size)
    with tempfile.TemporaryDirectory() as name:
        card = dataset(Path(name), count, shards=min(count, 3))
        found = opened(Path(name), card, TIGHT if streamed else ROOMY)
        stream = stream_of(found, batch_size=batch_size, seed=seed)
        seen = numbers(batches(stream, start, stop))
    skip = first - start * batch_size
    assert sorted(seen[skip : skip + count]) == list(range(count))


@given(seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_epochs_and_seeds_differ_in_order_and_in_augmentation(
    seed: int, epoch: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        card = dataset(Path(name), 24)
        found = opened(Path(name), card)
        values = {"policy": "random", "batch_size": 24}
        one = stream_of(found, **values, seed=seed)
        other = stream_of(found, **values, seed=seed ^ 1)
        here, after = batches(one, epoch, epoch + 2)
        [there] = batches(other, epoch, epoch + 1)
    for another in (after, there):
        assert one.where(epoch)[0].tolist() != numbers([another])
        mine, theirs = (
            {int(mask[16, 16]): image for image, mask in zip(*batch, strict=True)}
            for batch in (here, another)
        )
        both = set(mine) & set(theirs) - {255}
        assert any(not np.array_equal(mine[x], theirs[x]) for x in both)


@given(
    batch_size=st.integers(1, 12),
    other=st.integers(1, 12),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=10, deadline=None)
def test_an_example_looks_the_same_whatever_the_batch_size(
    batch_size: int, other: int, seed: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        card = dataset(Path(name), 7)
        found = opened(Path(name), card)
        both = []
        for size in (batch_size, other):
            stream = stream_of(found, policy="random", batch_size=size, seed=seed)
            made = batches(stream, 0, -(-12 // size))
            both.append(np.concatenate([images for images, _ in made])[:12])
    np.testing.assert_array_equal(*both)


@pytest.fixture
def ten(tmp_path: Path) -> tuple[Path, Card]:
    return tmp_path, dataset(tmp_path, 10, shards=5)


def test_a_start_far_on_opens_only_the_shards_of_its_batch(
    ten: tuple[Path, Card], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, card = ten
    asked: list[str] = []
    read_range = storage.read_range

    def counted(path: str, offset: int, length: int) -> bytes:
        asked.append(Path(path).name)
        return read_range(path, offset, length)

    monkeypatch.setattr(storage, "read_range", counted)
    found = examples.streamed(str(folder), card, "train", image_size=32)
    stream = stream_of(found, batch_size=2)
    first = 10**6 * stream.steps
    [batch] = batches(stream, first, first + 1)
    shards = {
        f"train-{number // 2:05d}-of-00005.tfrecord" for number in numbers([batch])
    }
    assert set(asked) == shards
    assert len(asked) <= 2


def test_a_batch_is_told_before_it_is_made(ten: tuple[Path, Card]) -> None:
    folder, card = ten
    stream = stream_of(opened(folder, card))
    assert numbers(batches(stream, 7, 8)) == stream.where(7)[0].tolist()


def test_rare_classes_come_more_often(ten: tuple[Path, Card]) -> None:
    folder, card = ten
    stream = stream_of(opened(folder, card), repeat_threshold=0.4)
    assert stream.order.length == 20
    seen = numbers(batches(stream, 0, stream.steps))
    assert sorted(seen) == sorted([*range(10), *range(10)])


def test_a_batch_that_replicas_cannot_share_is_refused_with_what_would_do(
    ten: tuple[Path, Card],
) -> None:
    folder, card = ten
    stream = stream_of(opened(folder, card))
    with pytest.raises(SeamlineError, match=r"--batch_size=4: .* nearest: 3 or 6"):
        stream.batches(0, 1, Share(3, 0, 3))


@pytest.mark.parametrize("use", [ROOMY, TIGHT], ids=["in memory", "streamed"])
def test_validation_counts_every_example_once_in_full_batches(
    ten: tuple[Path, Card], use: Limits
) -> None:
    folder, card = ten
    made = inputs.ordered_batches(opened(folder, card, use), batch_size=4, limits=use)
    found = list(made.as_numpy_iterator())
    assert [masks.shape for _, masks in found] == [(4, 32, 32)] * 3
    assert numbers(found) == [*range(10), 255, 255]
    assert (found[-1][1][2:] == 255).all()


def test_splits_that_fit_are_held_and_the_others_streamed(
    records_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = cards.read_card(str(records_dir))
    caplog.set_level(logging.INFO, "seamline")
    # 3 examples of 256² take 768 KiB, 11 of them 2.75 MiB.
    use = Limits(input_memory_mb=2, input_threads=2, prefetch=1)
    val, train = examples.open_splits(
        str(records_dir), found, ["val", "train"], image_size=256, limits=use
    )
    assert "3 val examples at 256², 0 MB: held in memory" in caplog.text
    assert "11 train examples at 256², 2 MB: read from the records" in caplog.text
    assert (len(val), len(train)) == (3, 11)


def test_held_and_streamed_examples_are_the_records_at_the_models_size(
    records_dir: Path,
) -> None:
    found = cards.read_card(str(records_dir))
    both = [opened(records_dir, found, use, size=64) for use in (ROOMY, TIGHT)]
    wanted = [3, 0, 10, 3]
    held, streamed = (each.fetch(wanted) for each in both)
    assert held[0].shape == (4, 64, 64, 3)
    np.testing.assert_array_equal(held[0], streamed[0])
    np.testing.assert_array_equal(held[1], streamed[1])
    raw = list(records.read(str(records_dir), found, "train"))[3]
    mask = images.resize_mask(images.decode_mask(raw.mask), 64, 64)
    np.testing.assert_array_equal(held[1][0], mask)
    assert both[0].ids[3] == raw.image_id


@pytest.mark.parametrize("use", [ROOMY, TIGHT], ids=["in memory", "streamed"])
def test_a_record_that_is_damaged_later_ends_with_its_shard_and_number(
    ten: tuple[Path, Card], use: Limits
) -> None:
    folder, card = ten
    shard = folder / "train-00002-of-00005.tfrecord"
    content = bytearray(shard.read_bytes())
    content[-20] ^= 1
    shard.write_bytes(content)
    with pytest.raises(SeamlineError, match=r"train-00002-of-00005\S*: .*record 1 "):
        stream_whole(folder, card, use)


def test_batches_are_those_of_earlier_versions(tmp_path: Path) -> None:
    """So that a run goes on after an upgrade; new order, new card format."""
    card = dataset(tmp_path, 50)
    stream = stream_of(opened(tmp_path, card), policy="random", seed=3)
    found = hashlib.sha256()
    for step in (0, 1, 12, 10**6):
        for numbers in stream.where(step):
            found.update(numbers.astype("<i8").tobytes())
        first = tf.constant(step * stream.batch_size, tf.int64)
        drawn = inputs.amounts(first, stream.batch_size, 13, seed=3)
        found.update(drawn.numpy().astype("<f4").tobytes())
    assert found.hexdigest()[:16] == "0dab99b5d646e471"


def test_random_numbers_belong_to_the_position() -> None:
    whole = inputs.amounts(tf.constant(1000, tf.int64), 300, 13, seed=7).numpy()
    part = inputs.amounts(tf.constant(1123, tf.int64), 9, 13, seed=7).numpy()
    np.testing.assert_array_equal(whole[123:132], part)
    assert whole.min() >= 0
    assert whole.max() < 1
    assert abs(whole.mean() - 0.5) < 0.02
    other = inputs.amounts(tf.constant(1000, tf.int64), 300, 13, seed=8).numpy()
    assert not np.isin(whole.ravel(), other.ravel()).any()
