"""Line charts: places, gaps and ticks."""

from __future__ import annotations

import math

import pytest

from trainer.results import lines
from trainer.results.lines import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Line


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 4.9, [0, 1, 2, 3, 4]),
        (1, 40, [10, 20, 30, 40]),
        (0.7712, 0.8391, [0.78, 0.8, 0.82]),
        (3, 3, [3]),
    ],
)
def test_ticks_are_round_numbers_within_the_axis(
    low: float, high: float, expected: list[float]
) -> None:
    assert lines.ticks(low, high) == pytest.approx(expected)


def test_a_line_spans_the_chart_and_higher_values_stand_higher() -> None:
    plot = lines.chart(
        "Loss", [Line("a", [(1, 0.0), (2, 5.0), (3, 10.0)], 0)], zero=True
    )
    assert plot is not None
    [line] = plot["lines"]
    (x0, y0), (x1, y1), (x2, y2) = line["dots"]
    assert (x0, x1, x2) == (LEFT, (LEFT + WIDTH - RIGHT) / 2, WIDTH - RIGHT)
    assert y0 == HEIGHT - BOTTOM
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.02)
    assert TOP < y2 < TOP + 20
    assert line["end"] == 10


def test_missing_values_leave_gaps() -> None:
    points = [(1, 1.0), (2, None), (3, 2.0), (4, math.nan), (5, 3.0)]
    plot = lines.chart("Loss", [Line("a", points, 0)])
    assert plot is not None
    assert plot["lines"][0]["path"].count("M") == 3
    assert plot["lines"][0]["values"] == {"1": 1.0, "3": 2.0, "5": 3.0}


def test_a_chart_without_a_value_is_none() -> None:
    assert lines.chart("Loss", [Line("a", [(1, None)], 0)]) is None
    assert lines.training_charts([("", [])], None) == []


def test_one_epoch_stands_in_the_middle() -> None:
    plot = lines.chart("Loss", [Line("a", [(7, 0.5)], 0)])
    assert plot is not None
    assert plot["lines"][0]["dots"][0][0] == (LEFT + WIDTH - RIGHT) / 2
    assert [text for _, text in plot["across"]] == ["7"]


def test_the_level_to_compare_with_is_always_in_view() -> None:
    plot = lines.chart("A", [Line("a", [(1, 0.1), (2, 0.2)], 0)], level=("base", 0.77))
    assert plot is not None
    assert TOP <= plot["level"][2] <= HEIGHT - BOTTOM


def test_two_runs_share_a_chart_and_have_a_colour_each() -> None:
    history = [{"epoch": 1, "loss": 1.0, "val_loss": 2.0}]
    [plot] = lines.training_charts([("A", history), ("B", history * 2)], None)
    assert [(x["name"], x["colour"], x["dashed"]) for x in plot["lines"]] == [
        ("A: training", 0, True),
        ("A: validation", 0, False),
        ("B: training", 1, True),
        ("B: validation", 1, False),
    ]
