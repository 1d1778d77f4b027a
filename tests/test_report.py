"""The report: self-contained, escaped, and it says what it was given."""

import base64
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from trainer.results.report import duration, number, render_report

PNG = b"\x89PNG\r\n\x1a\n not really"
VOID = {"meta", "img", "link", "br", "input"}


def scores() -> dict[str, Any]:
    rows = [
        {"name": "null", "iou": 0.95, "recall": 0.97, "precision": 0.96},
        {"name": "skin", "iou": 0.4321, "recall": 0.5, "precision": None},
        {"name": "cape", "iou": None, "recall": None, "precision": None},
    ]
    pixels = ((900, 7), (12345, 6), (0, 0))
    for row, (count, images) in zip(rows, pixels, strict=True):
        row |= {"pixels": count, "images": images}
    return {
        "examples": 170,
        "pixel_accuracy": 0.8765,
        "foreground_accuracy": 0.6543,
        "mean_iou": 0.2468,
        "mean_iou_all": 0.1357,
        "mean_recall": 0.3579,
        "mean_f1": 0.4,
        "background_baseline": {"pixel_accuracy": 0.7682, "mean_iou": 0.0131},
        "per_class": rows,
        "confusion": [[890, 10, 0], [4321, 8024, 0], [0, 0, 0]],
    }


def given() -> dict[str, Any]:
    """A full set of arguments."""
    return {
        "config": {
            "run_dir": "runs/one",
            "recipe": "tutorial",
            "encoder": "densenet121",
            "command": "python -m trainer.task --recipe=tutorial",
            "seamline_version": "0.1.0",
            "tensorflow_version": "2.20.0",
            "device": "OneDeviceStrategy on 1",
            "recipe_values": {"batch_size": 64},
            "identity": {"encoder": "densenet121"},
        },
        "history": [
            {
                "epoch": epoch,
                "step": 12 * epoch,
                "seconds": 60.0,
                "images_per_second": 40.0 + epoch,
                "input_wait_fraction": 0.025,
                "val_mean_iou": iou,
            }
            for epoch, iou in ((1, 0.1), (2, 0.31), (3, 0.2))
        ],
        "scores": scores() | {"native": scores() | {"mean_iou": 0.2211}},
        "card": {
            "source": {"name": "clothing-co-parsing"},
            "label_names": ["null", "skin", "cape"],
            "record_size": 256,
            "split": {"seed": 0, "fraction": 0.2},
            "splits": {"train": {"examples": 680}, "val": {"examples": 170}},
            "classes": [
                {"name": "skin", "train": {"images": 677}, "val": {"images": 6}}
            ],
            "rejected": [{"file": "photos/0007.jpg", "problem": "no mask"}],
            "fingerprint": "0badcafe",
        },
        "figures": {"curves": PNG, "model": PNG, "extra_view": PNG},
        "notices": ["Embedded sample: no dataset could be downloaded."],
    }


class Page(HTMLParser):
    """Tags, visible text, and whether each tag is closed in order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.text += " "
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text += data


def text(**changes: Any) -> str:
    """Visible text of the report, blanks collapsed."""
    return re.sub(r"\s+", " ", Page(render_report(**given() | changes)).text)


def test_report_is_well_formed_and_needs_no_other_file() -> None:
    source = render_report(**given())
    page = Page(source)
    assert page.open == []
    assert source.lstrip().startswith("<!doctype html>")
    assert "http://" not in source
    assert "https://" not in source
    assert "@import" not in source
    assert "url(" not in source
    for _, attributes in page.tags:
        assert "href" not in attributes
        assert attributes.get("src", "data:").startswith("data:")


def test_report_embeds_every_figure_with_a_text_for_those_who_cannot_see_it() -> None:
    pictures = [
        attributes
        for tag, attributes in Page(render_report(**given())).tags
        if tag == "img"
    ]
    assert len(pictures) == 3
    for picture in pictures:
        assert base64.b64decode(picture["src"].split(",")[1]) == PNG
        assert len(picture["alt"]) > 5


def test_report_shows_the_scores_beside_the_all_background_row() -> None:
    shown = text()
    for value in ("0.876", "0.654", "0.247", "0.358", "0.768", "0.013", "0.136"):
        assert value in shown
    assert "Measured on 170 validation examples" in shown
    assert "at original size 0.221" in shown


def test_report_shows_notices_command_time_data_and_settings() -> None:
    shown = text()
    for part in (
        "Embedded sample: no dataset could be downloaded.",
        "python -m trainer.task --recipe=tutorial",
        "3 min 0 s",
        "42.0",
        "2.5 %",
        "0.310 in epoch 2",
        "680 examples",
        "photos/0007.jpg: no mask",
        "0badcafe",
        "recipe_values.batch_size 64",
        "Seamline 0.1.0 with TensorFlow 2.20.0",
    ):
        assert part in shown
    assert "identity" not in shown


def test_classes_come_sorted_by_pixels_and_absent_ones_are_named_apart() -> None:
    shown = text()
    assert "skin 0.432 0.500 – 12,345 6 677 null 0.950" in shown
    assert "In no validation example: cape." in shown


def test_most_frequent_mistakes_are_read_off_the_confusion_matrix() -> None:
    assert "skin null 4,321 35.0 % null skin 10 1.1 %" in text()


def test_markup_in_names_notices_and_settings_is_escaped() -> None:
    evil = "<script>alert('x')</script><b>"
    arguments = given()
    arguments["scores"]["per_class"][1]["name"] = evil
    arguments["card"]["source"]["name"] = evil
    arguments["config"] |= {"command": evil, "list": [evil], evil: 1}
    arguments["notices"] = [evil]
    arguments["figures"][f'"{evil}'] = PNG
    source = render_report(**arguments)
    page = Page(source)
    assert "<script>alert" not in source
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "b" not in [tag for tag, _ in page.tags]
    assert page.text.count(evil) >= 5


def test_missing_native_scores_are_left_out() -> None:
    assert "at original size" not in text(scores=scores())


def test_an_empty_run_still_gives_a_report_and_invents_no_number() -> None:
    shown = text(config={}, history=[], scores={}, card={}, figures={}, notices=[])
    assert "all background –" in shown
    assert not re.search(r"\d\.\d", shown)
    assert "None" not in shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.12345, "0.123"), (1234, "1,234"), (None, "–"), (float("nan"), "–"), (0, "0")],
)
def test_numbers_are_printed_to_three_digits(value: Any, shown: str) -> None:
    assert number(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(41.24, "41.2 s"), (185, "3 min 5 s"), (7800, "2 h 10 min"), (None, "–")],
)
def test_durations_are_printed_in_words(seconds: float | None, shown: str) -> None:
    assert duration(seconds) == shown
