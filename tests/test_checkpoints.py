"""Checkpoints that are damaged in every way a disk or a kill can damage them."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import ROOT
from tests.gcs import Cloud
from tests.gcs_gate import Request
from trainer import storage
from trainer.engine import shelf
from trainer.engine.shelf import Shelf
from trainer.engine.state import Checkpoints, Progress, has_begun, load_best
from trainer.errors import SeamlineError, Unavailable


def values(size: int = 500) -> keras.Model:
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(size)])


class Run:
    """The checkpoints of a run whose weights are all equal to the step."""

    def __init__(self, run_dir: str | Path) -> None:
        self.model = values()
        self.optimizer = keras.optimizers.SGD(momentum=0.9)
        self.optimizer.build(self.model.trainable_variables)
        self.checkpoints = Checkpoints(str(run_dir), self.model, self.optimizer)

    def at(self, step: int) -> None:
        for variable in self.model.trainable_variables:
            variable.assign(tf.fill(variable.shape, float(step)))

    def save(self, step: int, *, best_step: int = 0) -> None:
        self.at(step)
        self.checkpoints.save(Progress(step=step, best_step=best_step))

    def restore(self) -> int:
        """The restored step; all weights are checked to be of it."""
        self.at(-1)
        step = self.checkpoints.restore().step
        for variable in self.model.trainable_variables if step else []:
            np.testing.assert_array_equal(variable.numpy(), step)
        return step


def last(run_dir: str | Path) -> str:
    return storage.join(str(run_dir), "checkpoints", "last")


def write_three(run_dir: str | Path) -> None:
    run = Run(run_dir)
    for step in (3, 6, 9):
        run.save(step)


def truncate(path: str) -> None:
    storage.write_bytes(path, storage.read_bytes(path)[: storage.size(path) // 2])


def empty(path: str) -> None:
    storage.write_bytes(path, b"")


def flip(path: str) -> None:
    content = bytearray(storage.read_bytes(path))
    content[len(content) // 2] ^= 1
    storage.write_bytes(path, bytes(content))


DAMAGES = [truncate, empty, flip, storage.remove_file]
DATA, INDEX = ".data-00000-of-00001", ".index"


@pytest.mark.parametrize("ending", [DATA, INDEX])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(
    damage: Callable[[str], None],
    ending: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write_three(tmp_path)
    damage(f"{last(tmp_path)}/ckpt-9{ending}")
    run = Run(tmp_path)
    with caplog.at_level(logging.WARNING, "seamline"):
        assert run.restore() == 6
    [line] = [x.getMessage() for x in caplog.records]
    assert "ckpt-9 cannot be read (" in line
    assert line.endswith(f"going on from {last(tmp_path)}/ckpt-6")
    assert "\n" not in line
    assert not any("ckpt-9" in name for name in os.listdir(last(tmp_path)))
    run.save(9)
    assert Run(tmp_path).restore() == 9


RESTORE = """
import logging, sys
from tests.test_checkpoints import Run
logging.basicConfig(format="%(message)s")
try:
    print(Run(sys.argv[1]).restore())
except Exception as error:
    print(error.exit_code, error)
