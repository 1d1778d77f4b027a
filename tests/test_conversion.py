import json
import os
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from sklearn.model_selection import train_test_split

from trainer.data import card as cards
from trainer.data import conversion, records, sources
from trainer.errors import SeamlineError


def convert(dataset: Path, records_dir: Path, **values: object) -> cards.Card:
    source = sources.open_folder(str(dataset), name="x")
    return conversion.convert(
        source, str(records_dir), **{**conversion.NEW_RECORDS, **values}
    )


@pytest.mark.parametrize("count", [2, 5, 99, 850, 1000])
@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.33])
@pytest.mark.parametrize("seed", [0, 7])
def test_the_split_is_scikit_learns(count: int, fraction: float, seed: int) -> None:
    ids = [f"{index:04d}" for index in range(count)]
    ours = conversion.split_ids(reversed(ids), fraction=fraction, seed=seed)
    theirs = train_test_split(ids, test_size=fraction, random_state=seed)
    assert [sorted(part) for part in theirs] == list(ours)


def test_a_split_with_an_empty_side_is_refused() -> None:
    with pytest.raises(SeamlineError, match=r"--split_fraction=0\.0: 5 examples"):
        conversion.split_ids("abcde", fraction=0.0, seed=0)


def test_masks_survive_exactly_and_photos_closely(
    drawn: Path, records_dir: Path
) -> None:
    source = sources.open_folder(str(drawn), name="x")
    card = cards.read_card(str(records_dir))
    for split in records.SPLITS:
        read = list(records.read(str(records_dir), card, split))
        assert [record.image_id for record in read] == card.splits[split]["ids"]
        for record in read:
            sample = source.read(record.image_id)
            mask = records.decode_mask(record.mask)
            image = records.decode_image(record.image).astype(float)
            np.testing.assert_array_equal(mask, sample.mask)
            assert np.abs(image - sample.image).mean() < 3


def test_large_photos_are_shrunk_to_the_record_size(
    drawn: Path, tmp_path: Path
) -> None:
    card = convert(drawn, tmp_path / "r", record_size=100)
    for record in records.read(str(tmp_path / "r"), card, "val"):
        assert records.decode_image(record.image).shape == (150, 100, 3)
        assert records.decode_mask(record.mask).shape == (150, 100)
        assert records.decode_mask(record.native_mask).shape == (300, 200)


def test_small_photos_are_not_enlarged(drawn: Path, tmp_path: Path) -> None:
    card = convert(drawn, tmp_path / "r", record_size=1000)
    record = next(records.read(str(tmp_path / "r"), card, "train"))
    assert records.decode_image(record.image).shape == (300, 200, 3)


def test_resized_masks_hold_no_new_label_and_match_resized_photos() -> None:
    labels = np.random.default_rng(0).integers(0, 59, (11, 13)).astype(np.uint8)
    mask = np.kron(labels, np.ones((9, 9), np.uint8))
    small = records.resize_mask(mask, 33, 39)
    image = records.resize_image(np.repeat(mask[..., None], 3, 2), 33, 39)
    np.testing.assert_array_equal(small, image[..., 0])


def test_the_card_counts_what_the_records_hold(records_dir: Path) -> None:
    card = cards.read_card(str(records_dir))
    for split in records.SPLITS:
        pixels = np.zeros(59, int)
        images = np.zeros(59, int)
        for record in records.read(str(records_dir), card, split):
            counts = np.bincount(records.decode_mask(record.mask).ravel(), minlength=59)
            pixels += counts
            images += counts > 0
        assert [row[split]["pixels"] for row in card.classes] == pixels.tolist()
        assert [row[split]["images"] for row in card.classes] == images.tolist()
    assert card.sizes == {"300x200": 14}
    assert sum(card.frequencies("train")) == pytest.approx(1)


