import dataclasses
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import scipy.io

from tests.conftest import ROOT
from tests.gcs import Cloud
from tests.gcs_gate import Request
from trainer import storage
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


def upload(dataset: Path, url: str) -> str:
    for path in dataset.rglob("*"):
        if path.is_file():
            storage.write_bytes(f"{url}/{path.relative_to(dataset)}", path.read_bytes())
    return url


@pytest.fixture
def few(dataset: Path) -> Path:
    """Four pairs of `dataset`."""
    for photo in sorted((dataset / "photos").iterdir())[4:]:
        photo.unlink()
        mask_path(dataset, photo.stem).unlink()
    return dataset


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


# What a source says of its files


def test_the_listing_is_that_of_a_copy_elsewhere(few: Path, tmp_path: Path) -> None:
    before = opened(few).listing()
    assert opened(few.rename(tmp_path / "elsewhere")).listing() == before


def _longer_photo(few: Path) -> None:
    photo = few / "photos" / "0001.jpg"
    photo.write_bytes(photo.read_bytes() + b"\0")


def _mask_of_the_same_size(few: Path) -> None:
    mask = mask_path(few, "0002")
    content = bytearray(mask.read_bytes())
    content[-1] ^= 1
    mask.write_bytes(bytes(content))


def _other_names(few: Path) -> None:
    names = np.array([*CCP_LABELS[:-1], "wedge"], object)
    scipy.io.savemat(few / "label_list.mat", {"label_list": names})


def _other_id(few: Path) -> None:
    (few / "photos" / "0003.jpg").rename(few / "photos" / "street.jpg")
    mask_path(few, "0003").rename(mask_path(few, "street"))


@pytest.mark.parametrize(
    "change", [_longer_photo, _mask_of_the_same_size, _other_names, _other_id]
)
def test_the_listing_changes_when_a_file_does(
    few: Path, change: Callable[[Path], None]
) -> None:
    before = opened(few).listing()
    change(few)
    assert opened(few).listing() != before


@pytest.mark.parametrize(
    "change",
    [
        {"ignore_ids": (255, 200)},
        {"mask_variable": "other"},
        {"val_ids": "val.txt"},
        {"val_ids": "val.txt", "train_ids": "train.txt"},
    ],
)
def test_the_listing_changes_when_the_meaning_of_the_files_does(
    few: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    monkeypatch.chdir(few)
    (few / "val.txt").write_text("0001\n")
    (few / "train.txt").write_text("0002\n0003\n")
    layout = Layout(images_dir="photos", masks_dir=MASKS, label_names="label_list.mat")
    plain = sources.open_layout(layout)
    changed = sources.open_layout(dataclasses.replace(layout, **change))
    assert plain.listing() == opened(few).listing()
    assert changed.listing() != plain.listing()


def test_the_listing_reads_each_mask_once(
    few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    checksum = sources.disk.crc32c
    monkeypatch.setattr(
        sources.disk, "crc32c", lambda path: read.append(path) or checksum(path)
    )
    source = opened(few)
    assert source.listing() == source.listing()
    assert sorted(read) == [str(mask_path(few, f"000{k}")) for k in range(1, 5)]


def test_a_mask_that_vanished_has_a_listing_of_its_own(few: Path) -> None:
    whole, source = opened(few), opened(few)
    before = whole.listing()
    mask_path(few, "0002").unlink()
    assert source.listing() != before


def test_a_photo_that_comes_twice_is_found(few: Path) -> None:
    assert opened(few).duplicates() == []
    first, other = few / "photos" / "0001.jpg", few / "photos" / "0003.jpg"
    other.write_bytes(first.read_bytes())
    (few / "photos" / "0004.jpg").write_bytes(first.read_bytes()[:-3] + b"\0\xff\xd9")
    assert [str(problem) for problem in opened(few).duplicates()] == [
        "photos/0003.jpg: the same photo as photos/0001.jpg; in training and in "
        "validation at once it falsifies the scores; remove one pair"
    ]


def test_photos_of_a_size_of_their_own_are_not_read(
    few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo, read = few / "photos" / "0002.jpg", []
    photo.write_bytes((few / "photos" / "0001.jpg").read_bytes())
    real = storage.read_bytes
    monkeypatch.setattr(
        storage, "read_bytes", lambda path: read.append(path) or real(path)
    )
    source = opened(few)
    read.clear()
    assert len(source.duplicates()) == 1
    assert {os.path.basename(path) for path in read} == {"0001.jpg", "0002.jpg"}


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


# Buckets


def test_a_source_in_a_bucket_is_the_same(few: Path, bucket: str) -> None:
    (few / "photos" / "0003.jpg").write_bytes((few / "photos/0001.jpg").read_bytes())
    here, there = opened(few), sources.find(upload(few, f"{bucket}/sets/ccp"))
    assert (there.name, there.folder) == ("ccp", f"{bucket}/sets/ccp")
    assert there.files == here.files
    assert there.listing() == here.listing()
    assert [str(x) for x in there.duplicates()] == [str(x) for x in here.duplicates()]
    assert len(here.duplicates()) == 1
    assert there.read_files(list(there.files)) == here.read_files(list(here.files))
    np.testing.assert_array_equal(there.read("0002").image, here.read("0002").image)


def test_the_listing_of_a_bucket_fetches_no_photo_and_no_mask(
    few: Path, bucket: str, cloud: Cloud
) -> None:
    url = upload(few, f"{bucket}/ccp")
    with cloud.watching() as requests:
        source = sources.find(url)
        source.listing()
        assert source.duplicates() == []
    fetched = [request.path for request in requests if "alt=media" in request.path]
    assert len(fetched) == 1
    assert "label_list.mat" in fetched[0]


def test_files_of_a_bucket_are_fetched_at_once(
    few: Path, bucket: str, cloud: Cloud
) -> None:
    source = sources.find(upload(few, f"{bucket}/ccp"))
    together = threading.Barrier(8)

    def hold(request: Request) -> None:
        if "alt=media" in request.path:
            together.wait(timeout=30)

    with cloud.watching(hold):
        read = source.read_files(list(source.files))
    assert not any(isinstance(content, BadSample) for content in read.values())
    assert not together.broken


def test_a_file_that_left_its_bucket_spoils_its_pair_alone(
    few: Path, bucket: str
) -> None:
    source = sources.find(upload(few, f"{bucket}/ccp"))
    storage.remove_file(f"{bucket}/ccp/photos/0002.jpg")
    read = source.read_files(["0001", "0002"])
    assert isinstance(read["0001"], tuple)
    assert "photos/0002.jpg: cannot be read (No such file" in str(read["0002"])


def test_a_bucket_without_pairs_is_named(bucket: str) -> None:
    with pytest.raises(
        SeamlineError, match=rf"--dataset={bucket}/x: no pairs: 0 photos"
    ):
        sources.find(f"{bucket}/x")


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
