"""What a figure wears, and the cloth for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from trainer.data.sample.canvas import CLOTH, Ink, rgb

_FASHION = {
    "coat": "c98f4a 6b4a36 26262b 24304f 5b6470",
    "dress": "9c2f34 c2552f d98c9c c0364a e07a5f",
    "t-shirt": "f0eee8 e3bd4f b9d0de efe0cf f2d98b",
    "sweater": "2f5d46 3c7f86 95a88a 4f8f6b 6f8f3a",
    "skirt": "7a4d7e 5b3f8c a06ab4 8b8d90 51262e",
    "bag": "8a5a2b c2552f 51262e e3bd4f",
    "boots": "26262b 51262e 6b4a36",
    "shoes": "f0eee8 4f7fb0 9c2f34 b9d0de",
    "hat": "d9c7a6 e8cf9a c9a66b 24304f",
}
"""Colours that a class of clothing comes in most of the time."""

_FASHIONABLE = 0.7
"""Share of pieces in such a colour: a network may lean on colour, not rely on it."""


class Wardrobe:
    """What this figure wears, and cloth for it: no two neighbours look alike."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.used: list[np.ndarray] = []
        dress = rng.random() < 0.32
        self.top = "dress" if dress else str(rng.choice(["t-shirt", "sweater"]))
        bottom = str(rng.choice(["jeans", "skirt"], p=(0.55, 0.45)))
        self.bottom = "" if dress else bottom
        self.coat = rng.random() < 0.33
        self.feet = str(rng.choice(["shoes", "boots"], p=(0.58, 0.42)))
        hat = str(rng.choice(["beanie", "brim", "cap"]))
        self.hat = hat if rng.random() < 0.34 else ""
        self.bag = str(rng.choice(["", "held", "slung"], p=(0.5, 0.25, 0.25)))

    def cloth(self, kind: str, patterned: float = 0.0, **changes: Any) -> Ink:
        """Cloth for a class of clothing; `changes` sets further fields of the ink."""
        rng = self.rng
        colours = _FASHION[kind].split() if rng.random() < _FASHIONABLE else CLOTH
        for _ in range(6):
            base, second = rgb(str(rng.choice(colours))), rgb(str(rng.choice(CLOTH)))
            base = np.clip(base * rng.uniform(0.88, 1.1) + rng.normal(0, 6, 3), 12, 248)
            base = base.astype(np.float32)
            if all(abs(base - other).sum() > 90 for other in self.used):
                break
        self.used.append(base)
        pattern = "plain"
        if rng.random() < patterned:
            pattern = str(rng.choice(["stripes", "bars", "checks", "dots"]))
        second = base + (second - base) * np.float32(rng.uniform(0.4, 1))
        pitch, folds, phase = rng.uniform((0.022, 0.04, 0), (0.045, 0.1, 6)).tolist()
        return replace(Ink(base, second, pattern, pitch, folds, phase), **changes)

    def denim(self) -> Ink:
        """Blue in any wash."""
        wash = rgb("1f2c4a") + self.rng.random() * (rgb("86a8cc") - rgb("1f2c4a"))
        self.used.append(wash)
        return Ink(wash, wash, folds=0.09, phase=self.rng.uniform(0, 6))