def test_the_same_source_gives_the_same_bytes_for_any_number_of_workers(
    drawn: Path, records_dir: Path, tmp_path: Path
) -> None:
    for workers in (1, 3):
        convert(drawn, tmp_path / str(workers), workers=workers)
        for name in os.listdir(records_dir):
            ours = (tmp_path / str(workers) / name).read_bytes()
            theirs = json.loads(ours) if name == "card.json" else None
            if theirs:
                theirs = {**theirs, "source": 0, "fingerprint": 0}
                before = json.loads((records_dir / name).read_text())
                assert theirs == {**before, "source": 0, "fingerprint": 0}
            else:
                assert ours == (records_dir / name).read_bytes()


def test_records_are_written_in_several_shards_when_they_are_large(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "_SHARD_BYTES", 60_000)
    card = convert(drawn, tmp_path / "r")
    shards = card.splits["train"]["shards"]
    assert len(shards) > 2
    assert shards[1]["name"] == f"train-00001-of-{len(shards):05d}.tfrecord"
    assert sum(shard["examples"] for shard in shards) == 11
    assert len(list(records.read(str(tmp_path / "r"), card, "train"))) == 11


def spoil(dataset: Path, image_id: str, label: int) -> None:
    path = dataset / "annotations" / "pixel-level" / f"{image_id}.mat"
    mask = scipy.io.loadmat(path)["groundtruth"]
    mask[5, 5] = label
    scipy.io.savemat(path, {"groundtruth": mask})


def test_all_bad_pairs_are_listed_and_nothing_is_left_behind(
    dataset: Path, tmp_path: Path
) -> None:
    spoil(dataset, "0002", 77)
    (dataset / "photos" / "0009.jpg").write_bytes(b"")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(SeamlineError) as refused:
        convert(dataset, tmp_path / "r")
    assert "2 bad pairs" in str(refused.value)
    assert "0002.mat: label 77" in str(refused.value)
    assert "0009.jpg" in str(refused.value)
    assert sorted(os.listdir(tmp_path)) == before


def test_bad_pairs_are_left_out_on_request_and_the_card_says_so(
    dataset: Path, tmp_path: Path
) -> None:
    spoil(dataset, "0002", 77)
    card = convert(dataset, tmp_path / "r", skip_bad=True)
    assert [row["file"][-8:] for row in card.rejected] == ["0002.mat"]
    assert sum(part["examples"] for part in card.splits.values()) == 13


def test_a_folder_with_other_files_is_not_overwritten(
    drawn: Path, tmp_path: Path
) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "thesis.txt").write_text("dear")
    with pytest.raises(SeamlineError, match="holds files but no dataset card"):
        convert(drawn, tmp_path / "r")
    assert (tmp_path / "r" / "thesis.txt").read_text() == "dear"


def test_leftovers_of_a_killed_conversion_do_not_matter(
    drawn: Path, tmp_path: Path
) -> None:
    (tmp_path / "r.partial").mkdir()
    (tmp_path / "r.partial" / "train-00000.draft").write_bytes(b"half")
    convert(drawn, tmp_path / "r")
    cards.verify(str(tmp_path / "r"))
    assert not (tmp_path / "r.partial").exists()


def test_an_empty_folder_that_is_there_is_filled_in_place(
    drawn: Path, dataset: Path, tmp_path: Path
) -> None:
    (tmp_path / "mount").mkdir()
    (tmp_path / "r").symlink_to(tmp_path / "mount")
    (tmp_path / "mount" / "train-00000.draft").write_bytes(b"of a killed conversion")
    convert(drawn, tmp_path / "r")
    cards.verify(str(tmp_path / "mount"))
    (tmp_path / "second").mkdir()
    spoil(dataset, "0002", 77)
    with pytest.raises(SeamlineError, match="label 77"):
        convert(dataset, tmp_path / "second")
    assert os.listdir(tmp_path / "second") == []


