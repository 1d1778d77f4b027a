"""Random numbers and photos for tests of `random_ops`."""

from __future__ import annotations

import numpy as np

from trainer.data import random_ops

LAST = np.float32(1 - 2**-24)
"""The greatest number below 1 that a draw can be."""


def drawn(count: int, seed: int = 0, **given: object) -> np.ndarray:
    """Random numbers of `count` examples; those of the ops in `given` are as given."""
    amounts = np.random.default_rng(seed).random((count, random_ops.AMOUNTS))
    for name, values in given.items():
        amounts[:, random_ops.columns(name)] = values
    return np.minimum(amounts.astype(np.float32), LAST)


def noise(count: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(7)
    images = random.integers(0, 256, (count, height, width, 3)).astype(np.uint8)
    return images, random.integers(0, 59, (count, height, width)).astype(np.uint8)
