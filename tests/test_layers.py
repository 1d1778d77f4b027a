"""Layers over photos and the names on them."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from trainer.labels import palette
from trainer.results import layers, regions

COLOURS = palette(255)
SHAPE = (300, 200)


def opened(png: bytes) -> np.ndarray:
    """RGBA uint8 `[H, W, 4]`."""
    return np.array(Image.open(io.BytesIO(png)).convert("RGBA"))


@pytest.fixture
def mask() -> np.ndarray:
    mask = np.zeros((64, 64), np.uint8)
    mask[8:40, 8:56] = 14
    mask[44:60, 20:30] = 41
    mask[:, 62:] = 255
    return mask


def test_a_layer_has_the_form_of_the_photo_and_is_clear_on_the_background(
    mask: np.ndarray,
) -> None:
    layer = opened(layers.label_layer(mask, COLOURS, SHAPE))
    assert layer.shape == (384, 256, 4)
    assert layer[2, 2, 3] == 0
    np.testing.assert_array_equal(layer[144, 128, :3], COLOURS[14])
    assert 100 < layer[144, 128, 3] < 200
    assert layer[48, 128, 3] == 255, "the outline is opaque"


def test_errors_are_red_ignored_pixels_grey_and_right_ones_clear(
    mask: np.ndarray,
) -> None:
    labels = np.where(mask == 41, 2, np.where(mask == 255, 3, mask)).astype(np.uint8)
    layer = opened(layers.error_layer(mask, labels, SHAPE))
    assert tuple(layer[312, 100, :3]) == layers.WRONG
    assert layer[144, 128, 3] == 0
    assert tuple(layer[200, 254, :3]) == (128, 128, 128)


def test_a_spot_shows_one_region_and_darkens_the_rest(mask: np.ndarray) -> None:
    layer = opened(layers.spot_layer(mask == 41, COLOURS[2], SHAPE))
    np.testing.assert_array_equal(layer[312, 100, :3], COLOURS[2])
    assert layer[2, 2, :3].max() < 30
    assert layer[2, 2, 3] > 100


def test_more_colours_than_a_table_holds_are_drawn_all_the_same() -> None:
    mask = np.arange(256, dtype=np.uint8).reshape(16, 16)
    layer = opened(layers.label_layer(mask, COLOURS, (16, 16)))
    np.testing.assert_array_equal(layer[204, 204, :3], COLOURS[mask[8, 8]])


def test_labels_can_be_read_back_from_their_map(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(layers.read_map(layers.label_map(mask)), mask)


def test_a_name_stands_in_the_roomiest_place_of_the_largest_region() -> None:
    mask = np.zeros((60, 100), np.uint8)
    mask[10:30, 20:60] = 7
    mask[40:44, 0:100] = 7
    [place] = regions.find_places(mask)
    assert place.label == 7
    assert place.x == pytest.approx(0.4, abs=0.02)
    assert place.y == pytest.approx(20 / 60, abs=0.02)
    assert place.width == pytest.approx(0.4, abs=0.02)
    assert place.height == pytest.approx(20 / 60, abs=0.04)


def test_a_name_stands_inside_a_region_with_a_hole() -> None:
    mask = np.zeros((50, 50), np.uint8)
    mask[5:45, 5:45] = 3
    mask[15:35, 12:38] = 0
    [place] = regions.find_places(mask)
    assert mask[int(place.y * 50), int(place.x * 50)] == 3


def test_background_and_ignored_pixels_carry_no_name() -> None:
    mask = np.zeros((9, 9), np.uint8)
    mask[3:, :] = 255
    assert regions.find_places(mask) == []


def test_names_that_would_not_fit_are_left_out() -> None:
    mask = np.zeros((100, 100), np.uint8)
    mask[10:60, 10:90] = 1
    mask[70:73, 10:90] = 2
    mask[80:95, 10:14] = 3
    names = ["null", "dress", "flat", "narrow"]
    found = regions.named_places(mask, names, 10, (100, 100))
    assert [name for name, _, _ in found] == ["dress"]


def test_small_classes_are_passed_over_where_no_name_would_fit() -> None:
    random = np.random.default_rng(0)
    coarse = random.integers(0, 40, (24, 16), np.uint8)
    mask = cv2.resize(coarse, (96, 144), interpolation=cv2.INTER_NEAREST)
    mask[20:100, 10:80] = 7
    names = [f"{label}" for label in range(40)]
    every = {place.label: place for place in regions.find_places(mask)}
    for size in (5, 9, 14):
        fits = {
            names[label]
            for label, place in every.items()
            if place.height * 144 >= 0.8 * size
            and place.width * 96 * 1.5 >= 0.56 * size * len(names[label])
        }
        found = regions.named_places(mask, names, size, (144, 96))
        assert {name for name, _, _ in found} == fits
        assert "7" in fits


def test_names_of_a_large_photo_stand_where_those_of_a_small_one_do() -> None:
    mask = np.zeros((200, 160), np.uint8)
    mask[30:150, 20:130] = 1
    large = cv2.resize(mask, None, fx=5, fy=5, interpolation=cv2.INTER_NEAREST)
    centres = []
    for shown in (mask, large):
        picture = np.full((*shown.shape, 3), 128, np.uint8)
        regions.draw_names(picture, shown, ["null", "dress"])
        rows, columns = np.nonzero((picture != 128).any(-1))
        centres.append([rows.mean() / len(shown), columns.mean() / shown.shape[1]])
    assert centres[0] == pytest.approx(centres[1], abs=0.02)


def test_a_name_is_cut_at_the_border() -> None:
    mask = np.zeros((100, 60), np.uint8)
    mask[20:60, 0:50] = 1
    picture = np.full((100, 60, 3), 128, np.uint8)
    regions.draw_names(picture, mask, ["null", "turtleneck"])
    assert (picture[20:60, 0] != 128).any()
    assert (picture[70:] == 128).all()


def test_names_are_written_white_on_dark_within_the_picture() -> None:
    picture = np.full((200, 200, 3), 128, np.uint8)
    mask = np.zeros((200, 200), np.uint8)
    mask[50:150, 20:180] = 1
    written = regions.write_names(picture, mask, ["null", "dress"])
    changed = (written != picture).any(-1)
    rows, columns = np.nonzero(changed)
    assert (picture == 128).all(), "the picture itself stays"
    assert written.max() > 240
    assert written.min() < 40
    assert abs((rows.min() + rows.max()) / 2 - 100) < 4
    assert abs((columns.min() + columns.max()) / 2 - 100) < 4
