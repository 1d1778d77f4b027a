import dataclasses
import shutil
from pathlib import Path

import pytest
from sklearn.model_selection import train_test_split

from trainer import storage
from trainer.data import plan as plans
from trainer.data import sources
from trainer.errors import SeamlineError


def build(source: sources.Source, **values: object) -> plans.Plan:
    usual = {"record_size": 256, "split_fraction": 0.2, "split_seed": 0}
    return plans.build_plan(source, **{**usual, **values})


def large(count: int, size: int) -> sources.Source:
    """A source of photos that exist by name alone."""
    ids = [f"{index:05d}" for index in range(count)]
    photos = {f"photos/{name}.jpg": storage.FileInfo(size, name) for name in ids}
    masks = {f"masks/{name}.mat": storage.FileInfo(9, name) for name in ids}
    labels = sources.pairs.Labels(("a", "b"), (0, 1))
    files = dict(zip(ids, zip(photos, masks, strict=True), strict=True))
    return sources.Source("large", "gs://nowhere", labels, files, photos | masks)


@pytest.mark.parametrize("count", [2, 5, 99, 850, 1000])
@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.33])
@pytest.mark.parametrize("seed", [0, 7])
def test_the_split_is_scikit_learns(count: int, fraction: float, seed: int) -> None:
    ids = [f"{index:04d}" for index in range(count)]
    ours = plans.split_ids(reversed(ids), fraction=fraction, seed=seed)
    theirs = train_test_split(ids, test_size=fraction, random_state=seed)
    assert [sorted(part) for part in theirs] == list(ours)


def test_a_split_with_an_empty_side_is_refused() -> None:
    with pytest.raises(SeamlineError, match=r"--split_fraction=0\.0: 5 examples"):
        plans.split_ids("abcde", fraction=0.0, seed=0)


def test_a_small_dataset_gets_one_shard_a_split(drawn: Path) -> None:
    plan = build(sources.open_folder(str(drawn), name="x"))
    assert [shard.name for shard in plan.shards] == [
        "train-00000-of-00001.tfrecord",
        "val-00000-of-00001.tfrecord",
    ]
    assert [len(shard.ids) for shard in plan.shards] == [11, 3]


def test_photos_stored_as_they_are_fill_shards_of_150_mb() -> None:
    plan = build(large(1000, size=3 << 20), record_size=0)
    train = [shard for shard in plan.shards if shard.split == "train"]
    assert len(train) == 16
    assert {len(shard.ids) for shard in train} == {50}
    assert [x for shard in train for x in shard.ids] == sorted(
        x for shard in train for x in shard.ids
    )


def test_small_copies_of_large_photos_are_sized_by_encoding_a_few(
    drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = sources.open_folder(str(drawn), name="x")
    files = {f"{index:05d}": source.files["0001"] for index in range(4000)}
    many = dataclasses.replace(source, files=files)
    monkeypatch.setattr(sources.Source, "duplicates", lambda self: [])
    plan = build(many, record_size=64, split_fraction=0.5, shard_bytes=1 << 20)
    train = [shard for shard in plan.shards if shard.split == "train"]
    content = plans.encoding.encode_chunk(
        dataclasses.replace(source, files={"0001": source.files["0001"]}),
        record_size=64,
        keep_native=False,
    )[0]
    size = len(train[0].ids) * (len(content.image) + len(content.mask))
    assert 0.7 < size / (1 << 20) < 1.4


def test_the_plan_follows_from_the_source_and_the_values(
    drawn: Path, tmp_path: Path
) -> None:
    shutil.copytree(drawn, tmp_path / "elsewhere")
    first = build(sources.open_folder(str(drawn), name="x"))
    again = build(sources.open_folder(str(tmp_path / "elsewhere"), name="y"))
    assert again == first
    for values in ({"record_size": 64}, {"split_seed": 1}, {"split_fraction": 0.3}):
        changed = build(sources.open_folder(str(drawn), name="x"), **values)
        assert changed.digest != first.digest


def test_a_repeated_photo_is_left_out_and_named(dataset: Path) -> None:
    shutil.copy(dataset / "photos" / "0002.jpg", dataset / "photos" / "0009.jpg")
    plan = build(sources.open_folder(str(dataset), name="x"))
    [problem] = plan.left_out
    assert problem.file == "photos/0009.jpg"
    assert "the same photo as photos/0002.jpg" in problem.problem
    kept = [x for shard in plan.shards for x in shard.ids]
    assert "0002" in kept
    assert "0009" not in kept


def test_lists_of_ids_make_the_split(drawn: Path) -> None:
    source = dataclasses.replace(
        sources.open_folder(str(drawn), name="x"),
        split=(["0001", "0003"], ["0002"]),
    )
    plan = build(source)
    assert [shard.ids for shard in plan.shards] == [["0001", "0003"], ["0002"]]
    assert plan.split == {"given": True}
