import io
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
import scipy.io
from PIL import Image

from trainer.data import pairs
from trainer.data.pairs import BadSample, Labels

LABELS = Labels(names=("background", "cat", "dog"), ids=(0, 1, 2), origin="names.txt")
MASK = np.array([[0, 1, 2, 255], [2, 2, 0, 0], [1, 1, 1, 0]], np.uint8)


def drawn(height: int = 60, width: int = 90) -> np.ndarray:
    """A smooth picture of which no two corners look alike."""
    rows, columns = np.mgrid[0:height, 0:width]
    red, green = 255 * rows / height, 255 * columns / width
    return np.stack([red, green, 255 - (red + green) / 2], axis=-1).astype(np.uint8)


def encoded(picture: Image.Image | np.ndarray, kind: str = "PNG", **how: Any) -> bytes:
    buffer = io.BytesIO()
    opened = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    opened.save(buffer, kind, **how)
    return buffer.getvalue()


def mat(compressed: bool = True, **variables: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, variables, do_compression=compressed)
    return buffer.getvalue()


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    return encoded(drawn(), "JPEG", exif=exif, quality=95)


def read_mask(content: bytes, labels: Labels = LABELS, file: str = "m.png") -> Any:
    return pairs.read_mask(content, file, labels)


# Photos


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1"])
def test_a_png_photo_of_any_kind_becomes_rgb(mode: str) -> None:
    picture = Image.fromarray(drawn()).convert(mode)
    photo = pairs.open_photo(encoded(picture), "p.png")
    np.testing.assert_array_equal(photo.decode(), np.asarray(picture.convert("RGB")))
    assert (photo.height, photo.width, photo.plain) == (60, 90, False)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_read_as_viewers_show_it(orientation: int) -> None:
    photo = pairs.open_photo(turned(orientation), "p.jpg")
    image = photo.decode()
    assert image.shape == (photo.height, photo.width, 3)
    assert (photo.height < photo.width) == (orientation < 5)
    corner = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0)}.get(orientation)
    corner = corner or {5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}[orientation]
    assert image[corner][:2].max() < 20


def test_a_turned_photo_fits_the_upright_mask_alone() -> None:
    photo = pairs.open_photo(turned(6), "p.jpg")
    pairs.check_sizes(photo, np.zeros((90, 60), np.uint8), "m.png")
    with pytest.raises(BadSample, match=r"m\.png: mask of 90x60 pixels.*60x90"):
        pairs.check_sizes(photo, np.zeros((60, 90), np.uint8), "m.png")


def test_an_orientation_in_xmp_alone_turns_nothing() -> None:
    xmp = b'<x xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    photo = pairs.open_photo(encoded(drawn(), "JPEG", xmp=xmp), "p.jpg")
    assert photo.decode().shape == (60, 90, 3)


def test_plain_is_what_every_decoder_shows_alike() -> None:
    picture = Image.fromarray(drawn())

    def plain(content: bytes) -> bool:
        return pairs.open_photo(content, "p").plain

    assert plain(encoded(picture, "JPEG"))
    assert plain(encoded(picture.convert("L"), "JPEG"))
    assert plain(turned(1))
    assert not plain(turned(3))
    assert not plain(encoded(picture.convert("CMYK"), "JPEG"))
    assert not plain(encoded(picture))


