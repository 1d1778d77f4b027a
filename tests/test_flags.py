"""The flags that describe a dataset of one's own, as a command sees them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from trainer.layout import Layout

PROGRAM = """
from trainer import flags
flags.define_records_flags()
flags.define_recipe_flags()
flags.run(lambda argv: print(flags.records_arguments()["layout"]))
"""
GIVEN = ("--images_dir=i", "--masks_dir=gs://b/m", "--label_names=n.txt")
PLAIN = Layout(images_dir="i", masks_dir="gs://b/m", label_names="n.txt")


def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_flags_there_is_no_layout() -> None:
    assert ask().stdout == "None\n"
    assert ask("--dataset=sample", "--split_seed=3").stdout == "None\n"


def test_three_flags_make_a_layout_with_its_own_defaults() -> None:
    assert ask(*GIVEN).stdout == f"{PLAIN}\n"
    assert (PLAIN.ignore_ids, PLAIN.mask_variable) == ((255,), "groundtruth")


def test_every_field_of_a_layout_has_a_flag() -> None:
    values = {
        "mask_variable": "gt",
        "image_suffix": "_i",
        "mask_suffix": "_m",
        "train_ids": "t.txt",
        "val_ids": "v.txt",
    }
    given = (f"--{name}={value}" for name, value in values.items())
    layout = Layout(
        images_dir="i",
        masks_dir="gs://b/m",
        label_names="n.txt",
        ignore_ids=(0, 255, -1),
        **values,
    )
    assert ask(*GIVEN, "--ignore_ids=0, 255,-1", *given).stdout == f"{layout}\n"


def test_an_empty_list_of_ignored_ids_ignores_none() -> None:
    assert "ignore_ids=()," in ask(*GIVEN, "--ignore_ids=").stdout


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--mask_suffix=_m"], "--mask_suffix=_m: goes with --images_dir"),
        (["--val_ids=v.txt"], "--val_ids=v.txt: goes with --images_dir"),
        (["--images_dir="], "--images_dir=: is empty; give it a value"),
        ([*GIVEN, "--val_ids="], "--val_ids=: is empty; give it a value"),
        (GIVEN[:1], "--images_dir=i: goes with --masks_dir"),
        (GIVEN[:2], "--images_dir=i: goes with --label_names"),
        (
            [*GIVEN, "--dataset=sample"],
            "--images_dir=i: --dataset=sample says something else; give one of the two",
        ),
        ([*GIVEN, "--dataset=auto"], "--images_dir=i: --dataset=auto says something"),
        (
            [*GIVEN, "--val_ids=v.txt", "--split_seed=1"],
            "--val_ids=v.txt: --split_seed=1 says something else",
        ),
        (
            [*GIVEN, "--train_ids=t.txt", "--split_fraction=0.5"],
            "--train_ids=t.txt: --split_fraction=0.5 says something else",
        ),
        ([*GIVEN, "--ignore_ids=0;255"], "--ignore_ids=0;255: not integers joined by"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(
    arguments: list[str], problem: str
) -> None:
    done = ask(*arguments)
    assert done.returncode == 42
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: {problem}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        (
            "--epochz=5",
            "--epochz: no such flag; did you mean --epochs? --help lists all",
        ),
        ("--zzzzzz", "--zzzzzz: no such flag; --help lists all"),
        (
            "--epochs=abc",
            "--epochs=abc: invalid literal for int() with base 10: 'abc'; --help says "
            "what it takes",
        ),
        (
            "--workers=-1",
            "--workers=-1: -1 is not a non-negative integer; --help says what it takes",
        ),
        (
            "--split_fraction=2",
            "--split_fraction=2: 2.0 is not a number in the range [0.0, 1.0]; --help "
            "says what it takes",
        ),
        (
            "--skip_bad=perhaps",
            "--skip_bad=perhaps: not true or false; --help says what it takes",
        ),
        (
            "--dataset",
            "Missing value for flag --dataset; --help says what it takes",
        ),
    ],
)
def test_a_flag_that_cannot_be_is_one_line_and_needs_no_retry(
    argument: str, line: str
) -> None:
    done = ask(argument)
    assert (done.returncode, done.stdout) == (42, "")
    assert done.stderr == f"error: {line}\n"


DOORS = (
    *("benchmark", "convert", "evaluate", "export", "launch", "predict", "preview"),
    "task",
)


@pytest.mark.parametrize("door", DOORS)
def test_every_command_ends_so(door: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"trainer.{door}", "--zzzzzz=5"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 42
    assert done.stderr == "error: --zzzzzz: no such flag; --help lists all\n"


TWICE = """
import os, signal
from trainer import flags

def main(argv):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        print("tidying up")

flags.run(main)
"""


def test_a_second_sigterm_ends_a_command_at_once_and_without_a_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TWICE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "")
