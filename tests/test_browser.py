"""The pages in a real browser: what is clicked answers, and nothing is fetched.

Needs Chromium (`apt-get install chromium`) beside playwright from the test extra.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.exhibits import write_run
from trainer.results import compare, report

sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright here")

CHROMIUM = os.environ.get("CHROMIUM") or next(
    (x for name in ("chromium", "google-chrome") if (x := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here; apt-get install chromium brings one"
)
SIZES = {"desktop": (1440, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        # The sandbox wants namespaces that containers often lack; the pages are ours.
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report and a comparison."""
    folder = tmp_path_factory.mktemp("pages")
    runs = [
        str(write_run(folder / name, iou=iou, shift=shift))
        for name, iou, shift in (("first", 0.5, 0), ("second", 0.6, 3))
    ]
    report.redraw(runs[0], str(folder / "report.html"))
    compare.compare_runs(runs, str(folder / "compare.html"))
    return {name: folder / f"{name}.html" for name in ("report", "compare")}


class Opened:
    """A page, with all that it said and asked for."""

    def __init__(self, browser: sync_api.Browser, path: Path, size: str) -> None:
        width, height = SIZES[size]
        self.page = browser.new_page(viewport={"width": width, "height": height})
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())

    def names(self) -> list[str]:
        """Of the visible rows of the table of classes, from the top."""
        rows = self.page.locator("table.sortable tbody tr:visible th")
        return [text.strip() for text in rows.all_inner_texts()]

    def close(self) -> None:
        """Says whether all was quiet."""
        self.page.close()
        assert self.said == []
        fetched = [x for x in self.asked if not x.startswith("data:")]
        assert len(fetched) == 1, "the file itself"
        assert fetched[0].startswith("file:")


@pytest.fixture
def opened(
    browser: sync_api.Browser, pages: dict[str, Path], request: pytest.FixtureRequest
) -> Iterator[Opened]:
    name, size = getattr(request, "param", ("report", "desktop"))
    opened = Opened(browser, pages[name], size)
    yield opened
    opened.close()


BOTH = [(name, size) for name in ("report", "compare") for size in SIZES]


@pytest.mark.parametrize("opened", BOTH, indirect=True, ids="-".join)
def test_pages_fit_their_screen_and_every_picture_loads(opened: Opened) -> None:
    wide = "document.documentElement.scrollWidth - innerWidth"
    assert opened.page.evaluate(wide) <= 0
    broken = "[...document.images].filter(x => !x.naturalWidth).length"
    assert opened.page.evaluate(broken) == 0
    assert opened.page.locator("img").count() > 10


def test_a_click_on_a_head_sorts_and_another_turns_the_order(opened: Opened) -> None:
    assert opened.names() == ["null", "skin", "cape"]
    head = opened.page.get_by_role("button", name="IoU", exact=True)
    head.click()
    assert opened.names() == ["null", "skin", "cape"]
    head.click()
    assert opened.names() == ["cape", "skin", "null"]
    opened.page.get_by_role("button", name="Class", exact=True).press("Enter")
    assert opened.names() == ["cape", "null", "skin"]


def test_the_filter_leaves_the_classes_that_were_typed(opened: Opened) -> None:
    opened.page.get_by_label("Filter").fill("ca, sk")
    assert opened.names() == ["skin", "cape"]
    assert opened.page.locator("#class-count").inner_text() == "2 of 3 classes"
    opened.page.get_by_label("Filter").fill("")
    assert len(opened.names()) == 3


def test_a_class_of_the_legend_is_shown_alone(opened: Opened) -> None:
    chip = opened.page.locator(".chip", has_text="cape")
    chip.click()
    canvas = opened.page.locator("#predictions canvas").first
    canvas.wait_for()
    # Row 8, column 21 of every truth is cape; row 30 is background.
    column = "x.getContext('2d').getImageData(21, 0, 1, 32).data"
    data = canvas.evaluate(f"x => [...{column}]")
    cape, ground = data[4 * 8 : 4 * 9], data[4 * 30 : 4 * 31]
    assert max(cape[:3]) > 2 * max(ground[:3])
    chip.click()
    assert opened.page.locator("canvas").count() == 0


def test_a_picture_opens_large_and_tells_what_lies_under_the_pointer(
    opened: Opened,
) -> None:
    opened.page.locator(".open .tile").nth(1).click()
    viewer = opened.page.get_by_role("dialog")
    stack = viewer.locator(".big .stack")
    box = stack.bounding_box()
    assert box is not None
    assert box["height"] > 400
    opened.page.mouse.move(
        box["x"] + box["width"] * 13 / 32, box["y"] + box["height"] * 22 / 32
    )
    reading = viewer.locator(".reading")
    sync_api.expect(reading).to_have_text("Truth: skin · Prediction: skin")
    assert stack.get_attribute("data-kind") == "truth"
    opened.page.keyboard.press("ArrowRight")
    assert stack.get_attribute("data-kind") == "prediction"
    first = viewer.locator("strong").inner_text()
    opened.page.keyboard.press("ArrowDown")
    assert viewer.locator("strong").inner_text() != first
    opened.page.keyboard.press("Escape")
    assert not viewer.is_visible()


def test_the_switch_wins_over_the_system_s_colours(opened: Opened) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    opened.page.emulate_media(color_scheme="light")
    light = opened.page.evaluate(ground)
    opened.page.emulate_media(color_scheme="dark")
    dark = opened.page.evaluate(ground)
    assert light != dark
    opened.page.get_by_text("Light", exact=True).click()
    assert opened.page.evaluate(ground) == light
    opened.page.get_by_text("Auto", exact=True).click()
    assert opened.page.evaluate(ground) == dark


def test_pointing_at_a_chart_tells_the_values_of_that_epoch(opened: Opened) -> None:
    chart = opened.page.locator(".chart", has_text="Loss").first
    value = chart.locator("output").first
    assert value.inner_text() == "1.000"
    box = chart.locator("svg").bounding_box()
    assert box is not None
    chart.scroll_into_view_if_needed()
    chart.locator("svg").hover(position={"x": 30, "y": box["height"] / 2})
    assert value.inner_text() == "2.000"