"""


def in_process(program: str, run_dir: str) -> tuple[str, str]:
    """What a process of its own prints: output and the warnings.

    TensorFlow holds this process's lock while it waits for a bucket, which would hold
    up the threads of the gate.
    """
    done = subprocess.run(
        [sys.executable, "-c", program, run_dir],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    lines = done.stderr.splitlines(keepends=True)
    return done.stdout.strip(), "".join(x for x in lines if x.startswith("Warning"))


@pytest.fixture
def remote(cloud: Cloud, bucket: str) -> str:
    """A run in a bucket with checkpoints of the steps 3, 6 and 9."""
    program = "import sys; from tests import test_checkpoints as t"
    in_process(f"{program}; t.write_three(sys.argv[1])", f"{bucket}/run")
    return f"{bucket}/run"


def test_damaged_checkpoints_in_a_bucket_give_way_to_the_one_before(
    remote: str,
) -> None:
    truncate(f"{last(remote)}/ckpt-9{DATA}")
    storage.remove_file(f"{last(remote)}/ckpt-6{INDEX}")
    out, warning = in_process(RESTORE, remote)
    assert out == "3"
    assert warning.count("\n") == 1
    assert all(f"/ckpt-{step}" in warning for step in (3, 6, 9))
    names = storage.list_folder(last(remote))
    assert [x for x in names if "ckpt" in x] == [f"ckpt-3{DATA}", f"ckpt-3{INDEX}"]


def test_a_bucket_that_does_not_answer_is_no_damage(cloud: Cloud, remote: str) -> None:
    def away(request: Request) -> int | None:
        return 503 if request.by_tensorflow else None

    with cloud.watching(away):
        out, warning = in_process(RESTORE, remote)
    assert out.startswith(f"75 {last(remote)}/ckpt-9: cannot be reached now")
    assert warning == ""
    for step in (3, 6, 9):
        assert storage.exists(f"{last(remote)}/ckpt-{step}{INDEX}")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\0", b'model_checkpoint_path: "c'])
def test_a_damaged_list_of_checkpoints_matters_not(
    content: bytes, tmp_path: Path
) -> None:
    write_three(tmp_path)
    (Path(last(tmp_path)) / "checkpoint").write_bytes(content)
    run = Run(tmp_path)
    assert run.restore() == 9
    run.save(12)
    newest = tf.train.latest_checkpoint(last(tmp_path))
    assert newest == f"{last(tmp_path)}/ckpt-12"


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(x): x.read_bytes() for x in folder.rglob("*") if x.is_file()}


@pytest.mark.parametrize("damage", DAMAGES)
def test_when_no_checkpoint_can_be_read_nothing_is_touched(
    damage: Callable[[str], None], tmp_path: Path
) -> None:
    write_three(tmp_path)
    for step in (3, 6, 9):
        damage(f"{last(tmp_path)}/ckpt-{step}{DATA}")
    before = content_of(tmp_path)
    with pytest.raises(SeamlineError, match=r"no checkpoint that can be read") as error:
        Run(tmp_path).restore()
    assert error.value.exit_code == 42
    assert "\n" not in str(error.value)
    assert f"{last(tmp_path)}/ckpt-9" in str(error.value)
    assert content_of(tmp_path) == before


def test_a_first_save_that_was_cut_off_starts_anew(tmp_path: Path) -> None:
    Run(tmp_path).save(3)
    for name in ("checkpoint", f"ckpt-3{INDEX}"):
        os.remove(f"{last(tmp_path)}/{name}")
    assert not has_begun(str(tmp_path))
    run = Run(tmp_path)
    assert run.restore() == 0
    run.save(3)
    assert Run(tmp_path).restore() == 3


def test_checkpoints_are_numbered_by_step_and_the_last_three_are_kept(
    tmp_path: Path,
) -> None:
    run = Run(tmp_path)
    for step in (2, 3, 5, 8):
        run.save(step)
    state = tf.train.get_checkpoint_state(last(tmp_path))
    names = [os.path.basename(x) for x in state.all_model_checkpoint_paths]
    assert names == ["ckpt-3", "ckpt-5", "ckpt-8"]
    assert sorted(os.listdir(last(tmp_path))) == [
        "checkpoint",
        *(f"ckpt-{step}{x}" for step in (3, 5, 8) for x in (DATA, INDEX)),
    ]


def test_a_checkpoint_is_never_written_over(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.save(3)
    before = content_of(tmp_path)
    run.save(3)
    assert content_of(tmp_path) == before


def test_what_killed_saves_have_left_is_removed(tmp_path: Path) -> None:
    write_three(tmp_path)
    folder = Path(last(tmp_path))
    before = content_of(tmp_path)
    (folder / "ckpt-12_temp").mkdir()
    (folder / "ckpt-12_temp" / "part-00000-of-00001.index").write_bytes(b"half")
    (folder / "checkpoint.tmp0123").write_bytes(b"half")
    assert Run(tmp_path).restore() == 9
    assert content_of(tmp_path) == before


def test_the_best_model_is_the_one_that_the_restored_checkpoint_knows(
    tmp_path: Path,
) -> None:
    run = Run(tmp_path)
    for step, best_step in ((3, 3), (6, 3), (9, 9), (12, 12)):
        run.at(step)
        if step == best_step:
            run.checkpoints.save_best(Progress(step=step))
        run.save(step, best_step=best_step)
    for step in (12, 9):
        flip(f"{last(tmp_path)}/ckpt-{step}{DATA}")
    assert Run(tmp_path).restore() == 6
    model = values()
    load_best(str(tmp_path), model)
    np.testing.assert_array_equal(model.get_weights()[0], 3)


def test_a_best_model_that_cannot_be_read_is_one_clear_error(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.checkpoints.save_best(Progress(step=3))
    path = storage.join(str(tmp_path), "checkpoints", "best", "ckpt-3")
    flip(path + DATA)
    with pytest.raises(SeamlineError, match=r"ckpt-3: cannot be read \(") as error:
        load_best(str(tmp_path), values())
    assert "\n" not in str(error.value)


def test_a_file_that_may_not_be_read_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read all, so TensorFlow's answer is given here."""
    write_three(tmp_path)

    def refuse(self: object, path: str) -> None:
        raise tf.errors.OpError(None, None, f"{path}.index; Permission denied", 2)

    with monkeypatch.context() as patched:
        patched.setattr(tf.train.Checkpoint, "read", refuse)
        with pytest.raises(Unavailable, match="Permission denied"):
            Run(tmp_path).restore()
    assert Shelf(tf.train.Checkpoint(), last(tmp_path), keep=3).numbers == [3, 6, 9]
    assert shelf.holds_any(last(tmp_path))
