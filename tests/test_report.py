"""The report: self-contained, escaped, and it says what it was given."""

import base64
import functools
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from tests.exhibits import collection
from trainer.results.pages import duration, number, percent, signed
from trainer.results.report import render_report

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
        "figures": dict.fromkeys(("curves", "model", "predictions", "extra_view"), PNG),
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


@pytest.mark.parametrize("kept", [False, True], ids=["no pictures", "pictures"])
def test_report_is_well_formed_and_needs_no_other_file(kept: bool) -> None:
    source = with_pictures() if kept else render_report(**given())
    page = Page(source)
    assert page.open == []
    assert "default-src 'none'" in source
    assert source.lstrip().startswith("<!doctype html>")
    assert "http://" not in source
    assert "https://" not in source
    assert "@import" not in source
    assert set(re.findall(r"url\(.{6}", source)) <= {"url('data:"}
    for _, attributes in page.tags:
        assert attributes.get("href", "#").startswith("#")
        assert attributes.get("src", "data:").startswith("data:")


def test_every_link_leads_to_a_section_of_the_page() -> None:
    tags = Page(with_pictures()).tags
    places = {attributes["id"] for _, attributes in tags if "id" in attributes}
    links = {attributes["href"] for _, attributes in tags if "href" in attributes}
    assert len(links) == 7
    assert {link.removeprefix("#") for link in links} <= places


@functools.cache
def with_pictures() -> str:
    """The report of a run that kept examples."""
    return render_report(**given(), kept=collection())


def pictures(source: str) -> list[dict[str, str | None]]:
    return [attributes for tag, attributes in Page(source).tags if tag == "img"]


def test_report_embeds_figures_with_a_text_for_those_who_cannot_see_them() -> None:
    shown = pictures(render_report(**given()))
    assert len(shown) == 3
    for picture in shown:
        assert base64.b64decode(picture["src"].split(",")[1]) == PNG
        assert len(picture["alt"]) > 5


def test_kept_examples_take_the_place_of_the_sheets() -> None:
    source = with_pictures()
    texts = [picture["alt"] for picture in pictures(source)]
    assert "Photo, truth and predictions of validation examples" not in texts
    assert "Truth: skin, cape" in texts
    assert source.count('class="example"') == 9 + 2
    for name in ("Best", "Median", "Worst"):
        assert f"<h3>{name}</h3>" in source


def test_a_frequent_mistake_is_shown_where_there_are_the_most_such_pixels() -> None:
    texts = [picture["alt"] for picture in pictures(with_pictures())]
    assert "Example 00: where skin is taken for null" in texts


def test_curves_are_drawn_by_the_page_and_end_at_the_last_value() -> None:
    shown = text()
    assert "Mean IoU validation 0.200" in shown
    assert 'd="M46.0' in render_report(**given())


def test_new_scores_and_intervals_are_shown_where_a_run_has_them() -> None:
    found = scores() | {"boundary_f1": 0.1234, "frequency_weighted_iou": 0.5678}
    found["interval"] = {"mean_iou": [0.2012, 0.2987], "boundary_f1": None}
    for row in found["per_class"]:
        row |= {"f1": 0.7391, "iou_interval": [0.3, 0.5678]}
    source, shown = render_report(**given() | {"scores": found}), text(scores=found)
    assert "Boundary F1 0.123" in shown
    assert "Frequency-weighted IoU 0.568" in shown
    assert "95 % interval 0.201 to 0.299" in shown
    assert "95 % interval 0.300 to 0.568" in source
    assert "skin 0.432 0.739 0.500" in shown
    assert "interval" not in text()
    assert "Boundary" not in text()


def test_confusion_of_the_largest_classes_is_in_shares_of_the_truth() -> None:
    assert "skin 65 35 null 1 99" in text()


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
    assert "skin 0.432 0.500 – 93 % 12,345 6 677 null 0.950" in shown
    assert "In no validation example: cape." in shown


def test_most_frequent_mistakes_are_read_off_the_confusion_matrix() -> None:
    shown = text()
    assert "skin taken for null 4,321 pixels, 35 % of skin" in shown
    assert "null taken for skin 10 pixels, 1.1 % of null" in shown


def test_markup_in_names_notices_and_settings_is_escaped() -> None:
    evil = "<script>alert('x')</script><u>"
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
    assert "u" not in [tag for tag, _ in page.tags]
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


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0.354, "35 %"), (0.0254, "2.5 %"), (0.00001, "<0.1 %"), (0.0, "0.0 %")],
)
def test_shares_are_printed_in_percent(share: float, shown: str) -> None:
    assert percent(share) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0123, "+0.012"), (-0.34, "−0.340"), (-0.0001, "0.000"), (None, "–")],
)
def test_differences_carry_their_sign(value: float | None, shown: str) -> None:
    assert signed(value) == shown
