"""A checked pair -> what its record holds. No TensorFlow: workers import this."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from trainer.data import images, pairs
from trainer.data.pairs import BadSample
from trainer.data.sources import Source
from trainer.labels import IGNORE_LABEL

_EXACT = 1 << 24
"""OpenCV counts twice as fast, in float32, which is exact below this."""


@dataclasses.dataclass(frozen=True)
class Encoded:
    """What the record of a pair holds, and what the card counts.

    Attributes:
      image_id: name of the pair.
      image: JPEG bytes.
      mask: PNG bytes of the labels, same size as the image.
      native_mask: PNG bytes of the labels at the photo's size, or b"".
      height, width: of the photo, in pixels.
      pixels: int64 `[classes]`, how many pixels of `mask` each class has.
    """

    image_id: str
    image: bytes
    mask: bytes
    native_mask: bytes
    height: int
    width: int
    pixels: np.ndarray


def encode_task(
    record_size: int, task: tuple[Source, bool]
) -> list[Encoded | BadSample]:
    """`encode_chunk` as workers call it: the task is (slice, keep_native)."""
    part, keep_native = task
    return encode_chunk(part, record_size=record_size, keep_native=keep_native)


def encode_chunk(
    source: Source, *, record_size: int, keep_native: bool
) -> list[Encoded | BadSample]:
    """Reads, checks and encodes all pairs of `source`, a slice of the whole one.

    Args:
      source: whose `files` are the pairs to encode.
      record_size: short side of the stored image at most; 0 keeps the size and, where
        every decoder shows them alike, the very bytes of JPEG photos.
      keep_native: keep the mask at the photo's size beside a smaller one.
    """
    encoded: list[Encoded | BadSample] = []
    for image_id, content in source.read_files(list(source.files)).items():
        try:
            if isinstance(content, BadSample):
                raise content
            encoded.append(_encode(source, image_id, content, record_size, keep_native))
        except BadSample as problem:
            encoded.append(problem)
        except (ValueError, cv2.error, MemoryError) as error:
            photo, _ = source.files[image_id]
            text = f"cannot be stored ({error}); use a smaller photo or --record_size"
            encoded.append(BadSample(photo, text))
    return encoded


def _encode(
    source: Source,
    image_id: str,
    content: tuple[bytes, bytes],
    record_size: int,
    keep_native: bool,
) -> Encoded:
    photo_file, mask_file = source.files[image_id]
    photo = pairs.open_photo(content[0], photo_file)
    mask = pairs.read_mask(content[1], mask_file, source.labels)
    pairs.check_sizes(photo, mask, mask_file)
    # Decoded even where its bytes stay as they are: that is the proof that it can be.
    image = photo.decode(at_least=record_size)
    height, width = mask.shape
    target = stored_size(height, width, record_size)
    smaller = images.resize_mask(mask, *target)
    if photo.plain and not record_size:
        stored = content[0]
    else:
        stored = images.encode_image(images.resize_image(image, *target))
    shrunk = target != (height, width)
    return Encoded(
        image_id=image_id,
        image=stored,
        mask=images.encode_mask(smaller),
        native_mask=images.encode_mask(mask) if keep_native and shrunk else b"",
        height=height,
        width=width,
        pixels=count_pixels(smaller, len(source.labels.names)),
    )


def stored_size(height: int, width: int, record_size: int) -> tuple[int, int]:
    """Height and width as stored: short side `record_size`, never enlarged."""
    scale = min(1.0, record_size / min(height, width)) if record_size else 1.0
    return max(1, round(height * scale)), max(1, round(width * scale))


def count_pixels(mask: np.ndarray, classes: int) -> np.ndarray:
    """uint8 `[h, w]` labels -> int64 `[classes]`; ignored pixels count nowhere.

    Raises:
      ValueError: a label is neither a class nor 255.
    """
    counts = np.zeros(256, np.int64)
    rows = max(1, (_EXACT - 1) // mask.shape[1])
    for top in range(0, len(mask), rows):
        part = cv2.calcHist([mask[top : top + rows]], [0], None, [256], [0, 256])
        counts += part.ravel().astype(np.int64)
    if counts[classes:IGNORE_LABEL].any():
        raise ValueError("a label that is no class")
    return counts[:classes]
