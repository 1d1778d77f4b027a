from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io

from trainer.data import sample
from trainer.errors import SeamlineError
from trainer.labels import CCP_LABELS

HAIR, SKIN, JEANS = (CCP_LABELS.index(name) for name in ("hair", "skin", "jeans"))


@pytest.fixture(scope="module")
def figures() -> list[tuple[np.ndarray, np.ndarray]]:
    return [sample.draw_figure(0, index) for index in range(60)]


def _contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_the_same_seed_draws_the_same_pixels() -> None:
    sample.draw_figure(3, 4)
    first, second = sample.draw_figure(3, 5), sample.draw_figure(3, 5)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_other_seeds_and_indices_draw_other_figures() -> None:
    image, mask = sample.draw_figure(3, 5)
    for other in (sample.draw_figure(4, 5), sample.draw_figure(3, 6)):
        assert (image != other[0]).any()
        assert (mask != other[1]).any()


@pytest.mark.parametrize(("height", "width"), [(300, 200), (150, 100), (241, 161)])
def test_picture_and_mask_have_the_size_asked_for(height: int, width: int) -> None:
    image, mask = sample.draw_figure(0, 0, height=height, width=width)
    assert (image.shape, image.dtype) == ((height, width, 3), np.uint8)
    assert (mask.shape, mask.dtype) == ((height, width), np.uint8)


def test_masks_hold_ids_of_the_ccp_label_list(
    figures: list[tuple[np.ndarray, np.ndarray]],
) -> None:
    used = np.unique([mask for _, mask in figures])
    assert used[0] == 0
    assert used[-1] < len(CCP_LABELS)


def test_classes_are_as_unbalanced_as_in_street_photographs(
    figures: list[tuple[np.ndarray, np.ndarray]],
) -> None:
    masks = [mask for _, mask in figures]
    counts = np.array([np.bincount(mask.ravel(), minlength=59) for mask in masks])
    share = counts.sum(0) / counts.sum()
    frequency = (counts > 0).mean(0)
    used = share > 0
    assert 0.6 < share[0] < 0.85
    assert 10 <= used.sum() <= 16
    assert frequency[used].min() >= 0.08
    assert share[used].min() < 0.01 < 0.02 < np.sort(share)[-2]


def test_no_class_leaves_mere_specks(
    figures: list[tuple[np.ndarray, np.ndarray]],
) -> None:
    areas = {
        label: [np.mean(mask == label) for _, mask in figures if (mask == label).any()]
        for label in np.unique([mask for _, mask in figures])
    }
    assert min(np.median(area) for area in areas.values()) > 0.003


def test_the_figure_fills_most_of_the_height_and_stands_near_the_middle(
    figures: list[tuple[np.ndarray, np.ndarray]],
) -> None:
    for _, mask in figures:
        rows, columns = np.nonzero(mask)
        assert 0.7 < (rows.max() - rows.min()) / 300 < 0.98
        assert 70 < columns.mean() < 130


def test_every_mask_is_one_person_without_loose_pieces(
    figures: list[tuple[np.ndarray, np.ndarray]],
) -> None:
    for _, mask in figures:
        body = (mask > 0).astype(np.uint8)
        stats = cv2.connectedComponentsWithStats(body, connectivity=8)[2]
        largest = stats[1:, cv2.CC_STAT_AREA].max()
        assert largest > 0.99 * body.sum()


def test_mask_edges_lie_on_edges_of_the_picture(
    figures: list[tuple[np.ndarray, np.ndarray]],
) -> None:
    agree = []
    for image, mask in figures:
        grey = cv2.GaussianBlur(image, (0, 0), 1).astype(float)
        steps = np.abs(np.diff(grey, axis=1)).sum(2)
        edge = np.diff((mask > 0).astype(int), axis=1) != 0
        shifted = np.roll(edge, 8, axis=1) & ~edge
        agree.append(steps[edge].mean() / steps[shifted].mean())
    assert np.median(agree) > 2


def test_hair_is_coloured_apart_from_its_surroundings_and_jeans_are_blue(
    figures: list[tuple[np.ndarray, np.ndarray]],
) -> None:
    apart, blue = [], []
    for image, mask in figures:
        hair = (mask == HAIR).astype(np.uint8)
        ring = cv2.dilate(hair, np.ones((9, 9), np.uint8)) - hair
        inner, outer = image[hair > 0].mean(0), image[ring > 0].mean(0)
        apart.append(np.abs(inner - outer).sum())
        if (mask == JEANS).any():
            red, _, third = image[mask == JEANS].mean(0)
            blue.append(third - red)
    assert np.median(apart) > 60
    assert np.mean(np.array(blue) > 0) > 0.95


def test_the_layout_reads_like_clothing_co_parsing(tmp_path: Path) -> None:
    folder = tmp_path / "sample"
    sample.write_sample(str(folder), count=3, seed=1)
    names = scipy.io.loadmat(folder / "label_list.mat")["label_list"]
    assert names.shape == (1, 59)
    assert [str(cell[0]) for cell in names[0]] == CCP_LABELS
    for index in range(3):
        stem = f"{index + 1:04d}"
        photo = cv2.imread(str(folder / "photos" / f"{stem}.jpg"))[..., ::-1]
        path = folder / "annotations" / "pixel-level" / f"{stem}.mat"
        truth = scipy.io.loadmat(path)["groundtruth"]
        image, mask = sample.draw_figure(1, index)
        np.testing.assert_array_equal(truth, mask)
        assert truth.dtype == np.uint8
        assert np.abs(photo.astype(int) - image).mean() < 6
    assert len(_contents(folder)) == 7


def test_two_folders_of_one_seed_hold_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        sample.write_sample(str(tmp_path / name), count=4)
    assert _contents(tmp_path / "one") == _contents(tmp_path / "two")


def test_an_interruption_leaves_no_folder_and_a_rerun_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = sample.draw_figure

    def fails_at_the_fourth(seed: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        if index == 3:
            raise KeyboardInterrupt
        return draw(seed, index)

    folder = tmp_path / "sample"
    with monkeypatch.context() as patch:
        patch.setattr(sample, "draw_figure", fails_at_the_fourth)
        with pytest.raises(KeyboardInterrupt):
            sample.write_sample(str(folder), count=5)
    assert not folder.exists()
    stale = tmp_path / "sample.partial" / "photos" / "9999.jpg"
    stale.write_bytes(b"left over")
    sample.write_sample(str(folder), count=5)
    assert os.listdir(tmp_path) == ["sample"]
    assert len(os.listdir(folder / "photos")) == 5


def test_a_complete_folder_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "sample"
    sample.write_sample(str(folder), count=1)
    (folder / "photos" / "0001.jpg").write_bytes(b"mine")
    sample.write_sample(str(folder), count=1)
    assert (folder / "photos" / "0001.jpg").read_bytes() == b"mine"


def test_a_folder_with_other_things_in_it_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("keep")
    with pytest.raises(SeamlineError, match=r"no label_list\.mat"):
        sample.write_sample(str(tmp_path), count=1)
    assert (tmp_path / "notes.txt").read_text() == "keep"
