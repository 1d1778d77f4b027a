import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests import numbered
from tests.conftest import run_command
from trainer.data import card as cards
from trainer.data import conversion, images, records, sources, verification
from trainer.data.index import Index
from trainer.data.preparation import NEW_RECORDS
from trainer.data.reader import Reader
from trainer.errors import SeamlineError


@pytest.fixture(scope="module")
def sharded(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`drawn` in six shards; tests must not change it."""
    folder = tmp_path_factory.mktemp("sharded") / "records"
    source = sources.open_folder(str(drawn), name="drawn")
    values = {**NEW_RECORDS, "record_size": 0, "split_fraction": 0.5}
    conversion.convert(source, str(folder), **values, shard_bytes=40_000)
    assert len(list(folder.glob("*.tfrecord"))) == 6
    return folder


@pytest.fixture
def spoiled(sharded: Path, tmp_path: Path) -> Path:
    """A copy of `sharded` to spoil."""
    return Path(shutil.copytree(sharded, tmp_path / "records"))


def problem(folder: Path) -> str:
    with pytest.raises(SeamlineError) as refused:
        verification.verify(str(folder))
    return str(refused.value)


def test_sound_records_pass(sharded: Path) -> None:
    card = verification.verify(str(sharded))
    assert card == cards.read_card(str(sharded))


def test_each_of_200_changed_bytes_is_found_and_its_file_named(spoiled: Path) -> None:
    rng = np.random.default_rng(0)
    files = sorted(spoiled.iterdir())
    assert len(files) == 13
    found = 0
    for number in range(200):
        # Every other one in the card, which is far smaller than the rest.
        file = files[0] if number % 2 else files[rng.integers(1, len(files))]
        before = file.read_bytes()
        changed = bytearray(before)
        changed[rng.integers(len(changed))] ^= int(rng.integers(1, 256))
        file.write_bytes(changed)
        assert f"{file}: " in problem(spoiled)
        file.write_bytes(before)
        found += 1
    assert found == 200
    verification.verify(str(spoiled))


def test_each_of_20_missing_or_swapped_shards_is_found_and_named(
    spoiled: Path,
) -> None:
    rng = np.random.default_rng(1)
    shards = sorted(spoiled.glob("*.tfrecord"))
    for number in range(20):
        one, other = (shards[x] for x in rng.choice(len(shards), 2, replace=False))
        contents = one.read_bytes(), other.read_bytes()
        if number % 2:
            one.unlink()
            assert f"{one}: this shard is missing" in problem(spoiled)
        else:
            one.write_bytes(contents[1])
            other.write_bytes(contents[0])
            said = problem(spoiled)
            assert f"{one}: " in said
            assert f"{other}: " in said
        one.write_bytes(contents[0])
        other.write_bytes(contents[1])
    verification.verify(str(spoiled))


def rewrite_card(folder: Path, change: dict) -> None:
    """A card that is sound in itself and says something else."""
    fields = json.loads((folder / "card.json").read_text())
    del fields["format_version"], fields["fingerprint"]
    (folder / "card.json").write_text(cards.Card(**{**fields, **change}).to_text())


def test_counts_that_are_not_those_of_the_records_are_found(spoiled: Path) -> None:
    classes = json.loads((spoiled / "card.json").read_text())["classes"]
    classes[0]["train"]["pixels"] += 1
    rewrite_card(spoiled, {"classes": classes})
    assert re.search("pixels by class.*'train'", problem(spoiled))


def change_index(folder: Path, split: str, number: int, change: Callable) -> str:
    """Another index of a shard, with its own checksum in the card; the shard's name."""
    splits = json.loads((folder / "card.json").read_text())["splits"]
    row = splits[split]["shards"][number]
    index = numbered.index_of(folder, row)
    change(index)
    numbered.rewrite_index(folder, row, index)
    rewrite_card(folder, {"splits": splits})
    cards.read_card(str(folder))
    return str(row["name"])


def test_examples_in_another_order_are_found(spoiled: Path) -> None:
    name = change_index(spoiled, "val", 1, lambda index: index.ids.reverse())
    assert f"{spoiled / name}: holds other examples than listed" in problem(spoiled)


def test_lengths_of_records_that_are_not_theirs_are_found(spoiled: Path) -> None:
    def change(index: Index) -> None:
        # The sum and the longest stay, so the index does not contradict itself.
        index.lengths.reverse()

    name = change_index(spoiled, "train", 1, change)
    expected = f"{spoiled / name}: holds other lengths than listed"
    assert expected in problem(spoiled)


def test_labels_of_examples_that_are_not_theirs_are_found(spoiled: Path) -> None:
    def change(index: Index) -> None:
        index.labels[-1] = f"{int(index.labels[-1], 16) ^ 1 << 58:x}"

    name = change_index(spoiled, "val", 2, change)
    expected = f"{spoiled / name}: holds other labels than listed"
    assert problem(spoiled) == f"{expected}; convert again"


@pytest.mark.parametrize("change", ["one more", "one less", "longer", "none", "long"])
def test_an_index_whose_lengths_do_not_fit_the_shard_is_refused_by_every_reader(
    spoiled: Path, change: str
) -> None:
    def spoil(index: Index) -> None:
        lengths = index.lengths
        lengths[:] = {
            "one more": [*lengths, 0],
            "one less": [lengths[0] + lengths[1] + 16, *lengths[2:]],
            "longer": [lengths[0] + 1, *lengths[1:]],
            "long": [lengths[0] + 10**6, lengths[1] - 10**6, *lengths[2:]],
            "none": [],
        }[change]

    name = change_index(spoiled, "val", 1, spoil)
    numbers = change in ("one more", "one less", "none")
    told = "other numbers of examples, ids, labels and lengths"
    told = told if numbers else f"its lengths do not add up to the bytes of {name}"
    expected = f"{spoiled / cards.index_name(name)}: {told}; convert again"
    assert problem(spoiled) == expected
    with pytest.raises(SeamlineError) as refused:
        Reader(str(spoiled), cards.read_card(str(spoiled)), "val").read([2])
    assert str(refused.value) == expected


@pytest.mark.parametrize("key", ["ids", "labels"])
def test_an_index_with_other_numbers_of_ids_or_labels_is_refused(
    spoiled: Path, key: str
) -> None:
    change_index(spoiled, "train", 0, lambda index: getattr(index, key).pop())
    assert "index.json: other numbers of examples, ids" in problem(spoiled)


def test_an_altered_missing_or_foreign_index_is_found_and_named(spoiled: Path) -> None:
    one, other = sorted(spoiled.glob("train-*.index.json"))[:2]
    content, foreign = one.read_bytes(), other.read_bytes()
    told = f"{one}: contents differ from the card's checksum; convert again"
    for changed in (content.replace(b"lengths", b"lengthz"), foreign, b""):
        one.write_bytes(changed)
        assert problem(spoiled) == told
    one.unlink()
    assert problem(spoiled) == f"{one}: this index is missing; convert again"
    one.write_bytes(content)
    verification.verify(str(spoiled))


def test_a_card_with_another_number_of_examples_than_its_shards_is_refused(
    spoiled: Path,
) -> None:
    splits = json.loads((spoiled / "card.json").read_text())["splits"]
    splits["train"]["examples"] += 1
    rewrite_card(spoiled, {"splits": splits})
    with pytest.raises(SeamlineError, match="'train' has another number of examples"):
        cards.read_card(str(spoiled))


@pytest.mark.parametrize(
    ("image", "label", "told"),
    [
        (b"no image", 0, "not an image"),
        (None, 59, "a label that is no class"),
        (None, 254, "a label that is no class"),
    ],
)
def test_a_record_that_is_no_photo_and_its_mask_is_found_though_its_checksums_fit(
    spoiled: Path, image: bytes | None, label: int, told: str
) -> None:
    card = cards.read_card(str(spoiled))
    row = card.splits["val"]["shards"][0]
    path = spoiled / row["name"]
    kept = list(records.read_shard(str(path)))
    mask = images.decode_mask(kept[0].mask)
    mask[0, 0] = label
    broken = [
        conversion.records.Encoded(
            *(x.image_id, image or x.image, images.encode_mask(mask), x.native_mask),
            *(x.height, x.width, np.zeros(59)),
        )
        for x in kept
    ]
    records.write_shard(str(path), map(records.serialize, broken))
    splits = {**card.splits}
    index = numbered.index_of(spoiled, row)
    index.lengths[:] = [len(records.serialize(x)) for x in broken]
    row.update(cards.digest(str(path)), longest=max(index.lengths))
    numbered.rewrite_index(spoiled, row, index)
    rewrite_card(spoiled, {"splits": splits})
    assert problem(spoiled) == f"{path}: {told}; convert again"


def test_the_command_tells_the_examples_or_names_the_file(
    spoiled: Path, tmp_path: Path
) -> None:
    command = ("trainer.convert", "--verify", f"--records_dir={spoiled}")
    done = run_command(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Verified: " in done.stdout
    assert "14 examples" in done.stdout
    for shard in spoiled.glob("val-*.tfrecord"):
        os.truncate(shard, 100)
    done = run_command(*command, cwd=tmp_path)
    assert done.returncode == 42
    assert "Traceback" not in done.stderr
    for shard in spoiled.glob("val-*.tfrecord"):
        assert f"{shard}: 100 bytes" in done.stderr


def test_a_flipped_byte_is_found_by_readers_too(spoiled: Path) -> None:
    shard = spoiled / "val-00000-of-00003.tfrecord"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(SeamlineError, match=r"tfrecord: damaged at record \d"):
        list(records.read(str(spoiled), cards.read_card(str(spoiled)), "val"))


@pytest.mark.parametrize("what", ["shard", "index"])
def test_a_missing_or_shortened_file_is_found_when_the_card_is_read(
    spoiled: Path, what: str
) -> None:
    ending = {"shard": "tfrecord", "index": "index.json"}[what]
    file = spoiled / f"train-00000-of-00003.{ending}"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(SeamlineError, match=rf"{ending}: \d+ bytes, but the card says"):
        cards.read_card(str(spoiled))
    file.unlink()
    with pytest.raises(SeamlineError, match=f"{ending}: this {what} is missing"):
        cards.read_card(str(spoiled))


def test_an_altered_card_is_refused(spoiled: Path) -> None:
    path = spoiled / "card.json"
    path.write_text(path.read_text().replace('"dress"', '"gown"'))
    with pytest.raises(SeamlineError, match="altered since it was written"):
        cards.read_card(str(spoiled))
    path.write_text("{}")
    with pytest.raises(SeamlineError, match="not a dataset card"):
        cards.read_card(str(spoiled))


def test_a_card_of_another_format_is_told_from_a_broken_one(spoiled: Path) -> None:
    path = spoiled / "card.json"
    text = path.read_text().replace('"format_version": 4', '"format_version": 3')
    path.write_text(text)
    with pytest.raises(
        SeamlineError,
        match=r"format version 3, but this release reads 4; convert again into another",
    ):
        cards.read_card(str(spoiled))
