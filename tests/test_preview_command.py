from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import SMALL, run_command
from trainer import storage

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


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("--augment=wild", "error: --augment=wild: no policy or op 'wild'"),
        ("--run_dir=nowhere", "error: nowhere/config.json: not there"),
        ("--records_dir=nowhere/at/all", "--records_dir"),
    ],
)
def test_what_cannot_be_shown_is_one_line(
    argument: str, line: str, tmp_path: Path
) -> None:
    storage.make_folder(str(tmp_path / "data"))
    done = run_command(
        "trainer.preview", "--dataset=data", argument, "--output=b.png", cwd=tmp_path
    )
    assert done.returncode == 42
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "b.png").exists()
