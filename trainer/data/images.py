"""Decoding, encoding and resizing of images and masks. No TensorFlow here."""

from __future__ import annotations

import zlib

import cv2
import numpy as np

_JPEG_QUALITY = 95
LONGEST_JPEG = 65500
"""Pixels a side at most."""
# Labels come in long runs: 39 % smaller than by default on CCP, in two thirds of the
# time.
_PNG = [
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE),
]
_INDEXED = 3
"""Colour type of a PNG with a palette."""
_REDUCED = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


def decode(encoded: bytes, scale: int = 1) -> np.ndarray | None:
    """JPEG or PNG bytes -> uint8 `[h, w, 3]` RGB, None when they are no image.

    Args:
      encoded: not empty.
      scale: 1, 2, 4 or 8: divides height and width, rounded up.
    """
    decoded = cv2.imdecode(np.frombuffer(encoded, np.uint8), _REDUCED[scale])
    if decoded is None or scale == 1:
        return decoded
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


def decode_image(encoded: bytes) -> np.ndarray:
    """Image bytes of a record -> uint8 `[h, w, 3]` RGB.

    Raises:
      ValueError: they are no image.
    """
    image = decode(encoded) if encoded else None
    if image is None:
        raise ValueError("not an image")
    return image


def decode_mask(encoded: bytes) -> np.ndarray:
    """PNG bytes of a record -> uint8 `[h, w]` labels.

    Raises:
      ValueError: they are no image.
    """
    buffer = np.frombuffer(encoded, np.uint8)
    mask = cv2.imdecode(buffer, cv2.IMREAD_GRAYSCALE) if encoded else None
    if mask is None:
        raise ValueError("not an image")
    return mask


def encode_image(image: np.ndarray) -> bytes:
    """uint8 `[h, w, 3]` RGB -> JPEG bytes of quality 95.

    Raises:
      ValueError: a side is longer than a JPEG can be.
    """
    if max(image.shape[:2]) > LONGEST_JPEG:
        raise ValueError(f"JPEG holds {LONGEST_JPEG} pixels a side at most")
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    return cv2.imencode(".jpg", bgr, quality)[1].tobytes()


def encode_lossless(image: np.ndarray) -> bytes:
    """uint8 `[h, w, 3]` RGB -> PNG bytes, quickly rather than small."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".png", bgr)[1].tobytes()


def encode_mask(mask: np.ndarray) -> bytes:
    """uint8 `[h, w]` -> PNG bytes of one channel, without loss."""
    return cv2.imencode(".png", np.ascontiguousarray(mask), _PNG)[1].tobytes()


def encode_indexed(mask: np.ndarray, colours: np.ndarray) -> bytes:
    """uint8 `[h, w]` -> PNG bytes whose palette shows each value in its colour.

    A PNG of grey bytes and one of palette entries differ in the header alone (PNG
    specification, 11.2.1 and 11.2.2): values are read back as they are.

    Args:
      mask: labels.
      colours: uint8 `[256, 3]` RGB.
    """
    grey = encode_mask(mask)
    # Signature, length, IHDR with the colour type in its tenth byte, checksum.
    header = grey[12:25] + bytes([_INDEXED]) + grey[26:29]
    return b"".join(
        (
            grey[:12] + header + zlib.crc32(header).to_bytes(4, "big"),
            _chunk(b"PLTE", colours.astype(np.uint8).tobytes()),
            grey[33:],
        )
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG: length, kind, content, checksum."""
    length, checksum = len(content), zlib.crc32(kind + content)
    return length.to_bytes(4, "big") + kind + content + checksum.to_bytes(4, "big")


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 `[h, w, 3]` -> uint8 `[height, width, 3]`; every pixel counts.

    Shrinks to less than half by area. Otherwise bilinear: within a factor of two each
    pixel is a neighbour of some new one, at a sixth of the time.
    """
    if image.shape[:2] == (height, width):
        return image
    halved = 2 * height <= image.shape[0] or 2 * width <= image.shape[1]
    method = cv2.INTER_AREA if halved else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=method)


def resize_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 `[h, w]` -> uint8 `[height, width]` by nearest neighbour, always.

    `INTER_NEAREST_EXACT` takes the pixel nearest to each new pixel's centre, which is
    what fits `resize_image`; OpenCV's `INTER_NEAREST` is off by up to half a pixel.
    """
    if mask.shape == (height, width):
        return mask
    if mask.flags.f_contiguous and not mask.flags.c_contiguous:
        # MATLAB's order; OpenCV would copy the whole mask first.
        return np.ascontiguousarray(resize_mask(mask.T, width, height).T)
    size, method = (width, height), cv2.INTER_NEAREST_EXACT
    return cv2.resize(mask, size, interpolation=method)
