"""Ops that move pixels, against maps and sampling in NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from tests.draws import LAST, drawn, noise
from trainer.data import random_ops

GEOMETRY = {"flip": 0.5, "crop": 0.5, "scale": 0.3, "stretch": 0.4, "rotate": 60.0}
CHOICES = [*({name: GEOMETRY[name]} for name in GEOMETRY), GEOMETRY]
SIZES = [(48, 48), (37, 53), (50, 21)]


def blocks(count: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Masks of 8x8 blocks of a label, and images that are their masks."""
    labels = np.random.default_rng(8).integers(1, 59, (count, 8, 8))
    masks = np.kron(labels, np.ones((1, 8, 8)))[:, :height, :width].astype(np.uint8)
    return np.repeat(masks[..., np.newaxis], 3, axis=3), masks


def positions(
    amounts: np.ndarray, strengths: dict[str, float], height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Oracle: where in the input each output pixel looks, as a chain of steps.

    Returns:
      x and y, float64 `[B, H, W]`.
    """
    draw = {op.name: amounts[:, random_ops.columns(op.name)] for op in random_ops.OPS}
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    all_x, all_y = [], []
    for index in range(len(amounts)):

        def way(name: str, index: int = index) -> float:
            number = float(draw[name][index, 0])
            return strengths.get(name, 0.0) * (2 * number - 1)

        x, y = columns - (width - 1) / 2, rows - (height - 1) / 2
        if draw["flip"][index, 0] < strengths.get("flip", 0.0):
            x = -x
        x, y = x / np.exp(way("stretch")) ** 0.5, y * np.exp(way("stretch")) ** 0.5
        x, y = x / np.exp(way("scale")), y / np.exp(way("scale"))
        part, down, right = map(float, draw["crop"][index])
        side = 1 - strengths.get("crop", 0.0) * part
        turned = (x + 1j * y) * side * np.exp(1j * np.deg2rad(way("rotate")))
        left, top = right * (width - side * width), down * (height - side * height)
        all_x.append(turned.real + left + side * width / 2 - 0.5)
        all_y.append(turned.imag + top + side * height / 2 - 0.5)
    return np.stack(all_x), np.stack(all_y)


def sample(values: np.ndarray, x: np.ndarray, y: np.ndarray, fill: int) -> np.ndarray:
    """Oracle: `values[b, y, x]` for integer x, y; `fill` outside."""
    count, height, width = values.shape[:3]
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    example = np.arange(count)[:, np.newaxis, np.newaxis]
    found = values[example, np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]
    inside = inside.reshape(inside.shape + (1,) * (values.ndim - 3))
    return np.where(inside, found, fill).astype(np.float64)


def corners(x: np.ndarray, y: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    return [(left + dx, top + dy) for dy in (0, 1) for dx in (0, 1)]


def near_a_tie(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.minimum(abs(x % 1 - 0.5), abs(y % 1 - 0.5)) < 1e-3


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("strengths", CHOICES, ids=lambda x: "+".join(x))
def test_images_and_masks_move_as_the_oracles_map_says(
    strengths: dict[str, float], size: tuple[int, int]
) -> None:
    images, masks = noise(200, *size)
    amounts = drawn(200)
    moved, labels = random_ops.augment(images, masks, amounts, strengths)
    x, y = positions(amounts, strengths, *size)

    nearest = np.floor(x + 0.5).astype(int), np.floor(y + 0.5).astype(int)
    clear = ~near_a_tie(x, y)
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(
        labels[clear], sample(masks, *nearest, fill=255)[clear]
    )
    assert (labels != masks).mean() > 0.3

    along, down = (x % 1)[..., np.newaxis], (y % 1)[..., np.newaxis]
    weights = [
        *((1 - down) * (1 - along), (1 - down) * along),
        *(down * (1 - along), down * along),
    ]
    wanted = sum(
        weight * sample(images, *corner, fill=0)
        for weight, corner in zip(weights, corners(x, y), strict=True)
    )
    np.testing.assert_allclose(moved, wanted, atol=1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("strengths", CHOICES, ids=lambda x: "+".join(x))
def test_a_mask_moves_exactly_with_an_image_that_shows_it(
    strengths: dict[str, float], size: tuple[int, int]
) -> None:
    images, masks = blocks(200, *size)
    amounts = drawn(200, seed=1)
    moved, labels = random_ops.augment(images, masks, amounts, strengths)
    x, y = positions(amounts, strengths, *size)
    around = np.stack([sample(masks, *corner, fill=255) for corner in corners(x, y)])
    pure = (around == around[0]).all(axis=0) & (around[0] != 255)
    assert pure.mean() > 0.3
    for channel in range(3):
        np.testing.assert_array_equal(moved[..., channel][pure], labels[pure])


@pytest.mark.parametrize("strengths", CHOICES, ids=lambda x: "+".join(x))
def test_no_label_appears_and_what_lies_outside_is_ignored(
    strengths: dict[str, float],
) -> None:
    _, masks = noise(200, 37, 53)
    masks = masks % 5 * 50
    images = np.full((200, 37, 53, 3), 200, np.uint8)
    amounts = drawn(200, seed=2)
    moved, labels = random_ops.augment(images, masks, amounts, strengths)
    assert set(np.unique(labels)) <= {0, 50, 100, 150, 200, 255}
    x, y = positions(amounts, strengths, 37, 53)
    beyond = np.maximum(abs(x - 26) - 26.5, abs(y - 18) - 18.5)
    assert (labels[beyond > 1e-3] == 255).all()
    assert (labels[beyond < -1e-3] != 255).all()
    assert (moved[beyond > 0.501] == 0).all()
    assert (beyond > 1e-3).any() == bool({"scale", "stretch", "rotate"} & {*strengths})


def test_warp_moves_by_any_matrix() -> None:
    images, masks = noise(2, 20, 30)
    right = np.array([[1, 0, -3], [0, 1, 0]])
    upside_down = np.array([[1, 0, 0], [0, -1, 19]])
    matrices = np.stack([right, upside_down]).astype(np.float64)
    moved, labels = random_ops.warp(images, masks, matrices)
    np.testing.assert_array_equal(moved[0, :, 3:], images[0, :, :-3])
    np.testing.assert_array_equal(labels[0, :, 3:], masks[0, :, :-3])
    assert (moved[0, :, :3] == 0).all()
    assert (labels[0, :, :3] == 255).all()
    np.testing.assert_array_equal(moved[1], images[1, ::-1])
    np.testing.assert_array_equal(labels[1], masks[1, ::-1])
    assert moved.dtype == labels.dtype == np.uint8


def test_flip_mirrors_those_whose_number_is_below_the_probability() -> None:
    images, masks = noise(3, 21, 34)
    amounts = drawn(3, flip=[[0.0], [0.29], [0.3]])
    moved, labels = random_ops.augment(images, masks, amounts, {"flip": 0.3})
    np.testing.assert_array_equal(moved[:2], images[:2, :, ::-1])
    np.testing.assert_array_equal(labels[:2], masks[:2, :, ::-1])
    np.testing.assert_array_equal(moved[2], images[2])
    np.testing.assert_array_equal(labels[2], masks[2])


def test_a_crop_lies_between_the_whole_image_and_its_corners() -> None:
    columns = np.broadcast_to(np.arange(40), (3, 40, 40))
    rows = columns.swapaxes(1, 2)
    images = (np.stack([rows, columns, rows], axis=-1) * 6).astype(np.uint8)
    draws = [[0, 0.5, 0.5], [LAST, 0, 0], [LAST, LAST, LAST]]
    amounts, strengths = drawn(3, crop=draws), {"crop": 0.5}
    masks = np.ones((3, 40, 40), np.uint8)
    moved, labels = random_ops.augment(images, masks, amounts, strengths)
    np.testing.assert_array_equal(moved[0], images[0])
    halves = np.arange(40) / 2 - 0.25
    inner = slice(1, -1)
    np.testing.assert_allclose(
        moved[1, 20, inner, 1], 6 * halves[inner], rtol=0, atol=0.51
    )
    np.testing.assert_allclose(
        moved[2, inner, 20, 0], 6 * (halves[inner] + 20), rtol=0, atol=0.51
    )
    assert (labels == 1).all()


def square(strengths: dict[str, float], **draws: float) -> tuple[int, int]:
    """Height and width of what becomes of a centred square of 40 pixels."""
    mask = np.zeros((1, 100, 100), np.uint8)
    mask[:, 30:70, 30:70] = 1
    image = np.repeat(mask[..., np.newaxis], 3, axis=3)
    _, labels = random_ops.augment(image, mask, drawn(1, **draws), strengths)
    seen = labels[0] == 1
    return int(seen.any(axis=1).sum()), int(seen.any(axis=0).sum())


def test_scale_zooms_out_and_in_by_its_exponential() -> None:
    strengths = {"scale": np.log(1.5)}
    assert square(strengths, scale=LAST) == (60, 60)
    assert square(strengths, scale=0.5) == (40, 40)
    # 40 / 1.5 = 26.7 about a centre between two pixels.
    assert square(strengths, scale=0) == (26, 26)


def test_stretch_changes_the_aspect_ratio_and_keeps_the_area() -> None:
    strengths = {"stretch": 2 * np.log(1.25)}
    assert square(strengths, stretch=LAST) == (32, 50)
    assert square(strengths, stretch=0) == (50, 32)


def test_rotate_turns_up_to_its_degrees_either_way() -> None:
    images, masks = noise(3, 31, 31)
    amounts = drawn(3, rotate=[[0.0], [0.5], [LAST]])
    moved, labels = random_ops.augment(images, masks, amounts, {"rotate": 90})
    for index, quarters in enumerate((-1, 0, 1)):
        np.testing.assert_array_equal(labels[index], np.rot90(masks[index], quarters))
        np.testing.assert_allclose(
            moved[index], np.rot90(images[index], quarters), atol=1
        )
