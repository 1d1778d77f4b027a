from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io

from trainer.data import sources
from trainer.data.sources import BadSample
from trainer.errors import SeamlineError
from trainer.labels import CCP_LABELS


def mask_path(dataset: Path, image_id: str) -> Path:
    return dataset / "annotations" / "pixel-level" / f"{image_id}.mat"


def read(dataset: Path, image_id: str = "0002") -> sources.Sample:
    return sources.open_folder(str(dataset), name="x").read(image_id)


def test_a_pair_is_read_as_rgb_and_label_ids(drawn: Path) -> None:
    sample = read(drawn)
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
    found = list(sources.open_folder(str(dataset), name="x").files)
    assert found == [
        *("0001", "0002", "0006", "0007", "0008", "0009", "0010", "0011", "0012"),
        *("0013", "0014", "street"),
    ]


def test_label_names_come_from_the_datasets_own_list(drawn: Path) -> None:
    assert sources.open_folder(str(drawn), name="x").label_names == CCP_LABELS


def test_the_listing_changes_when_a_file_does(dataset: Path) -> None:
    before = sources.open_folder(str(dataset), name="x").listing()
    photo = dataset / "photos" / "0001.jpg"
    photo.write_bytes(photo.read_bytes() + b"\0")
    assert sources.open_folder(str(dataset), name="x").listing() != before


def test_a_mask_of_another_size_is_refused(dataset: Path) -> None:
    scipy.io.savemat(
        mask_path(dataset, "0002"), {"groundtruth": np.zeros((400, 300), np.uint8)}
    )
    with pytest.raises(BadSample, match=r"0002\.mat: mask of 300x400 pixels.*200x300"):
        read(dataset)


def test_a_label_without_a_name_is_refused_but_ignore_is_not(dataset: Path) -> None:
    path = mask_path(dataset, "0002")
    mask = scipy.io.loadmat(path)["groundtruth"]
    mask[0, 0] = 255
    scipy.io.savemat(path, {"groundtruth": mask})
    assert read(dataset).mask[0, 0] == 255
    mask[0, 1] = 77
    scipy.io.savemat(path, {"groundtruth": mask})
    with pytest.raises(BadSample, match=r"0002\.mat: label 77.*0\.\.58"):
        read(dataset)


@pytest.mark.parametrize("kept", [0, 2, 100, 0.5, 0.99])
def test_a_truncated_photo_is_refused(dataset: Path, kept: float) -> None:
    photo = dataset / "photos" / "0002.jpg"
    content = photo.read_bytes()
    photo.write_bytes(
        content[: kept if isinstance(kept, int) else int(kept * len(content))]
    )
    with pytest.raises(BadSample, match=r"0002\.jpg: (truncated JPEG|cannot be)"):
        read(dataset)


def test_a_mask_file_that_is_no_matlab_file_is_refused(dataset: Path) -> None:
    mask_path(dataset, "0002").write_bytes(b"hello" * 40)
    with pytest.raises(BadSample, match=r"0002\.mat: not a readable MATLAB file"):
        read(dataset)


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"other": np.zeros((300, 200), np.uint8)}, "no variable 'groundtruth'"),
        ({"groundtruth": np.zeros((300, 200))}, "float64"),
        ({"groundtruth": np.zeros((300, 200, 3), np.uint8)}, "3 axes"),
    ],
)
def test_a_mask_of_the_wrong_kind_is_refused(
    dataset: Path, variables: dict[str, np.ndarray], problem: str
) -> None:
    scipy.io.savemat(mask_path(dataset, "0002"), variables)
    with pytest.raises(BadSample, match=problem):
        read(dataset)


def test_a_folder_that_is_not_there_is_named() -> None:
    with pytest.raises(SeamlineError, match="--dataset=/nowhere: no such folder"):
        sources.find("/nowhere")


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


def test_a_folder_without_pairs_says_what_it_found(dataset: Path) -> None:
    for mask in (dataset / "annotations" / "pixel-level").iterdir():
        mask.unlink()
    with pytest.raises(SeamlineError, match=r"14 photos in photos/, 0 masks"):
        sources.find(str(dataset))


def test_a_missing_label_list_is_named(dataset: Path) -> None:
    (dataset / "label_list.mat").unlink()
    with pytest.raises(SeamlineError, match=r"label_list\.mat: no readable label list"):
        sources.find(str(dataset))


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
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "clothing-co-parsing").symlink_to(drawn)
    assert sources.find("auto").name == "clothing-co-parsing"
