"""Class names and the palette."""

import numpy as np
import pytest

from trainer.labels import CCP_LABELS, IGNORE_LABEL, palette

FREQUENT = (
    "null skin pants coat dress hair bag blouse jeans shoes skirt suit shirt blazer "
    "sweater purse t-shirt jacket vest cape"
).split()
"""The 20 classes of CCP with the most pixels."""
TOUCHING = (
    "hair-skin dress-skin coat-skin shoes-skin skin-sunglasses blouse-skin pants-skin "
    "coat-dress skin-skirt coat-hair bag-skin bag-coat shirt-skin coat-pants bag-dress "
    "skin-t-shirt shirt-suit skin-vest blouse-hair purse-skin accessories-skin "
    "bag-pants blazer-skin coat-sweater pants-purse pants-shoes shorts-skin "
    "hair-sunglasses jeans-skin blazer-hair"
).split()
"""The pairs of classes with the longest common borders in the masks of CCP."""

# G. M. Machado, M. M. Oliveira, L. A. F. Fernandes, "A physiologically-based model for
# simulation of color vision deficiency", 2009: severity 1.0, on linear RGB.
SEEN = {
    "as it is": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
}


def oklab(linear: np.ndarray) -> np.ndarray:
    """Linear RGB `[N, 3]` in 0..1 to OKLab (B. Ottosson, 2020)."""
    cones = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    opponents = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    return np.cbrt(np.clip(linear, 0, 1) @ cones.T) @ opponents.T


def distances(colours: np.ndarray, seen: str = "as it is") -> np.ndarray:
    """OKLab distances between uint8 sRGB `[N, 3]`: `[N, N]`, diagonal inf."""
    part = colours / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    lab = oklab(linear @ SEEN[seen].T)
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
    np.fill_diagonal(apart, np.inf)
    return apart


def least(everyone: float, colour_blind: float) -> list[tuple[str, float]]:
    """The least distance by who looks."""
    return [(x, everyone if x == "as it is" else colour_blind) for x in SEEN]


def ids(names: list[str]) -> list[int]:
    return [CCP_LABELS.index(name) for name in names]


def test_oklab_has_its_known_values_for_white_red_green_and_blue() -> None:
    found = oklab(np.array([[1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]], float))
    known = [
        [1.0, 0.0, 0.0],
        [0.628, 0.225, 0.126],
        [0.866, -0.234, 0.179],
        [0.452, -0.032, -0.312],
    ]
    np.testing.assert_allclose(found, known, atol=0.001)


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


@pytest.mark.parametrize(("seen", "least"), least(0.065, 0.04))
def test_palette_tells_all_59_classes_background_and_ignored_pixels_apart(
    seen: str, least: float
) -> None:
    colours = palette(59)[[*range(59), IGNORE_LABEL]]
    assert distances(colours, seen).min() >= least


@pytest.mark.parametrize(("seen", "least"), least(0.13, 0.075))
def test_frequent_classes_of_ccp_differ_clearly(seen: str, least: float) -> None:
    assert distances(palette(59)[ids(FREQUENT)], seen).min() >= least


@pytest.mark.parametrize(("seen", "least"), least(0.14, 0.09))
def test_classes_that_often_touch_differ_the_most(seen: str, least: float) -> None:
    apart = distances(palette(59)[:59], seen)
    pairs = [ids(pair.split("-", 1)) for pair in TOUCHING]
    assert min(apart[row, column] for row, column in pairs) >= least


def test_a_label_keeps_its_colour_whatever_the_number_of_classes() -> None:
    np.testing.assert_array_equal(palette(59)[:20], palette(20)[:20])
    np.testing.assert_array_equal(palette(200)[:59], palette(59)[:59])
    assert (palette(20)[20:] == 128).all()


def test_palette_gives_every_one_of_255_classes_its_own_colour() -> None:
    assert len(np.unique(palette(255)[:255], axis=0)) == 255
    np.testing.assert_array_equal(palette(1000), palette(255))
