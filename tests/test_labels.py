"""Class names and the palette."""

import cv2
import numpy as np

from trainer.labels import CCP_LABELS, IGNORE_LABEL, palette

FREQUENT = [2, 5, 7, 13, 14, 19, 20, 24, 25, 31, 38, 39, 40, 41, 42, 48, 51]


def distances(colours: np.ndarray) -> np.ndarray:
    """CIELAB distances between uint8 `[N, 3]` colours: `[N, N]`, diagonal inf."""
    lab = cv2.cvtColor(colours[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
    np.fill_diagonal(apart, np.inf)
    return apart


def test_ccp_has_59_different_names_in_the_order_of_its_label_list() -> None:
    assert len(set(CCP_LABELS)) == len(CCP_LABELS) == 59
    ids = {name: CCP_LABELS.index(name) for name in ("null", "skin", "dress", "wedges")}
    assert ids == {"null": 0, "skin": 41, "dress": 14, "wedges": 58}


def test_palette_covers_every_mask_value() -> None:
    colours = palette(59)
    assert colours.shape == (256, 3)
    assert colours.dtype == np.uint8
    assert colours[0].max() < 40
    assert colours[IGNORE_LABEL].tolist() == [128, 128, 128]


def test_palette_tells_all_59_classes_background_and_ignored_pixels_apart() -> None:
    assert distances(palette(59)[[*range(59), IGNORE_LABEL]]).min() >= 20


def test_frequent_classes_of_ccp_differ_clearly() -> None:
    assert CCP_LABELS[FREQUENT[-1]] == "t-shirt"
    assert distances(palette(59)[FREQUENT]).min() >= 28


def test_a_label_keeps_its_colour_whatever_the_number_of_classes() -> None:
    np.testing.assert_array_equal(palette(59)[:20], palette(20)[:20])
    np.testing.assert_array_equal(palette(200)[:59], palette(59)[:59])
    assert (palette(20)[20:] == 128).all()


def test_palette_gives_every_one_of_255_classes_its_own_colour() -> None:
    assert len(np.unique(palette(255)[:255], axis=0)) == 255
    np.testing.assert_array_equal(palette(1000), palette(255))
