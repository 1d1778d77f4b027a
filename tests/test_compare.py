"""Two runs side by side, and the command that draws pages from finished runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, run_command
from tests.exhibits import write_run
from tests.test_report import Page
from trainer.errors import SeamlineError
from trainer.results import compare
from trainer.results.finished import read_run


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    """The second one learned faster and lost fewer rows of skin."""
    first = write_run(tmp_path / "first", iou=0.5)
    second = write_run(tmp_path / "second", iou=0.62, shift=3, learning_rate=0.01)
    return [str(first), str(second)]


def page(runs: list[str]) -> Page:
    found = Page(compare.render_comparison(*map(read_run, runs)))
    assert found.open == []
    found.text = re.sub(r"\s+", " ", found.text)
    return found


def test_only_what_was_set_differently_is_listed(runs: list[str]) -> None:
    shown = page(runs).text
    assert "learning_rate 0.001 0.01" in shown
    assert "encoder mobilenetv2" not in shown
    assert "4 settings are the same" in shown


def test_settings_of_another_release_are_named_apart(tmp_path: Path) -> None:
    old, new = write_run(tmp_path / "a"), write_run(tmp_path / "b", ema=0.99)
    shown = page([str(old), str(new)]).text
    assert "Nothing; 5 settings are the same. Recorded by B alone: ema=0.99." in shown


def test_scores_stand_side_by_side_with_their_difference(runs: list[str]) -> None:
    shown = page(runs).text
    assert "Mean IoU 0.567 0.607 +0.040" in shown
    assert "Pixel accuracy 0.800 0.800 0.000" in shown


def test_classes_come_sorted_by_the_size_of_the_difference(runs: list[str]) -> None:
    shown = page(runs).text
    assert "skin 0.500 0.620 +0.120 280 12 null" in shown


def test_curves_of_both_runs_are_in_one_chart(runs: list[str]) -> None:
    assert "A: validation 1.100" in page(runs).text
    assert "B: validation 1.100" in page(runs).text


def test_the_same_photos_are_shown_as_both_predicted_them(runs: list[str]) -> None:
    found = page(runs)
    texts = [attributes.get("alt") for tag, attributes in found.tags if tag == "img"]
    assert texts.count("A: skin, cape") == 4
    assert texts.count("B: skin, cape") == 4
    assert "B is better on 12 and worse on 0" in found.text
    assert "00 0.250 → 0.400 (+0.150)" in found.text


def test_a_run_that_kept_no_predictions_leaves_the_photos_out_and_says_so(
    runs: list[str],
) -> None:
    (Path(runs[0]) / "examples.zip").unlink()
    found = page(runs)
    assert "A kept no predictions (it has no examples.zip)" in found.text
    assert "img" not in [tag for tag, _ in found.tags]
    assert "Mean IoU 0.567 0.607 +0.040" in found.text


def test_different_records_are_said_before_any_number(tmp_path: Path) -> None:
    runs = [
        str(write_run(tmp_path / "first")),
        str(write_run(tmp_path / "second", records_fingerprint="bad", image_size=64)),
    ]
    shown = page(runs).text
    assert shown.index("saw different records") < shown.index("0.567")
    assert "32² and 64²" in shown


def test_runs_of_two_sizes_that_were_scored_at_one_need_no_word(tmp_path: Path) -> None:
    runs = []
    for size, score_size in ((32, 32), (64, 32)):
        run = write_run(tmp_path / str(size), image_size=size)
        scores = json.loads((run / "scores.json").read_text())
        scores["score_size"] = score_size
        (run / "scores.json").write_text(json.dumps(scores))
        runs.append(str(run))
    assert "Scores are of masks of" not in page(runs).text
    scores["score_size"] = 16
    (run / "scores.json").write_text(json.dumps(scores))
    assert "Scores are of masks of 32² and 16² pixels" in page(runs).text


@pytest.mark.parametrize(
    ("missing", "problem"),
    [("config.json", "is not a run directory"), ("scores.json", "is not finished")],
)
def test_a_run_that_cannot_be_drawn_is_named(
    runs: list[str], missing: str, problem: str
) -> None:
    (Path(runs[1]) / missing).unlink()
    with pytest.raises(SeamlineError, match=f"second/{missing}.*{problem}"):
        compare.compare_runs(runs, "never.html")


def test_damaged_json_is_named(runs: list[str]) -> None:
    (Path(runs[0]) / "scores.json").write_text("[1")
    with pytest.raises(SeamlineError, match=r"first/scores\.json: not JSON"):
        read_run(runs[0])


def test_three_runs_are_refused(runs: list[str]) -> None:
    with pytest.raises(SeamlineError, match="3 run directories; give two"):
        compare.compare_runs([*runs, runs[0]], "never.html")


def test_the_commands_draw_pages_without_tensorflow(runs: list[str]) -> None:
    program = (
        "import sys\n"
        "from trainer.results import compare, report\n"
        f"compare.compare_runs({runs!r}, {runs[0]!r} + '/both.html')\n"
        f"report.redraw({runs[0]!r}, None)\n"
        "print('tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"


def test_both_ways_to_give_two_runs_write_the_same_page(
    runs: list[str], tmp_path: Path
) -> None:
    spaced = run_command("trainer.report", "--compare", *runs, cwd=tmp_path)
    assert spaced.returncode == 0, spaced.stderr
    assert spaced.stdout.endswith("Done: open compare.html\n")
    joined = f"--compare={','.join(runs)}"
    output = "--output=other.html"
    assert run_command("trainer.report", joined, output, cwd=tmp_path).returncode == 0
    pages = [(tmp_path / x).read_text() for x in ("compare.html", "other.html")]
    assert pages[0] == pages[1]
    assert "first" in pages[0]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((), "give one of the two"),
        (("--run_dir=a", "--compare=a,b"), "give one of the two"),
        (("--run_dir=a", "b"), "b: not a flag"),
        (("--run_dir=nowhere",), "nowhere/config.json: not there"),
    ],
)
def test_user_errors_are_one_line(
    arguments: tuple[str, ...], line: str, tmp_path: Path
) -> None:
    done = run_command("trainer.report", *arguments, cwd=tmp_path)
    assert done.returncode == 42
    assert line in done.stderr
    assert done.stderr.count("\n") == 1
