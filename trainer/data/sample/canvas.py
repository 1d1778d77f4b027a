"""Inks, shapes and the canvas that figures are painted on, in body units."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike

from trainer.labels import CCP_LABELS

Stroke = tuple[ArrayLike, ArrayLike, float]
"""Points `[n, 2]`, RGB colour and width of a line inside a part, in body units."""

CLOTH = (
    "26262b f0eee8 8b8d90 d9c7a6 24304f 9c2f34 2f5d46 c98f4a 6b4a36 d98c9c e3bd4f "
    "4f7fb0 7a4d7e c2552f 95a88a 5b6470 b9d0de 3c7f86 efe0cf 51262e"
).split()
"""Colours of cloth, as `rgb` reads them."""


def rgb(code: str) -> np.ndarray:
    """float32 `[3]` of a colour written as six hexadecimal digits."""
    return np.array([int(code[k : k + 2], 16) for k in (0, 2, 4)], np.float32)


@dataclass(frozen=True)
class Ink:
    """What a part is filled with: a colour, a second one in a pattern, and folds."""

    base: np.ndarray
    second: np.ndarray
    pattern: str = "plain"
    pitch: float = 0.03
    folds: float = 0.05
    phase: float = 0.0
    pleats: bool = False

    def texture(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """float32 `[3, h, w]` for body coordinates x `[1, w]` and y `[h, 1]`."""
        u, v = x / self.pitch, y / self.pitch
        part: np.ndarray = np.zeros((1, 1), np.float32)
        if self.pattern == "stripes":
            part = v % 1 < 0.5
        elif self.pattern == "bars":
            part = u % 1 < 0.35
        elif self.pattern == "checks":
            part = (u % 1 < 0.5) * 0.5 + (v % 1 < 0.5) * 0.5
        elif self.pattern == "dots":
            part = ((u + v // 1 * 0.5) % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.07
        elif self.pattern == "knit":
            part = 0.3 * np.cos(6.2832 * (y / 0.016 + abs(x / 0.024 % 1 - 0.5)))
        elif self.pattern == "strands":
            part = np.sin(x * 330 + 5 * np.sin(14 * y)) * np.cos(x * 90 + y * 40)
        base, second = self.base[:, None, None], self.second[:, None, None]
        colour = base + part.astype(np.float32) * (second - base)
        if self.pleats:
            fold = np.sin(x / (y - 0.13) * 75 + self.phase) * (y > 0.4)
        else:
            fold = np.sin(38 * x + (2.5 * np.sin(11 * y + self.phase) + 9 * y))
        return colour * (1 + np.float32(self.folds) * fold)


class Canvas:
    """A figure's picture and labels at double size, so that halving smooths edges."""

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self.image = np.zeros((2 * height, 2 * width, 3), np.uint8)
        self.label = np.zeros((2 * height, 2 * width), np.uint8)
        self.scale = 2 * height * rng.uniform(0.84, 0.92)
        self.top = 2 * height * rng.uniform(0.95, 0.98) - 0.985 * self.scale
        self.centre = width * (1 + rng.uniform(-0.11, 0.11))
        self.lean, self.sway = rng.uniform(-0.05, 0.05), rng.uniform(-0.022, 0.022)
        self.lit_left = rng.random() < 0.5

    def place(self, points: ArrayLike) -> np.ndarray:
        """Body units to double-size pixels, float64 `[n, 2]`, leaning with the pose."""
        placed = np.array(points, float)
        y = placed[:, 1]
        placed[:, 0] += self.lean * (1 - y) + self.sway * np.sin(np.pi * y)
        placed *= self.scale
        placed += (self.centre, self.top)
        return placed

    def paint(
        self, name: str, ink: Ink, *outlines: ArrayLike, strokes: Sequence[Stroke] = ()
    ) -> None:
        """Covers the union of outlines; strokes show only inside it."""
        shapes = [self.place(outline) for outline in outlines]
        joined = np.concatenate(shapes)
        x0, y0 = np.maximum(np.floor(joined.min(0)), 0).astype(int)
        x1, y1 = np.minimum(np.ceil(joined.max(0)) + 1, self.label.shape[::-1]).astype(
            int
        )
        if x1 <= x0 or y1 <= y0:
            return
        part = np.zeros((y1 - y0, x1 - x0), np.uint8)
        for shape in shapes:
            cv2.fillPoly(part, [np.int32((shape - (x0, y0)) * 16)], 255, shift=4)
        # A blur off its centre is bright inside the part and dark towards the side
        # away from the light: it rounds the form.
        reach = int(0.036 * self.scale)
        anchor = (reach // 4 if self.lit_left else reach - 1 - reach // 4, reach // 2)
        soft = cv2.blur(
            part, (reach, reach), anchor=anchor, borderType=cv2.BORDER_CONSTANT
        )
        x = ((np.arange(x0, x1) - self.centre) / self.scale).astype(np.float32)[None]
        y = ((np.arange(y0, y1) - self.top) / self.scale).astype(np.float32)[:, None]
        planes = ink.texture(x, y)
        planes *= soft * np.float32(0.4 / 255) + np.float32(0.6)
        drawn = cv2.merge(list(np.clip(planes, 0, 255, out=planes).astype(np.uint8)))
        for points, colour, wide in strokes:
            line = np.int32((self.place(points) - (x0, y0)) * 16)
            pen = max(1, round(wide * self.scale))
            tone = np.asarray(colour, float).tolist()
            cv2.polylines(drawn, [line], False, tone, pen, cv2.LINE_AA, 4)
        cv2.copyTo(drawn, part, self.image[y0:y1, x0:x1])
        label = np.full_like(part, CCP_LABELS.index(name))
        cv2.copyTo(label, part, self.label[y0:y1, x0:x1])


@functools.cache
def _corner_cutting(count: int) -> np.ndarray:
    """Two rounds of Chaikin's rule for a closed polygon, float64 `[4 count, count]`."""
    rule = np.eye(count)
    for _ in range(2):
        after = np.roll(rule, -1, 0)
        pair = [0.75 * rule + 0.25 * after, 0.25 * rule + 0.75 * after]
        rule = np.stack(pair, 1).reshape(-1, count)
    return rule


def curve(points: ArrayLike, side: float = 1) -> np.ndarray:
    """A polygon with rounded corners, mirrored for side -1."""
    corners = np.asarray(points, float) * (side, 1)
    return _corner_cutting(len(corners)) @ corners


_TURN = np.arange(16) * np.pi / 8
_CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], 1)


def oval(x: float, y: float, rx: float, ry: float) -> np.ndarray:
    """A closed polygon round (x, y) with these radii."""
    return _CIRCLE * (rx, ry) + (x, y)


def limb(*joints: Sequence[float]) -> list[np.ndarray]:
    """Outlines of a tapering limb through joints (x, y, radius)."""
    rings = [oval(x, y, r, r).astype(np.float32) for x, y, r in joints]
    pairs = itertools.pairwise(rings)
    return [cv2.convexHull(np.concatenate(pair))[:, 0] for pair in pairs]


def both(*right: Sequence[float]) -> np.ndarray:
    """A symmetric outline from its right half, top to bottom."""
    half = np.asarray(right, float)
    return curve(np.concatenate([half, half[::-1] * (-1, 1)]))


def band(y: float, cloth: Ink, wide: float) -> list[Stroke]:
    """A level seam across a garment."""
    return [([(-0.2, y), (0.2, y)], cloth.base * 0.6, wide)]
