"""What a source says of its files, on disks and in buckets."""

import dataclasses
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from tests.gcs import Cloud
from tests.gcs_gate import Request
from tests.test_sources import MASKS, keep_four, mask_path, opened
from trainer import storage
from trainer.data import sources
from trainer.data.pairs import BadSample
from trainer.errors import SeamlineError
from trainer.labels import CCP_LABELS
from trainer.layout import Layout


def upload(dataset: Path, url: str) -> str:
    for path in dataset.rglob("*"):
        if path.is_file():
            storage.write_bytes(f"{url}/{path.relative_to(dataset)}", path.read_bytes())
    return url


@pytest.fixture
def few(dataset: Path) -> Path:
    """Four pairs."""
    return keep_four(dataset)


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
    checksum = sources.storage.disk.crc32c
    monkeypatch.setattr(
        sources.storage.disk, "crc32c", lambda path: read.append(path) or checksum(path)
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
        "validation at once it would falsify scores; remove one pair"
    ]


def test_empty_photos_are_broken_and_not_the_same(few: Path) -> None:
    for name in ("0001", "0002"):
        (few / "photos" / f"{name}.jpg").write_bytes(b"")
    assert opened(few).duplicates() == []


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
