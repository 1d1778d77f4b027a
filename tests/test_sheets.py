"""Sheets to look at before training: they show what the records hold."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from trainer.data import records
from trainer.data.card import Card, read_card
from trainer.data.images import decode_mask, encode_image, encode_mask
from trainer.data.records import Record
from trainer.errors import SeamlineError
from trainer.labels import palette
from trainer.results import balance, examples, marking, sheets
from trainer.results.examples import Example

Held = dict[str, list[Record]]
RED = np.uint8([201, 42, 42])


def decoded(png: bytes) -> np.ndarray:
    """RGB uint8 `[H, W, 3]` of a PNG of a sensible size."""
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert max(picture.shape) < 6000
    return picture[..., ::-1]


def has(picture: np.ndarray, colour: np.ndarray) -> bool:
    return bool((picture == colour).all(-1).any())


def pair(name: str, mask: np.ndarray) -> Record:
    """A record of a grey photo and this mask."""
    photo = np.full((*mask.shape, 3), 120, np.uint8)
    return Record(name, encode_image(photo), encode_mask(mask), b"", *mask.shape)


def spot(label: int, size: int = 8, shape: tuple[int, int] = (64, 48)) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[20 : 20 + size, 20 : 20 + size] = label
    return mask


def counts_of(rows: list[Record], label: int) -> dict[str, int]:
    pixels = [int((decode_mask(row.mask) == label).sum()) for row in rows]
    return {"images": sum(x > 0 for x in pixels), "pixels": sum(pixels)}


def shards_of(split: str, rows: list[Record], most: int) -> list[dict]:
    parts = {f"{split}-{k}": rows[k : k + most] for k in range(0, len(rows), most)}
    return [{"name": name, "examples": len(part)} for name, part in parts.items()]


def card_of(
    held: Held,
    classes: int,
    shard: int = 1000,
    prefix: str = "class",
) -> Card:
    """The card that a conversion would write for these records, without files."""
    names = [f"{prefix} {label}" for label in range(classes)]
    return Card(
        source={"name": "toys", "listing": ""},
        label_names=names,
        ignore_label=255,
        labels={"ids": list(range(classes)), "ignore": []},
        record_size=64,
        split={"seed": 0, "fraction": 0.2},
        splits={
            split: {
                "examples": len(rows),
                "shards": shards_of(split, rows, shard),
            }
            for split, rows in held.items()
        },
        classes=[
            {"name": name, **{x: counts_of(held[x], label) for x in held}}
            for label, name in enumerate(names)
        ],
        rejected=[],
        sizes={},
    )


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> Held:
    """30 + 10 records of classes 0, 1 and 2; class 3 only in val; 2 has two sizes."""
    train = [pair(f"t{k:02d}", spot(1)) for k in range(30)]
    train[4], train[7] = pair("t04", spot(2, 3)), pair("t07", spot(2, 12))
    val = [pair(f"v{k:02d}", spot(1)) for k in range(10)]
    val[6] = pair("v06", spot(3, 2))
    held = {"train": train, "val": val}

    def read(_: str, card: Card, split: str) -> Iterator[Record]:
        for row in card.splits[split]["shards"]:
            start = int(row["name"].split("-")[1])
            yield from held[split][start : start + row["examples"]]

    monkeypatch.setattr(records, "read", read)
    return held


def find(card: Card, labels: list[int], most: int = 1000) -> tuple[list, list]:
    parts = examples.plan_parts(card, most)
    numbers = examples.pick_random(parts, 5)
    return examples.find_examples("", card, parts, numbers, labels)


def test_both_sheets_of_real_records_lie_beside_the_card_and_stay_the_same(
    records_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(records_dir, tmp_path, dirs_exist_ok=True)
    written = []
    for _ in range(2):
        sheets.draw_sheets(str(tmp_path), read_card(str(tmp_path)))
        written.append([(tmp_path / x).read_bytes() for x in sheets.NAMES])
    assert sheets.NAMES == ("overlays.png", "classes.png")
    assert written[0] == written[1]
    for content in written[0]:
        assert decoded(content).std() > 3


def test_the_example_of_a_rare_class_holds_it_and_comes_from_its_split(
    toys: Held,
) -> None:
    _, rare = find(card_of(toys, 4), [3, 2])
    assert [(x.label, x.split, x.record.image_id) for x in rare] == [
        (3, "val", "v06"),
        (2, "train", "t07"),
    ]
    for example in rare:
        assert (decode_mask(example.record.mask) == example.label).any()


def test_random_examples_are_the_same_every_time_and_those_asked_for(
    toys: Held,
) -> None:
    card = card_of(toys, 4, shard=7)
    parts = examples.plan_parts(card)
    numbers = examples.pick_random(parts, 5)
    chosen, _ = find(card, [])
    ids = [x.image_id for rows in toys.values() for x in rows]
    assert [x.record.image_id for x in chosen] == [ids[number] for number in numbers]
    assert numbers == sorted(set(numbers)) == examples.pick_random(parts, 5)
    assert numbers != examples.pick_random(parts, 5, 1)
    assert len(examples.pick_random(parts, 100)) == 40


def test_reading_stops_once_all_examples_are_found(
    toys: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examples, "_LEAST_DECODED", 0)
    counted: list[bytes] = []
    count = examples.count_labels
    monkeypatch.setattr(
        examples, "count_labels", lambda mask: (counted.append(mask), count(mask))[1]
    )
    card = card_of(toys, 4)
    [found] = examples.find_examples("", card, examples.plan_parts(card), [], [2])[1]
    assert found.record.image_id in ("t04", "t07")
    assert len(counted) < 30


def test_of_a_large_dataset_only_the_head_of_every_shard_is_looked_at(
    toys: Held,
) -> None:
    card = card_of(toys, 4, shard=10)
    parts = examples.plan_parts(card, 12)
    assert [part.shard["name"] for part in parts] == [
        *("train-0", "train-10", "train-20", "val-0")
    ]
    assert [part.count for part in parts] == [3, 3, 3, 3]
    chosen, rare = find(card, [3, 2], most=12)
    assert rare == []
    assert {x.record.image_id for x in chosen} <= {
        f"{split}{start + k:02d}"
        for split, start in (("t", 0), ("t", 10), ("t", 20), ("v", 0))
        for k in range(3)
    }


def test_classes_that_were_not_found_are_named_and_nothing_false_is_said(
    toys: Held,
) -> None:
    card = card_of(toys, 4, shard=10)
    drawn, rare = sheets.notes(card, examples.plan_parts(card, 12), [3, 2])
    assert "12 of 40" in drawn
    assert rare[-1] == "Not in the 12 of 40 examples looked at: class 3, class 2"
    drawn, rare = sheets.notes(card, examples.plan_parts(card), [])
    assert "all 40" in drawn
    assert len(rare) == 1


def test_the_rarest_classes_are_those_with_the_fewest_pixels_that_occur(
    toys: Held,
) -> None:
    card = card_of(toys, 7)
    assert examples.rarest(card, 8) == [3, 2]
    assert examples.rarest(card, 1) == [3]
    assert examples.rarest(card_of({"train": toys["train"][:2], "val": []}, 2), 8) == [
        1
    ]


@pytest.mark.parametrize(
    ("train", "val", "said"),
    [(5, 5, ""), (0, 5, "never in train"), (5, 0, "never in val"), (0, 0, "absent")],
)
def test_a_class_that_a_split_lacks_is_marked(train: int, val: int, said: str) -> None:
    assert (
        balance.standing({"train": {"pixels": train}, "val": {"pixels": val}}) == said
    )


def test_only_a_class_that_is_never_in_train_is_drawn_in_red(toys: Held) -> None:
    assert has(decoded(balance.class_chart(card_of(toys, 4))), RED)
    toys["val"].pop(6)
    assert not has(decoded(balance.class_chart(card_of(toys, 4))), RED)


def test_absent_classes_take_a_line_of_text_and_no_row_each(toys: Held) -> None:
    heights = [
        len(decoded(balance.class_chart(card_of(toys, classes))))
        for classes in (4, 5, 30)
    ]
    assert heights[0] < heights[1] < heights[2] < heights[0] + 200


def test_classes_stand_in_the_order_of_their_share(toys: Held) -> None:
    assert balance.by_share(card_of(toys, 5)) == [0, 1, 2, 3, 4]
    toys["val"] += [pair(f"w{k}", spot(4, 20)) for k in range(20)]
    assert balance.by_share(card_of(toys, 5)) == [0, 4, 1, 2, 3]


@pytest.mark.parametrize("classes", [2, 13, 59, 150])
def test_sheets_are_drawn_for_any_number_of_classes(classes: int, toys: Held) -> None:
    part = [pair(f"x{k}", spot(k, 1 + k % 30)) for k in range(classes)]
    held = {"train": part, "val": part[::2]}
    toys.update(held)
    card = card_of(held, classes, prefix="a $name_ that goes on and on, and on:")
    chosen, rare = find(card, examples.rarest(card, 8))
    assert decoded(balance.class_chart(card)).std() > 3
    notes = sheets.notes(card, examples.plan_parts(card), [])
    assert decoded(sheets.overlay_sheet(card, chosen, rare, notes)).std() > 3
    assert len(rare) == min(8, (classes + 1) // 2)


@pytest.mark.parametrize("shape", [(384, 256), (256, 384), (24, 24), (40, 400)])
def test_photos_of_any_shape_get_tiles_of_like_size(shape: tuple[int, int]) -> None:
    held = {"train": [pair(f"t{k}", spot(1, 2, shape)) for k in range(3)], "val": []}
    card = card_of(held, 2)
    shown = [Example(x, "train") for x in held["train"]]
    rare = [Example(held["train"][0], "train", 1)]
    sheet = decoded(sheets.overlay_sheet(card, shown, rare, ("", [""])))
    assert 500 < len(sheet) < 1300
    assert has(sheet, palette(2)[1])


def test_ignored_pixels_are_hatched_grey_unlike_label_zero_and_any_other() -> None:
    photo = np.full((40, 60, 3), (200, 60, 60), np.uint8)
    mask = np.zeros((40, 60), np.uint8)
    mask[:, 20:40], mask[:, 40:] = 1, 255
    drawn = marking.hatch(photo, mask)
    np.testing.assert_array_equal(drawn[:, :40], photo[:, :40])
    assert set(np.unique(drawn[:, 40:])) == {110, 190}
    assert (np.ptp(drawn[:, 40:], axis=-1) == 0).all()


def test_the_legend_names_ignored_pixels_only_where_there_are_some(toys: Held) -> None:
    card, stripe = card_of(toys, 4), np.uint8([190, 190, 190])
    for label, expected in ((255, True), (1, False)):
        shown = [Example(pair("x", spot(label)), "train")]
        sheet = decoded(sheets.overlay_sheet(card, shown, [], ("", [])))
        assert has(sheet[-90:, :500], stripe) is expected


def test_a_rare_class_is_strong_in_colour_and_the_rest_is_faint() -> None:
    photo = np.zeros((100, 80, 3), np.uint8)
    mask, colour = spot(9, 30, (100, 80)), np.uint8([0, 248, 136])
    mask[80:] = 4
    ringed, labelled = marking.emphasise(photo, mask, 9, colour)
    np.testing.assert_array_equal(ringed, photo)
    assert np.abs(labelled[30, 30] - 0.8 * colour).max() < 1
    assert labelled[mask != 9].min() > 150
    assert np.ptp(labelled[mask != 9]) == 0


def test_a_region_too_small_to_see_gets_a_red_ring_in_both_pictures() -> None:
    photo, mask = np.zeros((200, 160, 3), np.uint8), spot(9, 2, (200, 160))
    for picture in marking.emphasise(photo, mask, 9, np.uint8([0, 248, 136])):
        rows, columns = np.nonzero((picture == RED).all(-1))
        assert (rows.min() < 20) & (rows.max() > 22)
        assert (columns.min() < 20) & (columns.max() > 22)
        assert not (picture[20:22, 20:22] == RED).all(-1).any()


def test_a_single_pixel_of_a_rare_class_survives_shrinking() -> None:
    mask = np.zeros((400, 300), np.uint8)
    mask[399, 298] = 7
    small = marking.resized_mask(mask, (40, 30), 7)
    assert small.shape == (40, 30)
    assert (small == 7).sum() == 1
    assert (marking.resized_mask(mask, (40, 30)) == 7).sum() == 0


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0, "0 %"),
        (1, "100 %"),
        (0.77, "77 %"),
        (1.23e-6, "0.00012 %"),
        (1e-4, "0.01 %"),
    ],
)
def test_shares_keep_two_digits_however_small(share: float, text: str) -> None:
    assert balance.percent(share) == text


def test_a_damaged_shard_is_an_error_that_names_it(
    records_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(records_dir, tmp_path, dirs_exist_ok=True)
    card = read_card(str(tmp_path))
    name = card.splits["val"]["shards"][0]["name"]
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 3] ^= 255
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SeamlineError, match=name):
        sheets.draw_sheets(str(tmp_path), card)
