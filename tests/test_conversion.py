import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
import tensorflow as tf

from trainer.data import card as cards
from trainer.data import conversion, images, records, sources, verification
from trainer.data.index import Indexes, pack_labels, read_index, unpack_labels
from trainer.data.plan import SPLITS
from trainer.data.preparation import NEW_RECORDS
from trainer.data.reader import Reader
from trainer.errors import SeamlineError


def convert(dataset: Path, records_dir: Path, **values: object) -> cards.Card:
    source = sources.open_folder(str(dataset), name="x")
    card = conversion.convert(source, str(records_dir), **{**NEW_RECORDS, **values})
    assert card is not None
    return card


def content(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_masks_survive_exactly_and_photos_closely(
    drawn: Path, records_dir: Path
) -> None:
    source = sources.open_folder(str(drawn), name="x")
    card = cards.read_card(str(records_dir))
    for split in SPLITS:
        read = list(records.read(str(records_dir), card, split))
        ids = list(Reader(str(records_dir), card, split).ids)
        assert [record.image_id for record in read] == ids
        for record in read:
            sample = source.read(record.image_id)
            mask = images.decode_mask(record.mask)
            image = images.decode_image(record.image).astype(float)
            np.testing.assert_array_equal(mask, sample.mask)
            assert np.abs(image - sample.image).mean() < 3


def test_large_photos_are_shrunk_to_the_record_size(
    drawn: Path, tmp_path: Path
) -> None:
    card = convert(drawn, tmp_path / "r", record_size=100)
    for record in records.read(str(tmp_path / "r"), card, "val"):
        assert images.decode_image(record.image).shape == (150, 100, 3)
        assert images.decode_mask(record.mask).shape == (150, 100)
        assert images.decode_mask(record.native_mask).shape == (300, 200)


def test_the_original_size_is_kept_for_validation_masks_where_it_is_another(
    drawn: Path, tmp_path: Path
) -> None:
    card = convert(drawn, tmp_path / "r", record_size=100)
    assert all(
        not x.native_mask for x in records.read(str(tmp_path / "r"), card, "train")
    )
    card = convert(drawn, tmp_path / "large", record_size=1000)
    val = records.read(str(tmp_path / "large"), card, "val")
    assert all(not record.native_mask for record in val)


def test_small_photos_are_not_enlarged(drawn: Path, tmp_path: Path) -> None:
    card = convert(drawn, tmp_path / "r", record_size=1000)
    record = next(records.read(str(tmp_path / "r"), card, "train"))
    assert images.decode_image(record.image).shape == (300, 200, 3)


def test_resized_masks_hold_no_new_label_and_match_resized_photos() -> None:
    labels = np.random.default_rng(0).integers(0, 59, (11, 13)).astype(np.uint8)
    mask = np.kron(labels, np.ones((9, 9), np.uint8))
    small = images.resize_mask(mask, 33, 39)
    image = images.resize_image(np.repeat(mask[..., None], 3, 2), 33, 39)
    np.testing.assert_array_equal(small, image[..., 0])


def test_the_card_counts_what_the_records_hold(records_dir: Path) -> None:
    card = cards.read_card(str(records_dir))
    for split in SPLITS:
        pixels = np.zeros(59, int)
        examples = np.zeros(59, int)
        for record in records.read(str(records_dir), card, split):
            counts = np.bincount(images.decode_mask(record.mask).ravel(), minlength=59)
            pixels += counts
            examples += counts > 0
        assert [row[split]["pixels"] for row in card.classes] == pixels.tolist()
        assert [row[split]["images"] for row in card.classes] == examples.tolist()
    assert card.sizes == {"300x200": 14}
    assert sum(card.frequencies("train")) == pytest.approx(1)


def test_an_index_has_the_length_of_every_record_and_the_place_follows(
    drawn: Path, tmp_path: Path
) -> None:
    card = convert(drawn, tmp_path / "r", record_size=0, shard_bytes=80_000)
    assert len(card.shards) == 4
    for row in card.shards:
        path = tmp_path / "r" / row["name"]
        content, place = path.read_bytes(), 0
        payloads = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
        lengths = read_index(str(tmp_path / "r"), row).lengths
        assert lengths == [len(payload) for payload in payloads]
        assert row["longest"] == max(lengths)
        for payload, length in zip(payloads, lengths, strict=True):
            assert content[place + 12 : place + 12 + length] == payload
            place += length + cards.FRAME_BYTES
        assert place == row["bytes"] == len(content)


def test_the_indexes_have_the_classes_of_every_mask_as_stored(
    drawn: Path, tmp_path: Path
) -> None:
    # So small that classes of the photo's own size are lost.
    card = convert(drawn, tmp_path / "r", record_size=16, shard_bytes=2_000)
    assert len(card.shards) > 2
    for split in SPLITS:
        masks = [
            cv2.imdecode(np.frombuffer(x.mask, np.uint8), cv2.IMREAD_UNCHANGED)
            for x in records.read(str(tmp_path / "r"), card, split)
        ]
        present = [set(np.unique(mask).tolist()) - {255} for mask in masks]
        rows = card.splits[split]["shards"]
        listed = [read_index(str(tmp_path / "r"), row).labels for row in rows]
        assert [label for labels in listed for label in labels] == [
            f"{sum(2**label for label in labels):x}" for labels in present
        ]
        sets = Indexes(str(tmp_path / "r"), rows).label_sets(59)
        assert (sets.dtype, sets.shape) == (bool, (len(masks), 59))
        assert [set(np.flatnonzero(row).tolist()) for row in sets] == present
        assert sets.sum(0).tolist() == [row[split]["images"] for row in card.classes]


@pytest.mark.parametrize("classes", [1, 7, 8, 9, 64, 255])
def test_sets_of_labels_survive_their_way_through_an_index(classes: int) -> None:
    rng = np.random.default_rng(classes)
    pixels = rng.integers(0, 3, (20, classes)) * 1000
    pixels[0], pixels[1] = 0, 1
    texts = [pack_labels(row) for row in pixels]
    assert (texts[0], texts[1]) == ("0", f"{2**classes - 1:x}")
    np.testing.assert_array_equal(unpack_labels(texts, classes), pixels > 0)
    assert unpack_labels([], classes).shape == (0, classes)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_same_source_gives_the_same_bytes_for_any_number_of_workers(
    drawn: Path, records_dir: Path, tmp_path: Path, workers: int
) -> None:
    source = sources.open_folder(str(drawn), name="drawn")
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patched:
        # Several slices, so that the workers have something to share.
        patched.setattr("trainer.data.shards._SLICE_PAIRS", 2)
        conversion.convert(
            source, str(tmp_path / "r"), **NEW_RECORDS, worker_count=workers
        )
    assert content(tmp_path / "r") == content(records_dir)


def test_record_size_0_keeps_the_bytes_of_upright_jpegs(
    dataset: Path, tmp_path: Path
) -> None:
    png = dataset / "photos" / "0001.jpg"
    image = cv2.imread(str(png))
    png.unlink()
    cv2.imwrite(str(png.with_suffix(".png")), image)
    card = convert(dataset, tmp_path / "r", record_size=0)
    seen = {
        record.image_id: record.image
        for split in SPLITS
        for record in records.read(str(tmp_path / "r"), card, split)
    }
    for image_id, stored in seen.items():
        if image_id == "0001":
            close = images.decode_image(stored).astype(int) - image[..., ::-1]
            assert np.abs(close).mean() < 3
        else:
            original = (dataset / "photos" / f"{image_id}.jpg").read_bytes()
            assert stored == original


def test_large_jpegs_are_decoded_at_a_reduced_scale_and_stay_close(
    dataset: Path, tmp_path: Path
) -> None:
    photo = dataset / "photos" / "0002.jpg"
    large = cv2.resize(cv2.imread(str(photo)), (1000, 1500))
    cv2.imwrite(str(photo), large)
    mask_path = dataset / "annotations" / "pixel-level" / "0002.mat"
    mask = scipy.io.loadmat(mask_path)["groundtruth"]
    mask = cv2.resize(mask, (1000, 1500), interpolation=cv2.INTER_NEAREST)
    scipy.io.savemat(mask_path, {"groundtruth": mask})
    card = convert(dataset, tmp_path / "r", record_size=200)
    [record] = [
        record
        for split in SPLITS
        for record in records.read(str(tmp_path / "r"), card, split)
        if record.image_id == "0002"
    ]
    assert (record.height, record.width) == (1500, 1000)
    # The oracle: all pixels decoded, then averaged.
    exact = cv2.resize(large, (200, 300), interpolation=cv2.INTER_AREA)[..., ::-1]
    stored = images.decode_image(record.image)
    assert stored.shape == exact.shape
    assert np.abs(stored.astype(int) - exact).mean() < 3


def test_records_are_written_in_several_shards_when_they_are_large(
    drawn: Path, tmp_path: Path
) -> None:
    card = convert(drawn, tmp_path / "r", record_size=0, shard_bytes=30_000)
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


def test_an_empty_folder_that_is_there_is_filled_in_place(
    drawn: Path, dataset: Path, tmp_path: Path
) -> None:
    (tmp_path / "mount").mkdir()
    (tmp_path / "r").symlink_to(tmp_path / "mount")
    convert(drawn, tmp_path / "r")
    verification.verify(str(tmp_path / "mount"))
    (tmp_path / "second").mkdir()
    spoil(dataset, "0002", 77)
    with pytest.raises(SeamlineError, match="label 77"):
        convert(dataset, tmp_path / "second")
    assert os.listdir(tmp_path / "second") == []


def test_only_shards_their_indexes_and_the_card_are_left(
    drawn: Path, tmp_path: Path
) -> None:
    convert(drawn, tmp_path / "r")
    assert sorted(os.listdir(tmp_path / "r")) == [
        "card.json",
        "train-00000-of-00001.index.json",
        "train-00000-of-00001.tfrecord",
        "val-00000-of-00001.index.json",
        "val-00000-of-00001.tfrecord",
    ]
    for file in (tmp_path / "r").iterdir():
        assert file.stat().st_mode & 0o777 == 0o644


def test_records_whose_card_was_deleted_are_made_anew(
    drawn: Path, tmp_path: Path
) -> None:
    convert(drawn, tmp_path / "r", record_size=0, shard_bytes=30_000)
    (tmp_path / "r" / "card.json").unlink()
    card = convert(drawn, tmp_path / "r", record_size=64)
    verification.verify(str(tmp_path / "r"))
    assert len(os.listdir(tmp_path / "r")) == 5
    assert card.record_size == 64


def test_a_failed_conversion_leaves_the_work_of_others_alone(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(dataset, "0002", 77)
    refuse = conversion._objection

    def meanwhile(*values: object) -> object:
        (tmp_path / "new" / "other").mkdir()
        return refuse(*values)

    monkeypatch.setattr(conversion, "_objection", meanwhile)
    with pytest.raises(SeamlineError, match="label 77"):
        convert(dataset, tmp_path / "new" / "r")
    assert os.listdir(tmp_path / "new") == ["other"]


def test_a_mask_without_a_photo_is_a_bad_pair(dataset: Path, tmp_path: Path) -> None:
    (dataset / "photos" / "0003.jpg").unlink()
    with pytest.raises(SeamlineError, match=r"0003\.mat: has no photo"):
        convert(dataset, tmp_path / "r")


def test_a_repeated_photo_is_refused_or_left_out(dataset: Path, tmp_path: Path) -> None:
    shutil.copy(dataset / "photos" / "0002.jpg", dataset / "photos" / "0009.jpg")
    with pytest.raises(SeamlineError, match=r"0009\.jpg: the same photo as"):
        convert(dataset, tmp_path / "r")
    card = convert(dataset, tmp_path / "r", skip_bad=True)
    assert [row["file"] for row in card.rejected] == ["photos/0009.jpg"]
    assert sum(part["examples"] for part in card.splits.values()) == 13
    verification.verify(str(tmp_path / "r"))


def test_the_card_says_what_ids_became(records_dir: Path) -> None:
    content = json.loads((records_dir / "card.json").read_text())
    assert content["labels"] == {"ids": list(range(59)), "ignore": [255]}
