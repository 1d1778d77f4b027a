"""Photos of every kind are decoded as viewers show them."""

from __future__ import annotations

import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from trainer.data import images, pairs
from trainer.data.pairs import BadSample
from trainer.results.photo_files import FORMATS

INVERSE = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""EXIF orientation -> how a camera held so stores an upright picture."""


def quarters(height: int = 48, width: int = 80) -> np.ndarray:
    """Red, green, blue and white quarters: no two orientations look the same."""
    picture = np.full((height, width, 3), 255, np.uint8)
    picture[: height // 2, : width // 2] = 255, 0, 0
    picture[: height // 2, width // 2 :] = 0, 255, 0
    picture[height // 2 :, : width // 2] = 0, 0, 255
    return picture


def encoded(picture: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(kind: str, orientation: int) -> bytes:
    """`quarters` as a camera held in one of eight ways stores it."""
    stored = Image.fromarray(quarters())
    if (turn := INVERSE[orientation]) is not None:
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[274] = orientation
    if kind == "WEBP":
        return encoded(stored, kind, exif=exif, lossless=True)
    return encoded(stored, kind, exif=exif)


def decode(content: bytes) -> np.ndarray:
    photo = pairs.open_photo(content, "p", FORMATS)
    image = photo.decode()
    assert image.dtype == np.uint8
    assert image.shape == (photo.height, photo.width, 3)
    return image


@pytest.mark.parametrize("orientation", INVERSE)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_photo_stands_upright_however_the_camera_was_held(
    kind: str, orientation: int
) -> None:
    image = decode(turned(kind, orientation))
    # JPEG halves the resolution of colours.
    apart = abs(image.astype(int) - quarters()).max(-1) > 60
    assert apart.mean() < 0.05
    assert not apart[4:20, 4:36].any()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "WEBP"])
def test_files_without_loss_are_read_exactly(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(
        decode(encoded(quarters(), kind, **options)), quarters()
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_a_grey_photo_has_three_equal_channels(kind: str) -> None:
    grey = np.full((20, 30), 77, np.uint8)
    np.testing.assert_array_equal(decode(encoded(grey, kind)), np.full((20, 30, 3), 77))


@pytest.mark.parametrize("kind", ["png", "tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_scaled_to_eight_and_not_clipped(
    kind: str, channels: int
) -> None:
    steps = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
    picture = np.stack([steps, steps[::-1], steps.T][:channels], axis=-1)
    ok, content = cv2.imencode(f".{kind}", picture[..., ::-1].squeeze())
    assert ok
    expected = np.broadcast_to(picture >> 8, (16, 16, 3))
    np.testing.assert_array_equal(decode(content.tobytes()), expected)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_what_is_transparent_lies_on_white(kind: str) -> None:
    seen = np.dstack([quarters(), np.full(quarters().shape[:2], 255, np.uint8)])
    seen[:24, :40, 3] = 0
    seen[:24, 40:, 3] = 128
    options = {"lossless": True} if kind == "WEBP" else {}
    image = decode(encoded(seen, kind, **options))
    assert (image[:24, :40] == 255).all(), "its hidden red is not seen"
    assert abs(image[:24, 40:].astype(int) - [127, 255, 127]).max() <= 1
    np.testing.assert_array_equal(image[24:], quarters()[24:])


def test_a_palette_with_a_transparent_entry_lies_on_white() -> None:
    picture = Image.fromarray(quarters()).quantize(4)
    hidden = picture.getpixel((0, 0))
    image = decode(encoded(picture, "PNG", transparency=hidden))
    expected = quarters()
    expected[:24, :40] = 255
    np.testing.assert_array_equal(image, expected)


INKS = {
    "paper": ((0, 0, 0, 0), (255, 255, 255)),
    "cyan": ((255, 0, 0, 0), (0, 255, 255)),
    "red": ((0, 255, 255, 0), (255, 0, 0)),
    "black": ((0, 0, 0, 255), (0, 0, 0)),
}


def inked(ink: tuple[int, ...], **options: object) -> bytes:
    return encoded(Image.new("CMYK", (32, 16), ink), "JPEG", quality=100, **options)


@pytest.mark.parametrize("name", INKS)
def test_a_photo_in_printing_inks_has_the_colours_of_the_inks(name: str) -> None:
    ink, colour = INKS[name]
    image = decode(inked(ink))
    assert image.shape == (16, 32, 3)
    assert abs(image.astype(int) - colour).max() <= 3


def ink_profile() -> bytes:
    """An ICC profile (ICC.1:2001-04, 6.5.7) by which each ink alone is a mid grey.

    Paper is white and all inks together are black.
    """
    table = bytes(range(256))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0])
    identity = (1, 0, 0, 0, 1, 0, 0, 0, 1)
    lut += struct.pack(">9i", *(value << 16 for value in identity))
    shades = bytes([255, 128, 128]) + bytes([128] * 3) * 14 + bytes([0, 128, 128])
    lut += table * 4 + shades + table * 3
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"grey\0" + bytes(78)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    parts = {b"desc": text, b"wtpt": white, b"A2B0": lut}
    tags, content = struct.pack(">I", len(parts)), b""
    start = 128 + 4 + 12 * len(parts)
    for name, part in parts.items():
        part += bytes(-len(part) % 4)
        tags += name + struct.pack(">II", start + len(content), len(part))
        content += part
    header = struct.pack(">I4sI4s4s4s", start + len(content), b"", 0x02400000, b"prtr",
                         b"CMYK", b"Lab ")  # fmt: skip
    header += struct.pack(">6H4s", 2024, 1, 1, 0, 0, 0, b"acsp") + bytes(28)
    header += struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + tags + content


def test_a_colour_profile_in_the_file_decides_what_its_inks_look_like() -> None:
    image = decode(inked((255, 0, 0, 0), icc_profile=ink_profile()))
    # L* = 50 of CIE Lab is 119 in sRGB (IEC 61966-2-1).
    assert abs(image.astype(int) - 119).max() <= 3


def test_a_damaged_colour_profile_is_passed_over() -> None:
    image = decode(inked((255, 0, 0, 0), icc_profile=b"no profile"))
    assert abs(image.astype(int) - (0, 255, 255)).max() <= 3


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP"])
def test_of_several_frames_or_pages_the_first_counts(kind: str) -> None:
    frames = [Image.new("RGB", (40, 20), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(
        frames[0], kind, save_all=True, append_images=frames[1:], **options
    )
    np.testing.assert_array_equal(decode(content), np.asarray(frames[0]))


def test_a_camera_file_of_two_pictures_shows_the_first() -> None:
    frames = [Image.new("RGB", (40, 20), colour) for colour in ("red", "blue")]
    content = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    image = decode(content)
    assert abs(image.astype(int) - (255, 0, 0)).max() <= 3


def test_values_without_a_known_range_are_refused() -> None:
    content = encoded(np.ones((8, 8), np.float32), "TIFF")
    with pytest.raises(BadSample, match=r"^p: cannot .* \(32 bits a channel; save it"):
        decode(content)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_half_a_file_is_refused(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    content = encoded(noise, kind)
    with pytest.raises(BadSample, match=r"^p: (truncated|cannot be decoded)"):
        decode(content[: len(content) // 2])


def test_a_dataset_takes_jpeg_and_png_alone() -> None:
    with pytest.raises(BadSample, match="cannot be decoded"):
        pairs.open_photo(encoded(quarters(), "WEBP"), "p.jpg")


# Label pictures


def test_a_label_picture_holds_ids_and_shows_colours() -> None:
    mask = np.arange(256, dtype=np.uint8).reshape(8, 32).repeat(3, 0)
    colours = np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8)
    content = images.encode_indexed(mask, colours)
    with Image.open(io.BytesIO(content)) as picture:
        picture.verify()
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.asarray(picture), mask)
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), colours[mask])
    shown = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(shown[..., ::-1], colours[mask])