@pytest.mark.parametrize(
    ("at_least", "scale"), [(0, 1), (61, 1), (60, 1), (31, 1), (30, 2), (15, 4), (1, 8)]
)
def test_a_reduced_photo_is_what_opencv_reduces(at_least: int, scale: int) -> None:
    content = encoded(drawn(), "JPEG", quality=95)
    flags = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2}
    flags |= {4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
    expected = cv2.imdecode(np.frombuffer(content, np.uint8), flags[scale])[..., ::-1]
    image = pairs.open_photo(content, "p.jpg").decode(at_least)
    np.testing.assert_array_equal(image, expected)
    assert min(image.shape[:2]) >= min(at_least, 60)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_reducing_copes_with_odd_sizes(kind: str) -> None:
    photo = pairs.open_photo(encoded(drawn(101, 77), kind), "p")
    scale = 4 if kind == "JPEG" else 1
    assert photo.decode(16).shape == (-(-101 // scale), -(-77 // scale), 3)


@pytest.mark.parametrize("kept", [0, 2, 100, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_truncated_photo_is_refused(kept: float, kind: str) -> None:
    content = encoded(drawn(), kind)
    short = content[: kept if isinstance(kept, int) else int(kept * len(content))]
    with pytest.raises(BadSample, match=r"p\.jpg: (truncated|is empty|cannot be)"):
        pairs.open_photo(short, "p.jpg")


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF"])
def test_another_kind_of_picture_is_no_photo(kind: str) -> None:
    with pytest.raises(BadSample, match=r"p\.jpg: cannot be decoded"):
        pairs.open_photo(encoded(drawn(), kind), "p.jpg")


def test_a_header_that_asks_for_gigabytes_is_refused(
    capfd: pytest.CaptureFixture[str],
) -> None:
    content = bytearray(encoded(drawn(), "JPEG"))
    start = content.index(b"\xff\xc0") + 5
    content[start : start + 4] = b"\xff\xff\xff\xff"
    with pytest.raises(BadSample, match=r"p\.jpg: 65535x65535 pixels; shrink"):
        pairs.open_photo(bytes(content), "p.jpg")
    with pytest.raises(BadSample, match=r"m\.png: 65535x65535 pixels; shrink"):
        read_mask(resized_header(encoded(MASK), 65535))
    assert capfd.readouterr().err == ""


def resized_header(png: bytes, side: int) -> bytes:
    """A PNG that claims another size, with a valid checksum."""
    header = png[12:16] + side.to_bytes(4, "big") * 2 + png[24:29]
    return png[:12] + header + zlib.crc32(header).to_bytes(4, "big") + png[33:]


def test_a_photo_of_a_hundred_megapixels_is_welcome() -> None:
    photo = pairs.open_photo(resized_header(encoded(drawn()), 10000), "p.png")
    assert (photo.height, photo.width) == (10000, 10000)


# Masks


def test_the_indices_of_a_palette_are_the_ids() -> None:
    picture = Image.fromarray(MASK).convert("P")
    picture.putdata(MASK.ravel().tolist())
    picture.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    np.testing.assert_array_equal(read_mask(encoded(picture)), MASK)


def grey_png(values: np.ndarray, depth: int, colour_type: int = 0) -> bytes:
    """A PNG of exactly `depth` bits a pixel, written by hand."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + kind + content + check

    height, width = values.shape
    bits = np.unpackbits(values.astype(">u2").view(np.uint8).reshape(height, width, 2))
    bits = bits.reshape(height, width, 16)[..., 16 - depth :].reshape(height, -1)
    rows = np.pad(np.packbits(bits, axis=1), ((0, 0), (1, 0)))
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    header = size + bytes([depth, colour_type, 0, 0, 0])
    parts = [chunk(b"IHDR", header)]
    if colour_type == 3:
        parts.append(chunk(b"PLTE", bytes(range(3 * min(2**depth, 85)))))
    parts += [chunk(b"IDAT", zlib.compress(rows.tobytes())), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_grey_of_any_depth_keeps_its_ids(depth: int) -> None:
    top = min(2**depth - 1, 200)
    values = np.arange(35).reshape(5, 7) % (top + 1)
    labels = Labels(tuple(map(str, range(top + 1))), tuple(range(top + 1)))
    np.testing.assert_array_equal(read_mask(grey_png(values, depth), labels), values)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_palettes_of_any_depth_keep_their_ids(depth: int) -> None:
    values = np.arange(35).reshape(5, 7) % min(2**depth, 3)
    content = grey_png(values, depth, colour_type=3)
    np.testing.assert_array_equal(read_mask(content), values)


def test_ids_above_255_fit_grey_of_16_bits() -> None:
    labels = Labels(("road", "sky"), (300, 70), ignore=(65535,))
    values = np.array([[300, 70], [65535, 300]], np.uint16)
    expected = [[0, 1], [255, 0]]
    assert read_mask(grey_png(values, 16), labels).tolist() == expected
    assert read_mask(mat(groundtruth=values), labels, "m.mat").tolist() == expected


def test_ids_become_labels_in_the_order_of_the_names() -> None:
    labels = Labels(("background", "pet", "border"), (2, 1, 3), ignore=(0, 9))
    values = np.array([[1, 2, 3], [0, 9, 2]], np.uint8)
    expected = [[1, 0, 2], [255, 255, 0]]
    assert read_mask(encoded(values), labels).tolist() == expected
    assert read_mask(mat(groundtruth=values), labels, "m.mat").tolist() == expected


def test_negative_values_can_be_ignored() -> None:
    labels = Labels(("background", "cat"), (0, 1), ignore=(-1,))
    content = mat(groundtruth=np.array([[-1, 0, 1]], np.int16))
    assert read_mask(content, labels, "m.mat").tolist() == [[255, 0, 1]]


def test_a_value_without_a_name_is_named() -> None:
    with pytest.raises(
        BadSample, match=r"m\.png: label 7, but names\.txt names 0\.\.2 \(255 = ignore"
    ):
        read_mask(encoded(np.where(MASK == 1, 7, MASK).astype(np.uint8)))
    labels = Labels(("road", "sky"), (7, 11), ignore=())
    with pytest.raises(BadSample, match=r"label 255, but .* 7, 11 \(none = ignore\)"):
        read_mask(encoded(np.array([[7, 11, 255]], np.uint8)), labels)


@pytest.mark.parametrize("value", [255, 4])
def test_a_mask_of_nothing_but_ignored_pixels_is_refused(value: int) -> None:
    labels = Labels(("a", "b"), (0, 1), ignore=(255, 4))
    with pytest.raises(BadSample, match=r"m\.png: every pixel is ignored"):
        read_mask(encoded(np.full((3, 4), value, np.uint8)), labels)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.uint16])
def test_mat_masks_are_read_compressed_or_not(compressed: bool, kind: type) -> None:
    content = mat(compressed, groundtruth=MASK.astype(kind), other=np.ones(3))
    np.testing.assert_array_equal(read_mask(content, file="m.mat"), MASK)


def test_the_variable_of_mat_masks_has_any_name() -> None:
    labels = Labels(LABELS.names, LABELS.ids, variable="gt")
    np.testing.assert_array_equal(read_mask(mat(gt=MASK), labels, "m.mat"), MASK)
    with pytest.raises(BadSample, match=r"m\.mat: has no variable 'gt'"):
        read_mask(mat(groundtruth=MASK), labels, "m.mat")


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (MASK.astype(float), "groundtruth is float64 with 2 axes"),
        (np.stack([MASK] * 3, axis=-1), "groundtruth is uint8 with 3 axes"),
        (np.array([["a", "b"]], object), "groundtruth is a cell array; save a"),
    ],
)
def test_a_mat_mask_of_another_kind_is_refused(
    values: np.ndarray, problem: str
) -> None:
    with pytest.raises(BadSample, match=problem):
        read_mask(mat(groundtruth=values), file="m.mat")


def test_a_file_of_matlab_7_3_says_how_to_save_it() -> None:
    for start in (b"MATLAB 7.3 MAT-file, Platform: GLNXA64", b"\x89HDF\r\n\x1a\n"):
        with pytest.raises(BadSample, match=r"7\.3 file; save it again with .* -v7"):
            read_mask(start + bytes(600), file="m.mat")


@pytest.mark.parametrize("content", [b"hello" * 40, b"GIF89a" + bytes(300), b"\0"])
def test_what_is_no_mask_file_is_refused(content: bytes) -> None:
    with pytest.raises(BadSample, match=r"m\.mat: not a readable MATLAB file"):
        read_mask(content, file="m.mat")
    with pytest.raises(BadSample, match=r"m\.png: not a PNG file"):
        read_mask(content)
    with pytest.raises(BadSample, match=r"m\.png: is empty"):
        read_mask(b"")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_a_mask_of_colours_is_refused(mode: str) -> None:
    picture = Image.fromarray(drawn()).convert(mode)
    with pytest.raises(BadSample, match=rf"a colour picture \({mode}\)"):
        read_mask(encoded(picture))


def test_a_sound_jpeg_with_unreadable_exif_is_a_photo() -> None:
    image = np.full((20, 30, 3), 90, np.uint8)
    encoded = cv2.imencode(".jpg", image)[1].tobytes()
    payload = b"Exif\0\0garbage that is no TIFF"
    segment = b"\xff\xe1" + (2 + len(payload)).to_bytes(2, "big") + payload
    photo = pairs.open_photo(encoded[:2] + segment + encoded[2:], "a.jpg")
    assert photo.decode().shape == (20, 30, 3)
