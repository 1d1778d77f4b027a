"""The README against the code: its commands run, its flags and files exist."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, SMALL_REAL, run_command

README = (ROOT / "README.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]
TRAINER = [shlex.split(x)[2:] for x in COMMANDS if x.startswith("python -m trainer.")]


def flags_of(module: str) -> set[str]:
    program = f"import {module}\nfrom absl import flags\nprint(*flags.FLAGS, sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


@pytest.fixture(scope="module")
def known_flags() -> dict[str, set[str]]:
    return {module: flags_of(module) for module in {x[0] for x in TRAINER}}


def test_every_flag_of_a_documented_command_exists(
    known_flags: dict[str, set[str]],
) -> None:
    assert len(TRAINER) >= 8
    for module, *arguments in TRAINER:
        for argument in arguments:
            name = argument.split("=")[0].removeprefix("--")
            assert name in known_flags[module], f"{module} {argument}"


def test_every_flag_of_the_table_exists(known_flags: dict[str, set[str]]) -> None:
    table = README[README.index("## Flags") : README.index("Exit codes:")]
    names = set(re.findall(r"`--(\w+)", table))
    assert len(names) > 15
    assert names <= known_flags["trainer.task"]


def test_every_linked_file_exists() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
    for name in re.findall(r"`((?:k8s|docs|docker|\.ci|trainer)/[\w./-]*)`", README):
        assert (ROOT / name).exists(), name


def test_every_file_of_the_table_is_in_a_run_directory(finished_run: Path) -> None:
    table = README[README.index("## What a run leaves") : README.index("Records are")]
    names = re.findall(r"`([\w/]+(?:\.\w+|/))`", table)
    assert len(names) >= 12
    for name in names:
        places = (finished_run, finished_run / "figures")
        assert any((place / name).exists() for place in places), name


def test_the_documented_steps_run_one_after_the_other(
    drawn: Path, tmp_path: Path
) -> None:
    """Step by step, on a small dataset and with a small model, and nothing but logs."""
    steps = README[README.index("## Step by step") : README.index("### Your dataset")]
    commands = [
        line.removeprefix("python -m ")
        for line in steps.splitlines()
        if line.startswith("python -m trainer.")
    ]
    assert len(commands) == 6
    shutil.copytree(drawn / "photos", tmp_path / "photos")
    for command in commands:
        shorter = command.replace("/data/clothing-co-parsing", str(drawn))
        shorter = shorter.replace("--epochs=50", "--epochs=1")
        extra = SMALL_REAL if command.startswith("trainer.task") else ()
        fresh = command.startswith(("trainer.convert --dataset", "trainer.task"))
        done = run_command(*shlex.split(shorter), *extra, cwd=tmp_path, fresh=fresh)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        said = [x for x in done.stderr.splitlines() if "TensorFlow Lite" not in x]
        assert not said, command
    assert len(list((tmp_path / "predictions").glob("*.overlay.jpg"))) == 14


def test_the_lines_of_python_run_as_they_are(tmp_path: Path) -> None:
    """As a program of their own, which no worker of a conversion may start anew."""
    [lines] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(lines.split("\n")) <= 12, "ten lines, a blank one and the end"
    (tmp_path / "lines.py").write_text(lines)
    done = subprocess.run(
        [sys.executable, "lines.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = re.fullmatch(
        r"loss of the step: (\S+)\npixels that are right: (\S+)\n", done.stdout
    )
    assert found, done.stdout
    assert 0 < float(found[1]) < 20
    assert 0 <= float(found[2]) <= 1
    assert done.stderr == ""


def test_the_test_command_is_the_one_that_ci_runs() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    assert "pip install -e '.[test]' && pytest -q" in README
    assert "pip install --quiet -e '.[test]'" in ci
    assert ci.rstrip().endswith("pytest -q")
