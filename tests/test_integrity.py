import pytest

from tests.test_pairs import MASK, drawn, encoded, flipped, read_mask
from trainer.data import pairs
from trainer.data.pairs import BadSample


def with_preview() -> bytes:
    """A JPEG that holds a smaller one in its header, as cameras write them."""
    preview = encoded(drawn(12, 16), "JPEG")
    segment = b"\xff\xe1" + (len(preview) + 8).to_bytes(2, "big") + b"Camera" + preview
    content = encoded(drawn(), "JPEG")
    return content[:2] + segment + content[2:]


def test_data_after_the_end_of_a_jpeg_is_no_harm() -> None:
    for content in (encoded(drawn(), "JPEG"), with_preview()):
        photo = pairs.open_photo(content + b"camera's own data" * 50, "p.jpg")
        assert photo.decode().shape == (60, 90, 3)


def test_a_truncated_jpeg_with_a_preview_inside_is_refused() -> None:
    content = with_preview()
    assert pairs.open_photo(content, "p.jpg").decode().shape == (60, 90, 3)
    with pytest.raises(BadSample, match="truncated JPEG"):
        pairs.open_photo(content[: len(content) * 3 // 4], "p.jpg")


def test_fill_bytes_between_the_segments_of_a_jpeg_are_skipped() -> None:
    content = encoded(drawn(), "JPEG")
    filled = content[:2] + b"\xff\xff" + content[2:] + b"camera's own data"
    assert pairs.open_photo(filled, "p.jpg").decode().shape == (60, 90, 3)


def test_a_progressive_jpeg_has_several_scans() -> None:
    content = encoded(drawn(), "JPEG", progressive=True) + b"camera's own data"
    assert pairs.open_photo(content, "p.jpg").decode().shape == (60, 90, 3)


def test_a_flipped_bit_in_the_pixels_or_the_checksum_of_a_png_is_seen() -> None:
    content = encoded(MASK)
    start = content.index(b"IDAT")
    length = int.from_bytes(content[start - 4 : start], "big")
    for place in range(start, start + 8 + length):
        with pytest.raises(BadSample, match="damaged PNG"):
            read_mask(flipped(content, place))