def test_a_failed_conversion_leaves_the_work_of_others_alone(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(dataset, "0002", 77)
    refuse = conversion._refuse

    def meanwhile(*values: object) -> None:
        (tmp_path / "new" / "other").mkdir()
        refuse(*values)

    monkeypatch.setattr(conversion, "_refuse", meanwhile)
    with pytest.raises(SeamlineError, match="label 77"):
        convert(dataset, tmp_path / "new" / "r")
    assert os.listdir(tmp_path / "new") == ["other"]


def test_a_mask_without_a_photo_is_a_bad_pair(dataset: Path, tmp_path: Path) -> None:
    (dataset / "photos" / "0003.jpg").unlink()
    with pytest.raises(SeamlineError, match=r"0003\.mat: has no photo"):
        convert(dataset, tmp_path / "r")


def test_an_edited_mask_of_the_same_size_makes_new_records(
    drawn: Path, dataset: Path
) -> None:
    path = dataset / "annotations" / "pixel-level" / "0002.mat"
    mask = scipy.io.loadmat(path)["groundtruth"]
    scipy.io.savemat(path, {"groundtruth": mask})
    size = path.stat().st_size
    before = sources.open_folder(str(dataset), name="x").listing()
    mask[:50] = 0
    mask[0, 0] = 5
    scipy.io.savemat(path, {"groundtruth": mask})
    assert path.stat().st_size == size
    assert sources.open_folder(str(dataset), name="x").listing() != before


def test_verify_finds_a_flipped_byte_and_names_the_file(
    drawn: Path, tmp_path: Path
) -> None:
    convert(drawn, tmp_path / "r")
    shard = tmp_path / "r" / "val-00000-of-00001.tfrecord"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(SeamlineError, match=r"val-00000-of-00001\.tfrecord: contents"):
        cards.verify(str(tmp_path / "r"))
    with pytest.raises(SeamlineError, match=r"tfrecord: damaged at record \d"):
        list(
            records.read(
                str(tmp_path / "r"), cards.read_card(str(tmp_path / "r")), "val"
            )
        )


def test_a_missing_or_shortened_shard_is_found_when_the_card_is_read(
    drawn: Path, tmp_path: Path
) -> None:
    convert(drawn, tmp_path / "r")
    shard = tmp_path / "r" / "train-00000-of-00001.tfrecord"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(SeamlineError, match="but the card says"):
        cards.read_card(str(tmp_path / "r"))
    shard.unlink()
    with pytest.raises(SeamlineError, match="this shard is missing"):
        cards.read_card(str(tmp_path / "r"))


def test_an_altered_card_is_refused(drawn: Path, tmp_path: Path) -> None:
    convert(drawn, tmp_path / "r")
    path = tmp_path / "r" / "card.json"
    path.write_text(path.read_text().replace('"dress"', '"gown"'))
    with pytest.raises(SeamlineError, match="altered since it was written"):
        cards.read_card(str(tmp_path / "r"))
    path.write_text("{}")
    with pytest.raises(SeamlineError, match="not a dataset card"):
        cards.read_card(str(tmp_path / "r"))


def asked(**changes: object) -> dict[str, object]:
    nothing = dict.fromkeys(conversion.NEW_RECORDS)
    return {"dataset": "auto", "records_dir": None, **nothing, **changes}


def test_records_that_are_there_need_no_dataset(records_dir: Path) -> None:
    place, card, notice = conversion.prepare(**asked(records_dir=str(records_dir)))
    assert (place, notice) == (str(records_dir), "")
    assert card == cards.read_card(str(records_dir))


def test_records_that_are_there_spare_the_download(
    records_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place, _, _ = conversion.prepare(
        **asked(records_dir=str(records_dir), dataset="ccp")
    )
    assert place == str(records_dir)


def test_records_made_otherwise_than_asked_are_refused_with_both_values(
    records_dir: Path,
) -> None:
    with pytest.raises(SeamlineError, match=r"--record_size=64: .* made with 256"):
        conversion.prepare(**asked(records_dir=str(records_dir), record_size=64))


def test_records_of_another_dataset_are_refused(
    records_dir: Path, dataset: Path
) -> None:
    (dataset / "photos" / "0001.jpg").unlink()
    with pytest.raises(SeamlineError, match="whose files are not those of"):
        conversion.prepare(**asked(records_dir=str(records_dir), dataset=str(dataset)))


def test_without_a_records_dir_the_same_source_finds_its_records_again(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = conversion.prepare(**asked(dataset=str(drawn)))
    again = conversion.prepare(**asked(dataset=str(drawn)))
    other = conversion.prepare(**asked(dataset=str(drawn), record_size=64))
    assert first == again
    assert other[0] != first[0]
