import dataclasses
import os
import pickle
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io

from tests.conftest import ROOT
from trainer.data import sources
from trainer.data.pairs import BadSample
from trainer.data.sources import Source
from trainer.errors import SeamlineError
from trainer.labels import CCP_LABELS
from trainer.layout import Layout

MASKS = "annotations/pixel-level"


def mask_path(dataset: Path, image_id: str) -> Path:
    return dataset / MASKS / f"{image_id}.mat"


def opened(dataset: Path | str) -> Source:
    return sources.open_folder(str(dataset), name="x")


def keep_four(dataset: Path) -> Path:
    """Removes all pairs but four."""
    for photo in sorted((dataset / "photos").iterdir())[4:]:
        photo.unlink()
        mask_path(dataset, photo.stem).unlink()
    return dataset


@pytest.fixture
def few(dataset: Path) -> Path:
    return keep_four(dataset)


# Folders in the layout of CCP


def test_a_pair_is_read_as_rgb_and_label_ids(drawn: Path) -> None:
    sample = opened(drawn).read("0002")
    bgr = cv2.imread(str(drawn / "photos" / "0002.jpg"))
    truth = scipy.io.loadmat(mask_path(drawn, "0002"))["groundtruth"]
    np.testing.assert_array_equal(sample.image, bgr[..., ::-1])
    np.testing.assert_array_equal(sample.mask, truth)


def test_pairs_are_found_by_listing_both_folders(dataset: Path) -> None:
    (dataset / "photos" / "0003.jpg").unlink()
    mask_path(dataset, "0005").unlink()
    (dataset / "photos" / "0004.jpg").rename(dataset / "photos" / "street.jpg")
    mask_path(dataset, "0004").rename(mask_path(dataset, "street"))
    (dataset / "photos" / "notes.txt").write_text("not a photo")
    source = opened(dataset)
    assert list(source.files) == [
        *("0001", "0002", "0006", "0007", "0008", "0009", "0010", "0011", "0012"),
        *("0013", "0014", "street"),
    ]
    assert source.files["street"] == ("photos/street.jpg", f"{MASKS}/street.mat")
    assert source.orphans == (f"{MASKS}/0003.mat",)
    assert source.split is None


def test_label_names_come_from_the_datasets_own_list(drawn: Path) -> None:
    assert opened(drawn).label_names == CCP_LABELS


