"""What stands behind a figure: a wall, a town or a park."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from trainer.data.sample.canvas import CLOTH, rgb


def _box(
    image: np.ndarray, corner: Sequence[float], size: Sequence[float], tone: np.ndarray
) -> None:
    """A filled rectangle in pixels: (x, y) of its top left, (width, height)."""
    (x, y), (w, h) = corner, size
    far = (int(x + w), int(y + h))
    cv2.rectangle(image, (int(x), int(y)), far, [float(c) for c in tone], -1)


def _draw_town(rng: np.random.Generator, image: np.ndarray, horizon: int) -> None:
    x = -rng.uniform(0, 30)
    while x < image.shape[1]:
        wide, top = rng.uniform(28, 65), horizon * rng.uniform(0.05, 0.6)
        tone = 0.5 * rgb(rng.choice(CLOTH)) + rng.uniform(60, 110)
        _box(image, (x, top), (wide, horizon - top), tone)
        for wy in np.arange(top + 7, horizon - 14, 17):
            for wx in np.arange(x + 5, x + wide - 8, 12):
                _box(image, (wx, wy), (6, 9), tone * rng.uniform(0.5, 0.95))
        x += wide


def _draw_park(rng: np.random.Generator, image: np.ndarray, horizon: int) -> None:
    image[horizon:] = image[horizon:] * 0.5 + rgb("6d8248") * 0.5
    leaf = rgb(rng.choice(["4c6b38", "6f7f3c", "375a40", "93783c"]))
    for x, y, r in rng.uniform((0, 0.1, 6), (1, 1, 24), (70, 3)):
        spot = (int(x * image.shape[1]), int(y**0.6 * horizon))
        tone = [float(c) for c in leaf * rng.uniform(0.6, 1.35)]
        cv2.circle(image, spot, int(r), tone, -1)


def _draw_wall(
    rng: np.random.Generator, image: np.ndarray, horizon: int, wall: np.ndarray
) -> None:
    """A plastered or brick wall with doors, windows or pictures."""
    width = image.shape[1]
    if rng.random() < 0.4:
        wall = wall * 0.6 + rgb("a5533c") * 0.4
        image[:horizon] = wall * 1.15
        for row, top in enumerate(range(0, horizon, 11)):
            for left in range(-11 * (row % 2), width, 23):
                _box(image, (left, top), (21, 9), wall * rng.uniform(0.82, 1.05))
    for _ in range(rng.integers(0, 4)):
        w, h = rng.uniform(25, 60), rng.uniform(40, 0.7 * horizon)
        x, y = rng.uniform(-20, width), rng.uniform(0.1, 0.9) * horizon
        y = horizon - h if rng.random() < 0.5 else y - 0.5 * h
        pane = 0.5 * wall + 0.5 * rgb(rng.choice(CLOTH))
        _box(image, (x - 4, y - 4), (w + 8, h + 8), wall * rng.uniform(0.5, 1.1))
        _box(image, (x, y), (w, h), pane)
        _box(image, (x + 0.47 * w, y), (0.06 * w, h), wall * 0.7)
    image[horizon - 4 : horizon] = wall * 0.7


def draw_backdrop(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A wall, town or park: uint8 `[H, W, 3]` RGB, somewhat out of focus."""
    horizon = int(height * rng.uniform(0.6, 0.86))
    wall = 0.7 * rng.uniform(90, 205) + 0.3 * rgb(rng.choice(CLOTH))
    ground = np.clip(rng.uniform(80, 190) + rng.normal(0, 5, 3), 0, 255)
    image = np.empty((height, width, 3), np.uint8)
    image[:horizon], image[horizon:] = wall, ground
    if rng.random() < 0.45:
        sky = np.linspace(0, 1, horizon)[:, None, None] ** 0.8
        image[:horizon] = rgb("7fa8d0") * (1 - sky) + rgb("e6ebee") * sky
        (_draw_town if rng.random() < 0.55 else _draw_park)(rng, image, horizon)
    else:
        _draw_wall(rng, image, horizon, wall)
    vanish = rng.uniform(-1, 2) * width
    for x in np.arange(-2 * width, 3 * width, rng.uniform(30, 70)):
        ends = (int(x), height), (int(vanish + (x - vanish) * 0.35), horizon)
        cv2.line(image, *ends, [float(c) * 0.86 for c in ground], 1, cv2.LINE_AA)
    for _ in range(rng.integers(0, 3)):
        x, wide = rng.uniform(0, width), rng.uniform(3, 26)
        high = rng.uniform(0.1, 0.9) * horizon
        foot = rng.uniform(horizon, min(horizon + 25, height))
        wide = wide if high < 0.4 * horizon else wide / 4
        _box(image, (x, foot - high), (wide, high), rgb(rng.choice(CLOTH)))
    reach = int(rng.integers(1, 6))
    return cv2.blur(cv2.blur(image, (reach, reach)), (reach, reach))
