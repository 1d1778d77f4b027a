"""Ops of colour, tone and cutout, and what holds for all random ops.

Oracles are the formulas, the matrices as the W3C prints them, and colorsys.
"""

from __future__ import annotations

import colorsys
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.draws import LAST, drawn, noise
from trainer.data import random_ops

LEVELS = np.arange(256, dtype=np.float64)


def toned(strengths: dict[str, float], **draws: float) -> np.ndarray:
    """What becomes of each level."""
    image = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(1, 16, 16, 3)
    mask = np.zeros((1, 16, 16), np.uint8)
    got, labels = random_ops.augment(image, mask, drawn(1, **draws), strengths)
    assert (labels == 0).all()
    assert (got == got[..., :1]).all()
    return got[0, ..., 0].ravel()


@pytest.mark.parametrize("number", [0.0, 0.25, LAST])
@pytest.mark.parametrize(
    ("name", "strength", "wanted"),
    [
        ("brightness", 0.3, lambda way: LEVELS + 0.3 * way * 255),
        ("contrast", 0.6, lambda way: 127.5 + (LEVELS - 127.5) * (1 + 0.6 * way)),
        ("gamma", 0.9, lambda way: 255 * (LEVELS / 255) ** np.exp(0.9 * way)),
    ],
)
def test_an_op_of_tone_follows_its_formula(
    name: str,
    strength: float,
    wanted: Callable[[float], np.ndarray],
    number: float,
) -> None:
    got = toned({name: strength}, **{name: number})
    formula = wanted(2 * float(number) - 1)
    np.testing.assert_allclose(got, np.clip(formula, 0, 255), rtol=0, atol=1e-3)
    assert abs(got - LEVELS).max() > 10


def test_ops_of_tone_come_in_the_order_gamma_contrast_brightness() -> None:
    strengths = {"brightness": 0.1, "contrast": 0.5, "gamma": 0.5}
    got = toned(strengths, brightness=0.0, contrast=LAST, gamma=LAST)
    levels = 255 * (LEVELS / 255) ** np.exp(0.5)
    wanted = np.clip(127.5 + (levels - 127.5) * 1.5 - 25.5, 0, 255)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-3)


def saturate(s: float) -> np.ndarray:
    """As the W3C writes it, number by number."""
    return np.array(
        [
            [0.213 + 0.787 * s, 0.715 - 0.715 * s, 0.072 - 0.072 * s],
            [0.213 - 0.213 * s, 0.715 + 0.285 * s, 0.072 - 0.072 * s],
            [0.213 - 0.213 * s, 0.715 - 0.715 * s, 0.072 + 0.928 * s],
        ]
    )