def test_photos_without_a_mask_are_counted_and_left_aside(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(sources.log, "info", lambda text, *a: said.append(text % a))
    assert len(opened(dataset).files) == 14
    assert said == []
    mask_path(dataset, "0005").unlink()
    mask_path(dataset, "0007").unlink()
    assert len(opened(dataset).files) == 12
    assert said == ["Dataset: x: 12 pairs; 2 photos have no mask and are left aside"]


def test_a_mask_of_another_size_is_refused(dataset: Path) -> None:
    scipy.io.savemat(
        mask_path(dataset, "0002"), {"groundtruth": np.zeros((400, 300), np.uint8)}
    )
    with pytest.raises(BadSample, match=r"0002\.mat: mask of 300x400 pixels.*200x300"):
        opened(dataset).read("0002")


def test_a_folder_that_is_not_there_is_named() -> None:
    with pytest.raises(SeamlineError, match="--dataset=/nowhere: no such folder"):
        sources.find("/nowhere")


def test_a_folder_without_pairs_says_what_it_found(dataset: Path) -> None:
    for mask in (dataset / MASKS).iterdir():
        mask.unlink()
    with pytest.raises(SeamlineError, match=r"14 photos in photos/, 0 masks"):
        sources.find(str(dataset))


def test_a_missing_label_list_is_named(dataset: Path) -> None:
    (dataset / "label_list.mat").unlink()
    with pytest.raises(SeamlineError, match=r"label_list\.mat: cannot be read"):
        sources.find(str(dataset))
    (dataset / "label_list.mat").write_bytes(b"hello" * 40)
    with pytest.raises(SeamlineError, match=r"label_list\.mat: no readable label list"):
        sources.find(str(dataset))


# Reading


def test_a_file_that_cannot_be_read_spoils_its_pair_alone(few: Path) -> None:
    source = opened(few)
    (few / "photos" / "0002.jpg").unlink()
    mask_path(few, "0003").unlink()
    mask_path(few, "0003").mkdir()
    read = source.read_files(["0004", "0003", "0002"])
    assert list(read) == ["0004", "0003", "0002"]
    photo, mask = few / "photos" / "0004.jpg", mask_path(few, "0004")
    assert read["0004"] == (photo.read_bytes(), mask.read_bytes())
    assert str(read["0002"]) == (
        "photos/0002.jpg: cannot be read (No such file or directory); replace the file"
    )
    assert str(read["0003"]).startswith(f"{MASKS}/0003.mat: cannot be read (Is a")
    with pytest.raises(BadSample, match=r"0002\.jpg: cannot be read"):
        source.read("0002")


def test_a_slice_of_a_source_can_be_sent_to_a_worker(few: Path) -> None:
    source = opened(few)
    assert source.listing()
    files = {"0002": source.files["0002"]}
    slim = dataclasses.replace(source, files=files, infos={}, orphans=())
    there = pickle.loads(pickle.dumps(slim))
    assert list(there.read_files(list(there.files))) == ["0002"]
    np.testing.assert_array_equal(there.read("0002").mask, source.read("0002").mask)


def test_a_source_is_read_without_tensorflow(few: Path) -> None:
    program = (
        "import sys\nfrom trainer.data import sources\n"
        f"source = sources.find({str(few)!r})\n"
        "source.read('0001'), source.listing(), source.duplicates()\n"
        "print('tensorflow' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"


# Layouts


@pytest.fixture
def pets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """Five pairs, four of them good; the working folder is theirs."""
    folder = tmp_path / "pets"
    for part in ("images", "trimaps"):
        (folder / part).mkdir(parents=True)
    for number in range(5):
        image = np.full((8, 6, 3), 40 * number, np.uint8)
        cv2.imwrite(str(folder / "images" / f"cat{number}.jpg"), image)
        mask = np.array([[1, 2, 3], [2, 2, 3]], np.uint8).repeat(4, 0).repeat(2, 1)
        cv2.imwrite(str(folder / "trimaps" / f"cat{number}.png"), mask)
    (folder / "images" / "cat4.jpg").rename(folder / "images" / "dog.jpg")
    (folder / "names.txt").write_text("2 background\n1 pet\n3 border\n")
    monkeypatch.chdir(folder)
    return Layout(images_dir="images", masks_dir="trimaps", label_names="names.txt")


def test_a_layout_names_any_folders(pets: Layout, tmp_path: Path) -> None:
    source = sources.find("auto", pets)
    assert (source.name, source.folder) == ("pets", str(tmp_path / "pets"))
    assert source.label_names == ["background", "pet", "border"]
    assert source.files["cat0"] == ("images/cat0.jpg", "trimaps/cat0.png")
    assert source.orphans == ("trimaps/cat4.png",)
    assert source.read("cat1").mask[:, ::2].tolist() == 4 * [[1, 0, 2]] + 4 * [
        [0, 0, 2]
    ]


def test_lists_of_ids_are_the_split(pets: Layout) -> None:
    Path("val.txt").write_text("cat2.jpg\ncat0.jpg\n")
    one = sources.open_layout(dataclasses.replace(pets, val_ids="val.txt"))
    assert one.split == (["cat1", "cat3"], ["cat0", "cat2"])
    assert one.orphans == ("trimaps/cat4.png",)
    Path("train.txt").write_text("cat3\n")
    lists = {"train_ids": "train.txt", "val_ids": "val.txt"}
    both = sources.open_layout(dataclasses.replace(pets, **lists))
    assert both.split == (["cat3"], ["cat0", "cat2"])
    assert list(both.files) == ["cat0", "cat2", "cat3"]
    assert len(both.infos) == 6
    assert both.orphans == ()


@pytest.mark.parametrize("flag", ["images_dir", "masks_dir"])
def test_a_missing_folder_of_a_layout_is_named(pets: Layout, flag: str) -> None:
    with pytest.raises(SeamlineError, match=f"--{flag}=nowhere: no such folder"):
        sources.open_layout(dataclasses.replace(pets, **{flag: "nowhere"}))


def test_a_layout_without_pairs_is_refused(pets: Layout) -> None:
    with pytest.raises(SeamlineError, match="--masks_dir=trimaps: no masks"):
        sources.open_layout(dataclasses.replace(pets, mask_suffix="_gt"))


# What --dataset chooses


def test_ccp_without_a_network_is_an_error_and_never_the_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # Names below .invalid never resolve (RFC 2606).
    url = "https://archive.invalid/master.zip"
    monkeypatch.setattr(sources.download, "CCP_URL", url)
    with pytest.raises(SeamlineError, match=r"archive\.invalid cannot be reached"):
        sources.find("ccp")
    assert list(tmp_path.iterdir()) == []


def test_auto_takes_the_sample_and_says_so_when_nothing_can_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources.storage, "reachable", lambda url: False)
    written = []
    monkeypatch.setattr(
        sources.sample,
        "write_sample",
        lambda folder: written.append(folder) or _small_sample(folder),
    )
    said: list[str] = []
    monkeypatch.setattr(sources.log, "info", lambda text, *a: said.append(text % a))
    found = sources.find("auto")
    assert written == [sources.SAMPLE_FOLDER]
    assert found.notice == sources.SAMPLE_NOTICE
    assert "embedded sample" in said[0]


_write_real_sample = sources.sample.write_sample


def _small_sample(folder: str) -> None:
    _write_real_sample(folder, count=3)


def test_auto_prefers_ccp_that_is_there(
    tmp_path: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert not sources.at_hand("ccp")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "clothing-co-parsing").symlink_to(drawn)
    assert sources.at_hand("ccp")
    assert sources.find("auto").name == "clothing-co-parsing"


def test_only_what_was_named_is_at_hand(pets: Layout) -> None:
    assert not sources.at_hand("auto")
    assert sources.at_hand("auto", pets)
    assert sources.at_hand("sample")
    assert sources.at_hand("gs://bucket/ccp")
