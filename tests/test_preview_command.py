from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import SMALL, run_command
from trainer import recipes, storage
from trainer.data.card import read_card
from trainer.engine import runs

POLICY = "--augment=flip=0.5,rotate=10"


def preview(*arguments: str, cwd: Path) -> tuple[np.ndarray, str]:
    done = run_command("trainer.preview", *arguments, "--output=b.png", cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return cv2.imread(str(cwd / "b.png")), done.stdout


def test_steps_and_seeds_show_different_batches_and_the_same_again(
    records_dir: Path, tmp_path: Path
) -> None:
    where = (f"--records_dir={records_dir}", *SMALL, POLICY)
    first, said = preview(*where, "--step=7", cwd=tmp_path)
    assert "Step 7 · epoch 4, 2 of 2: b.png" in said
    again, _ = preview(*where, "--step=7", cwd=tmp_path)
    np.testing.assert_array_equal(first, again)
    for change in ("--step=8", "--seed=1"):
        other, _ = preview(*where, "--step=7", change, cwd=tmp_path)
        assert first.shape != other.shape or (first != other).any()


def test_a_run_is_looked_into_with_its_own_values(
    finished_run: Path, tmp_path: Path
) -> None:
    work = finished_run.parent.parent
    run = f"--run_dir={finished_run}"
    picture, said = preview(run, "--step=3", cwd=work)
    assert "Step 3 · epoch 2, 2 of 2" in said
    [records] = (work / "records").iterdir()
    told, _ = preview(f"--records_dir={records}", *SMALL, "--step=3", cwd=work)
    np.testing.assert_array_equal(picture, told)
    changed, _ = preview(run, "--step=3", "--augment=none", cwd=work)
    assert picture.shape != changed.shape or (picture != changed).any()


def test_the_last_step_and_seed_that_may_be_asked_for_are_shown(
    records_dir: Path, tmp_path: Path
) -> None:
    last = (f"--step={2**40}", f"--seed={2**32 - 1}")
    where = (f"--records_dir={records_dir}", *SMALL, POLICY)
    _, said = preview(*where, *last, cwd=tmp_path)
    assert "Step 1,099,511,627,776 · epoch 549,755,813,889, 1 of 2: b.png" in said


def recorded_run(folder: Path, records_dir: Path, fingerprint: str) -> str:
    """A flag for a run of which there is no more than its `config.json`."""
    recipe = recipes.resolve("default", {"image_size": 32, "augment": "none"})
    identity = runs.identify(recipe, 0, "float32", read_card(str(records_dir)))
    identity["records_fingerprint"] = fingerprint
    config = {"identity": identity, "records_dir": str(records_dir)}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return f"--run_dir={folder.name}"


def test_records_that_a_run_was_not_trained_on_are_shown_only_where_asked_for(
    drawn: Path, records_dir: Path, tmp_path: Path
) -> None:
    fingerprint = read_card(str(records_dir)).fingerprint
    other = recorded_run(tmp_path / "other", records_dir, fingerprint[::-1])
    assert refusal(other, cwd=tmp_path) == (
        f"error: {records_dir}: not the records that other was trained on (fingerprint "
        "differs); to look at others, say which by --records_dir"
    )
    same = recorded_run(tmp_path / "same", records_dir, fingerprint)
    picture, _ = preview(same, cwd=tmp_path)
    for asked in (f"--records_dir={records_dir}", f"--dataset={drawn}"):
        shown, _ = preview(other, asked, cwd=tmp_path)
        np.testing.assert_array_equal(picture, shown)


def refusal(*arguments: str, cwd: Path) -> str:
    """The one line that is said instead of a picture."""
    done = run_command("trainer.preview", "--output=b.png", *arguments, cwd=cwd)
    assert done.returncode == 42, done.stdout + done.stderr
    assert not list(cwd.glob("b*"))
    [line] = done.stderr.splitlines()
    return line


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("--augment=wild", "error: --augment=wild: no policy or op 'wild'"),
        ("--run_dir=nowhere", "error: nowhere/config.json: not there"),
        ("--records_dir=nowhere/at/all", "error: --dataset=data: no pairs"),
        ("--output=b.jpg", "error: --output=b.jpg: the picture is a PNG; give a name"),
        ("--output=b", "error: --output=b: the picture is a PNG; give a name"),
    ],
)
def test_what_cannot_be_shown_is_one_line(
    argument: str, line: str, tmp_path: Path
) -> None:
    storage.make_folder(str(tmp_path / "data"))
    assert refusal("--dataset=data", argument, cwd=tmp_path).startswith(line)


RECORDS = "which records; to look at others, give --dataset or --records_dir"


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--recipe=tutorial", "which recipe; give single flags to change it"),
        ("--recipe=default", "which recipe; give single flags to change it"),
        ("--record_size=64", RECORDS),
        ("--split_fraction=0.5", RECORDS),
        ("--split_seed=0", RECORDS),
        ("--workers=2", RECORDS),
    ],
)
def test_flags_that_a_run_leaves_no_room_for_are_refused(
    argument: str, said: str, tmp_path: Path
) -> None:
    line = refusal("--run_dir=run", argument, cwd=tmp_path)
    assert line == f"error: {argument}: --run_dir=run says {said}"


@pytest.mark.parametrize(
    "argument", [f"--step={2**40 + 1}", "--step=-1", f"--seed={2**32}", "--seed=-1"]
)
def test_steps_and_seeds_beyond_the_numbers_of_the_stream_are_refused(
    argument: str, tmp_path: Path
) -> None:
    line = refusal("--run_dir=run", argument, cwd=tmp_path)
    assert line.startswith(f"error: {argument}: ")
    assert "is not an integer in the range" in line
