import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io

from trainer.data import card as cards
from trainer.data import conversion, images, parts, records, sources, verification
from trainer.data.plan import SPLITS
from trainer.data.preparation import NEW_RECORDS
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
        assert [record.image_id for record in read] == card.splits[split]["ids"]
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


def test_only_shards_and_the_card_are_left(drawn: Path, tmp_path: Path) -> None:
    convert(drawn, tmp_path / "r")
    assert sorted(os.listdir(tmp_path / "r")) == [
        "card.json",
        "train-00000-of-00001.tfrecord",
        "val-00000-of-00001.tfrecord",
    ]
    shard = tmp_path / "r" / "val-00000-of-00001.tfrecord"
    assert shard.stat().st_mode & 0o777 == 0o644


def test_records_whose_card_was_deleted_are_made_anew(
    drawn: Path, tmp_path: Path
) -> None:
    convert(drawn, tmp_path / "r", record_size=0, shard_bytes=30_000)
    (tmp_path / "r" / "card.json").unlink()
    card = convert(drawn, tmp_path / "r", record_size=64)
    verification.verify(str(tmp_path / "r"))
    assert len(os.listdir(tmp_path / "r")) == 3
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
    *(("put", 1), ("put", 3), ("create", 1), ("create", 4), ("create", 5)),
    *(("move", 1), ("move", 3), ("create", 6), ("remove_folder", 1)),
]
"""Where a conversion of four shards is cut: taking a shard in, its report, the seal,
moving shards, the card, removing what is left."""


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step[0]}-{step[1]}")
def test_a_conversion_cut_at_any_step_is_finished_by_the_same_call(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: tuple[str, int]
) -> None:
    values = {"record_size": 0, "shard_bytes": 80_000}
    convert(drawn, tmp_path / "whole", **values)
    assert len(os.listdir(tmp_path / "whole")) == 5
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


def test_a_host_does_not_trust_anothers_shard(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"record_size": 0, "shard_bytes": 80_000}
    convert(drawn, tmp_path / "alone", **values)
    source = sources.open_folder(str(drawn), name="x")
    hosts = {**NEW_RECORDS, **values, "num_hosts": 2}
    with monkeypatch.context() as patched:
        # A host that counts wrongly: bytes and checksums fit, labels do not.
        patched.setattr(
            "trainer.data.encoding.count_pixels",
            lambda mask, classes: np.ones(classes, np.int64),
        )
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
    assert len(os.listdir(tmp_path / "r")) == 3


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
    assert len(os.listdir(tmp_path / "r")) == 3


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
