"""The sheet of one training batch: it shows what the model gets, and tells it apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.test_figures import decoded
from trainer.labels import CCP_LABELS, palette
from trainer.results import balance, preview
from trainer.results.figures import overlay
from trainer.results.marking import hatch

COLOURS = palette(255)
PIXELS_AN_INCH = 150


def batch(count: int, size: int) -> dict[str, Any]:
    """Noise that no two examples share, and masks of classes 0, 14 and ignored."""
    random = np.random.RandomState(count + size)
    masks = np.zeros((count, size, size), np.uint8)
    masks[:, size // 4 :, size // 4 :] = 14
    masks[:, :, : size // 8] = 255
    return {
        "images": random.randint(0, 256, (count, size, size, 3)).astype(np.float32),
        "masks": masks,
        "ids": [f"photo {number}" for number in range(count)],
        "copies": [number % 3 for number in range(count)],
        "names": list(CCP_LABELS),
        "title": "Step 120 · epoch 3, steps 20 of 100",
        "note": f"no augmentation · seed 0 · batch of {count}",
    }


def drawn(**content: Any) -> np.ndarray:
    return decoded(preview.batch_sheet(**content))


def place_of(picture: np.ndarray, sheet: np.ndarray) -> tuple[int, int]:
    """Top and left of a picture that the sheet shows, each pixel as it is."""
    height, width = picture.shape[:2]
    first = picture[0].tobytes()
    starts = ((top, row.tobytes().find(first)) for top, row in enumerate(sheet))
    top, start = next((top, start) for top, start in starts if start >= 0)
    left = start // 3
    found = sheet[top : top + height, left : left + width]
    np.testing.assert_array_equal(found, picture)
    return top, left


@pytest.mark.parametrize(
    ("count", "size", "factor", "columns"),
    [(1, 32, 19, 1), (3, 96, 4, 2), (5, 64, 4, 3), (16, 32, 9, 4), (40, 32, 4, 8)],
)
def test_every_pixel_of_a_batch_is_shown_in_rows_and_columns_in_its_order(
    count: int, size: int, factor: int, columns: int
) -> None:
    content = batch(count, size)
    sheet = drawn(**content)
    places = []
    for image, mask in zip(content["images"], content["masks"], strict=True):
        photo, labels = (
            part.astype(np.uint8).repeat(factor, 0).repeat(factor, 1)
            for part in (image, mask)
        )
        top, left = place_of(photo, sheet)
        labelled = hatch(overlay(photo, labels, COLOURS), labels)
        beside = place_of(labelled, sheet)
        assert beside[0] == top
        assert 0 < beside[1] - left - size * factor < 10
        places.append((top, left))
    tops, lefts = (sorted({place[k] for place in places}) for k in (0, 1))
    assert len(lefts) == columns
    assert places == [(y, x) for y in tops for x in lefts][:count]
    for line in (tops, lefts):
        assert len(set(np.diff(line))) <= 1


@pytest.mark.parametrize(
    ("count", "size"),
    [(x, size) for x in (1, 2, 3, 4, 7, 32, 33, 64, 100) for size in (32, 77, 150)]
    + [(x, 512) for x in (1, 4, 8, 33)],
)
def test_a_batch_of_any_size_fits_on_a_sheet_with_margins(
    count: int, size: int
) -> None:
    sheet = drawn(**batch(count, size))
    height, width = sheet.shape[:2]
    assert 900 < width < 2800
    assert height < 2 * width
    for margin in (sheet[-25:], sheet[:20], sheet[:, :35], sheet[:, -35:]):
        assert margin.min() == 255


def test_values_beyond_the_range_are_clipped_and_not_wrapped_around() -> None:
    content = batch(2, 32)
    content["images"][0], content["images"][1] = -60.0, 280.4
    sheet = drawn(**content)
    area = (32 * 14) ** 2
    assert (sheet == 0).all(-1).sum() >= area
    # What the values would be modulo 256.
    assert not (sheet == 256 - 60).all(-1).any()
    assert not (sheet == 24).all(-1).any()


def test_ignored_pixels_are_hatched_in_the_overlay_and_in_the_legend() -> None:
    content = batch(1, 32)
    content["images"][:] = (200, 60, 60)
    content["masks"][:] = 14
    stripes = [(110, 110, 110), (190, 190, 190)]
    for ignored in (False, True):
        if ignored:
            content["masks"][:, :8] = 255
        sheet = drawn(**content)
        for grey in stripes:
            share = (sheet == grey).all(-1).sum() / (8 * 32 * 19**2)
            assert bool(0.4 < share < 0.6) is ignored
        assert any((sheet[-100:] == grey).all(-1).any() for grey in stripes) is ignored


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ids", ["photo 0", "photo 8"]),
        ("copies", [0, 7]),
        ("title", "Step 121 · epoch 3, steps 21 of 100"),
        ("note", "no augmentation · seed 1 · batch of 2"),
        ("names", ["ground", *CCP_LABELS[1:]]),
    ],
)
def test_ids_copies_and_all_else_that_is_said_are_drawn(name: str, value: Any) -> None:
    content = batch(2, 32)
    assert preview.batch_sheet(**content) == preview.batch_sheet(**content)
    before, after = drawn(**content), drawn(**content | {name: value})
    assert before.shape == after.shape
    assert (before != after).any()


def test_only_copies_have_a_number() -> None:
    assert preview._caption("0102", 0, (0, 0), 3.0) == "0102"
    assert preview._caption("0102", 3, (0, 0), 3.0) == "0102 · copy 3"


def test_long_ids_are_cut_where_they_are_alike_and_stay_apart() -> None:
    ids = [
        f"a/long/way/down/to/IMG_{x:04d}_of_the_$_series_as_printed.v2"
        for x in range(900, 964)
    ]
    width = 262 / PIXELS_AN_INCH
    start, end = "a/long/way/down/to/IMG_09", "_of_the_$_series_as_printed.v2"
    shared = len(start), len(end)
    assert shared == (preview._alike(ids), preview._alike(x[::-1] for x in ids))
    captions = [preview._caption(x, 5, shared, width) for x in ids]
    assert len(set(captions)) == 64
    for caption in captions:
        assert caption.endswith(" · copy 5")
        assert balance.widest([caption.replace("\\", "")], 7.5) <= width
    assert preview._caption("same" * 99, 0, (396, 396), width).endswith("samesame")
    drawn(**batch(64, 32) | {"ids": ids})


def test_the_legend_holds_the_classes_that_occur_and_no_others() -> None:
    content = batch(2, 64)
    content["images"][:] = 120
    content["masks"][:] = 0
    content["masks"][1, :20] = 7
    legend = drawn(**content)[-60:]
    assert (legend == COLOURS[7]).all(-1).any()
    assert not (legend == COLOURS[14]).all(-1).any()


def test_all_of_many_classes_and_labels_without_a_name_are_in_the_legend() -> None:
    content = batch(1, 64)
    content["masks"].flat[:640] = np.arange(64).repeat(10)
    legend = drawn(**content)[700:]
    for label in range(1, 64):
        assert (legend == COLOURS[label]).all(-1).any(), label


def test_a_long_note_is_cut_and_widens_a_narrow_sheet() -> None:
    content = batch(1, 32) | {"note": "a note $ " * 40}
    sheet = drawn(**content)
    assert sheet[:, -35:].min() == 255
    assert sheet.shape[1] > drawn(**batch(1, 32)).shape[1]
