"""How far an exported model's labels agree with the trainer's own."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import trainer
from trainer import storage
from trainer.data.card import Card
from trainer.data.images import decode_image
from trainer.data.reader import Reader

log = logging.getLogger("seamline")

_PHOTOS = 50

Labels = Callable[[np.ndarray], np.ndarray]
"""uint8 photo `[H, W, 3]` RGB -> its labels, uint8 of any one shape."""


@dataclasses.dataclass(frozen=True)
class Agreement:
    """What a comparison on photos found.

    Attributes:
      images: number of photos.
      sizes: number of different sizes among them.
      pixels: number of labels compared.
      equal: share of them that are equal, 0..1.
    """

    images: int
    sizes: int
    pixels: int
    equal: float


def spread(count: int, most: int) -> np.ndarray:
    """Up to `most` of the numbers 0..count-1, evenly spread: int64, rising."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)


def photos_of(records_dir: str, card: Card) -> list[np.ndarray]:
    """Up to 50 validation photos as records hold them, uint8 `[H, W, 3]` RGB each.

    Raises:
      SeamlineError: a damaged record; names shard and record.
    """
    reader = Reader(records_dir, card, "val")
    numbers = spread(card.splits["val"]["examples"], _PHOTOS)
    photos = []
    for number, record in zip(numbers, reader.stream(numbers), strict=True):
        try:
            photos.append(decode_image(record.image))
        except ValueError as error:
            raise reader.damaged(int(number), str(error)) from error
    return photos


def count(photos: Sequence[np.ndarray], ours: Labels, theirs: Labels) -> Agreement:
    """Compares two predictors on at least one photo, pixel by pixel."""
    equal = pixels = 0
    for photo in photos:
        same = ours(photo) == theirs(photo)
        equal, pixels = equal + int(np.sum(same)), pixels + same.size
    sizes = {photo.shape for photo in photos}
    return Agreement(len(photos), len(sizes), pixels, equal / pixels)


def write(folder: str, name: str, found: Agreement, *packages: str) -> None:
    """Writes `agreement.json` and logs one line.

    Args:
      folder: of the exported model.
      name: its format.
      found: what was compared.
      packages: that made it, besides TensorFlow and Keras; their versions are noted.
    """
    content: dict[str, Any] = {
        "format": name,
        **dataclasses.asdict(found),
        "versions": {
            "seamline": trainer.__version__,
            **{x: importlib.metadata.version(x) for x in _PACKAGES + packages},
        },
    }
    text = json.dumps(content, indent=1) + "\n"
    storage.write_text(storage.join(folder, "agreement.json"), text)
    log.info(
        "Export: %s, %.3f %% of %d pixels labelled as by the trainer (%d photos of %d "
        "sizes) -> %s",
        name,
        # Never rounded up to a hundred.
        int(found.equal * 1e5) / 1e3,
        found.pixels,
        found.images,
        found.sizes,
        folder,
    )


_PACKAGES = ("tensorflow", "keras")