def hue_rotate(degrees: float) -> np.ndarray:
    """As the W3C writes it, number by number."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return (
        np.array([[0.213, 0.715, 0.072], [0.213, 0.715, 0.072], [0.213, 0.715, 0.072]])
        + c * np.array([[0.787, -0.715, -0.072], [-0.213, 0.285, -0.072],
                        [-0.213, -0.715, 0.928]])
        + s * np.array([[-0.213, -0.715, 0.928], [0.143, 0.140, -0.283],
                        [-0.787, 0.715, 0.072]])
    )  # fmt: skip


@pytest.mark.parametrize("number", [0.0, 0.25, LAST])
@pytest.mark.parametrize(
    ("strengths", "wanted"),
    [
        ({"hue": 0.3}, lambda way: hue_rotate(0.3 * way * 360)),
        ({"saturation": 0.8}, lambda way: saturate(1 + 0.8 * way)),
        (
            {"hue": 0.1, "saturation": 0.5},
            lambda way: saturate(1 + 0.5 * way) @ hue_rotate(0.1 * way * 360),
        ),
        ({"grey": 1.0}, lambda way: saturate(0)),
        ({"hue": 0.3, "grey": 1.0}, lambda way: saturate(0)),
    ],
    ids=["hue", "saturation", "hue+saturation", "grey", "hue+grey"],
)
def test_an_op_of_colour_follows_the_w3c_matrix(
    strengths: dict[str, float],
    wanted: Callable[[float], np.ndarray],
    number: float,
) -> None:
    images, masks = noise(1, 40, 40)
    amounts = drawn(1, **dict.fromkeys(strengths, number))
    got, labels = random_ops.augment(images, masks, amounts, strengths)
    matrix = wanted(2 * float(number) - 1)
    np.testing.assert_allclose(got, np.clip(images @ matrix.T, 0, 255), atol=1)
    np.testing.assert_array_equal(labels, masks)
    assert abs(got - images).max() > 30


def test_a_positive_hue_turns_red_towards_green() -> None:
    images = np.full((2, 1, 1, 3), (180, 90, 90), np.uint8)
    masks = np.zeros((2, 1, 1), np.uint8)
    amounts = drawn(2, hue=[[LAST], [0.0]])
    got, _ = random_ops.augment(images, masks, amounts, {"hue": 1 / 6})
    hues = [colorsys.rgb_to_hsv(*(pixel.ravel() / 255))[0] for pixel in got]
    assert 1 / 12 < hues[0] < 1 / 4
    assert 3 / 4 < hues[1] < 11 / 12


def test_grey_takes_the_colour_of_those_below_its_probability_alone() -> None:
    images, masks = noise(2, 20, 20)
    amounts = drawn(2, grey=[[0.39], [0.4]])
    got, _ = random_ops.augment(images, masks, amounts, {"grey": 0.4})
    luma = images[0] @ [0.213, 0.715, 0.072]
    np.testing.assert_allclose(got[0], np.stack([luma] * 3, axis=-1), atol=1)
    assert (got[0] == got[0, ..., :1]).all()
    np.testing.assert_array_equal(got[1], images[1])


def test_ops_of_colour_leave_greys_as_they_are() -> None:
    for seed in range(50):
        strengths = {"hue": 0.5, "saturation": 1.0, "grey": 0.3}
        numbers = drawn(1, seed)
        draws = {x: numbers[:, random_ops.columns(x)] for x in strengths}
        np.testing.assert_array_equal(toned(strengths, **draws), LEVELS)


def test_cutout_hides_one_square_in_image_and_mask() -> None:
    images, masks = noise(3, 40, 60)
    draws = [[0.5, 0.5, 0.5], [LAST, 0.25, 0.5], [LAST, 0, LAST]]
    amounts = drawn(3, cutout=draws)
    got, labels = random_ops.augment(images, masks, amounts, {"cutout": 0.5})
    wanted, wanted_labels = images.astype(np.float32), masks.copy()
    areas = (
        (slice(15, 25), slice(25, 35)),  # side 0.25 * 40 about (20, 30)
        (slice(0, 20), slice(20, 40)),  # side 0.5 * 40 about (10, 30)
        (slice(0, 10), slice(50, 60)),  # the same about a corner
    )
    for index, area in enumerate(areas):
        wanted[index][area] = 127.5
        wanted_labels[index][area] = 255
    np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(labels, wanted_labels)


def test_holes_are_of_all_sides_up_to_the_strength_and_in_all_places() -> None:
    masks = np.zeros((500, 100, 100), np.uint8)
    images = np.zeros((500, 100, 100, 3), np.uint8)
    _, labels = random_ops.augment(images, masks, drawn(500), {"cutout": 0.4})
    hidden = labels == 255
    sides = hidden.any(axis=1).sum(axis=1)
    assert sides.max() in (39, 40)
    assert sides.min() <= 1
    assert hidden.any(axis=0).all()


@pytest.mark.parametrize("name", [op.name for op in random_ops.OPS])
def test_strength_0_changes_nothing_and_the_default_changes_something(
    name: str,
) -> None:
    op = random_ops.OPS[[x.name for x in random_ops.OPS].index(name)]
    images, masks = noise(60, 32, 32)
    others = {x.name: x.default for x in random_ops.OPS if x.name != name}
    for rest in ({}, others):
        without = random_ops.augment(images, masks, drawn(60), rest)
        zero = random_ops.augment(images, masks, drawn(60), {**rest, name: 0.0})
        asked = random_ops.augment(images, masks, drawn(60), {**rest, name: op.default})
        for one, two in zip(without, zero, strict=True):
            np.testing.assert_array_equal(one, two)
        assert not np.array_equal(without[0], asked[0])
    plain, plain_masks = random_ops.augment(images, masks, drawn(60), {name: 0.0})
    np.testing.assert_array_equal(plain, images)
    np.testing.assert_array_equal(plain_masks, masks)


def test_each_op_has_random_numbers_of_its_own() -> None:
    used = [*np.zeros(random_ops.AMOUNTS)]
    for op in random_ops.OPS:
        for column in range(random_ops.AMOUNTS)[random_ops.columns(op.name)]:
            used[column] += 1
    assert used == [1] * random_ops.AMOUNTS
    with pytest.raises(KeyError):
        random_ops.columns("wild")


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (2, 3), (300, 4)])
def test_the_strongest_ops_work_for_any_size_and_leave_their_input_alone(
    size: tuple[int, int],
) -> None:
    images, masks = noise(20, *size)
    kept = images.copy(), masks.copy()
    images.flags.writeable = masks.flags.writeable = False
    strongest = {op.name: op.highest for op in random_ops.OPS}
    for amounts in (drawn(20), drawn(20) * 0, drawn(20) * 0 + LAST):
        got, labels = random_ops.augment(images, masks, amounts, strongest)
        assert (got.shape, got.dtype) == (images.shape, np.float32)
        assert (labels.shape, labels.dtype) == (masks.shape, np.uint8)
        assert np.isfinite(got).all()
        assert 0 <= got.min() <= got.max() <= 255
        # TensorFlow copies what does not start there.
        assert got.ctypes.data % 64 == 0
    np.testing.assert_array_equal(images, kept[0])
    np.testing.assert_array_equal(masks, kept[1])


def test_random_ops_do_not_need_tensorflow() -> None:
    code = "import sys, trainer.data.random_ops; print('tensorflow' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"
