"""What was measured beside what was measured before."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, run_command
from trainer import recipes
from trainer.benchmarks import comparison, conversion, measurements, scale, suite
from trainer.benchmarks.comparison import Earlier
from trainer.benchmarks.measurements import Measurement
from trainer.benchmarks.settings import Settings
from trainer.errors import SeamlineError

DEFAULT = recipes.RECIPES["default"]


def test_old_values_and_ratios_stand_beside_the_new_ones() -> None:
    now = [
        Measurement("a.seconds", 3.0, "s", "three"),
        Measurement("a.images", 2000.0, "images/s", "many"),
        Measurement("new.ratio", 0.5, "", "half"),
        Measurement("a.wait", 0.1, "", "a little"),
    ]
    old = {"a.seconds": 2.0, "a.images": 4000.0, "a.wait": 0.0, "b.y": 1.0, "b.x": 1.0}
    lines = comparison.table(now, Earlier("old.json", old, "yesterday"), DEFAULT)
    assert lines[0] == "Before: old.json, yesterday"
    cells = [line.split() for line in lines[1:]]
    assert cells == [
        ["now", "before", "now/before"],
        ["a.seconds", "3.000", "s", "2.000", "1.500", "three"],
        ["a.images", "2,000", "images/s", "4,000", "0.500", "many"],
        ["new.ratio", "0.500", "none", "half"],
        ["a.wait", "0.100", "0.000", "a", "little"],
        ["Only", "before:", "b.x,", "b.y"],
    ]


def test_nothing_is_said_of_missing_rows_where_none_is_missing() -> None:
    now = [Measurement("a", 3.0, "s", "three")]
    lines = comparison.table(now, Earlier("old.json", {"a": 2.0}), DEFAULT)
    assert len(lines) == 3


def test_recipes_that_differ_are_told_before_the_numbers() -> None:
    old = dataclasses.asdict(dataclasses.replace(DEFAULT, decoder="x", batch_size=3))
    earlier = Earlier("old.json", {"a": 2.0}, recipe=old)
    lines = comparison.table([Measurement("a", 3.0, "s", "three")], earlier, DEFAULT)
    told = f"decoder: x before, {DEFAULT.decoder} now; batch_size: 3 before, "
    assert lines[1] == f"Not alike: {told}{DEFAULT.batch_size} now"
    assert len(lines) == 4


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    path = str(tmp_path / "old.json")
    rows = [Measurement("a", 3.5, "s", "x"), Measurement("b", 1e9, "", "")]
    measurements.write(rows, path, DEFAULT)
    earlier = comparison.read(path)
    assert earlier.recipe == dataclasses.asdict(DEFAULT)
    assert earlier.values == {"a": 3.5, "b": 1e9}
    assert str(measurements.describe_machine()["cpus"]) in earlier.about


CONTENTS = {
    "text": "no JSON",
    "bytes": "\udcff",
    "list": "[1, 2]",
    "other": '{"loss": 1}',
    "rows": '{"machine": {}, "date": "", "measurements": [{"name": "a"}]}',
    "numbers": '{"machine": {}, "measurements": [{"name": "a", "value": "b"}]}',
}


@pytest.mark.parametrize("kind", [*CONTENTS, "missing"])
def test_a_file_without_measurements_is_refused_in_one_line(
    kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "old.json"
    if kind in CONTENTS:
        path.write_bytes(CONTENTS[kind].encode(errors="surrogateescape"))
    with pytest.raises(SeamlineError) as refusal:
        comparison.read(str(path))
    text = str(refusal.value)
    assert text.startswith(f"--compare={path}: holds no measurements (")
    assert text.endswith("give a file that --json wrote")
    assert "\n" not in text


def test_what_was_measured_is_kept_if_a_later_part_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(settings: Settings) -> None:
        raise SeamlineError("no room")

    monkeypatch.setenv("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    row = Measurement("convert.seconds", 3.0, "s", "three")
    monkeypatch.setattr(conversion, "measure", lambda **_: [row])
    monkeypatch.setattr(scale, "measure", fail)
    data = dict.fromkeys(("dataset", "layout", "record_size", "workers"))
    settings = Settings(recipe=DEFAULT, data=data, input_limits={}, seed=0, repeats=1)
    path = tmp_path / "b.json"
    with pytest.raises(SeamlineError, match="no room"):
        suite.run(["convert", "scale"], settings, path=str(path))
    content = json.loads(path.read_text())
    assert content["measurements"] == [dataclasses.asdict(row)]
    assert content["machine"]["gpus"] == []


def test_the_page_of_benchmarks_has_a_row_for_each_part() -> None:
    code = (
        "import trainer.benchmark\nfrom absl import flags\n"
        "print(*flags.FLAGS['what'].parser.enum_values)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    page = (ROOT / "docs/benchmarks.md").read_text()
    [table] = [x for x in page.split("\n\n") if x.startswith("| `--what` |")]
    rows = re.findall(r"^\| `(\w+)`", table, re.MULTILINE)
    assert sorted(rows) == sorted(done.stdout.split())


def test_a_wrong_file_ends_the_command_before_anything_is_measured(
    tmp_path: Path,
) -> None:
    (tmp_path / "scores.json").write_text(json.dumps({"mean_iou": 0.1}))
    done = run_command(
        *("trainer.benchmark", "--what=startup", "--compare=scores.json"),
        "--dataset=not-there",
        cwd=tmp_path,
    )
    assert done.returncode == 42
    assert done.stderr.startswith("error: --compare=scores.json: holds no measurements")
    assert done.stderr.count("\n") == 1
