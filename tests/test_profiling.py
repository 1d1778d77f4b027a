"""Profiles: read back from the file that TensorBoard's profiler reads."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from tests.conftest import ROOT
from tests.test_engine import make_job, one_device, weights
from trainer.engine import loop, pace
from trainer.engine.profiling import Profile
from trainer.errors import SeamlineError, Stopped


def traced(run_dir: str | Path) -> list[list[int]]:
    """The steps in each profile of a run, the oldest profile first."""
    pattern = f"{run_dir}/tensorboard/plugins/profile/*/*.xplane.pb"
    return [_steps(path) for path in sorted(tf.io.gfile.glob(pattern))]


def _steps(path: str) -> list[int]:
    with tf.io.gfile.GFile(path, "rb") as file:
        space = xplane_pb2.XSpace.FromString(file.read())
    found = []
    for plane in space.planes:
        names = {key: value.name for key, value in plane.event_metadata.items()}
        stats = {key: value.name for key, value in plane.stat_metadata.items()}
        for line in plane.lines:
            for event in line.events:
                if names[event.metadata_id] != "train":
                    continue
                found += [
                    stat.int64_value
                    for stat in event.stats
                    if stats[stat.metadata_id] == "step_num"
                ]
    return sorted(found)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Steps of each host call, of which nothing but the profile makes short ones."""
    counts = []
    original = loop.bars.Bar.update

    def update(bar: Any, count: int, note: str = "") -> None:
        counts.append(count)
        original(bar, count, note)

    monkeypatch.setattr(loop.bars.Bar, "update", update)
    monkeypatch.setattr(pace.Pace, "count", lambda self, left: left)
    return counts


def test_a_profile_holds_exactly_the_steps_asked_for_and_changes_none(
    calls: list[int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = make_job(tmp_path / "plain", one_device())
    loop.train(plain)
    assert calls == [3, 3, 3]
    calls.clear()
    job = make_job(tmp_path / "run", one_device())
    with caplog.at_level("INFO", "seamline"):
        loop.train(job, profile_steps=(2, 4))
    assert calls == [2, 1, 1, 1, 1, 3]
    assert traced(job.run_dir) == [[2, 3, 4]]
    assert "Profile: steps 2 to 4" in caplog.text
    assert f"Profile: {job.run_dir}/tensorboard" in caplog.text
    for ours, theirs in zip(weights(job), weights(plain), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_profile_that_is_interrupted_is_saved_and_goes_on_with_the_run(
    calls: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = loop.bars.Bar.update

    def signalling(bar: Any, count: int, note: str = "") -> None:
        update(bar, count, note)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(loop.bars.Bar, "update", signalling)
        with pytest.raises(Stopped, match="after saving at step 5"):
            loop.train(make_job(tmp_path / "run", one_device()), profile_steps=(4, 70))
    assert traced(tmp_path / "run") == [[4]]
    # Profiles of one second would share a folder.
    shutil.rmtree(tmp_path / "run" / "tensorboard" / "plugins")
    loop.train(make_job(tmp_path / "run", one_device()), profile_steps=(4, 70))
    assert traced(tmp_path / "run") == [[5, 6, 7, 8]]


def test_steps_that_are_done_are_not_profiled_and_a_line_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loop.train(make_job(tmp_path / "run", one_device(), epochs=2))
    with caplog.at_level("INFO", "seamline"):
        loop.train(make_job(tmp_path / "run", one_device()), profile_steps=(1, 5))
    line = "Profile: none, --profile_steps=1,5 were done before; the next step is 6"
    assert line in caplog.text
    assert traced(tmp_path / "run") == []


def test_a_training_that_ends_before_the_profile_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = make_job(tmp_path / "run", one_device())
    with caplog.at_level("INFO", "seamline"):
        loop.train(job, profile_steps=(6, 8), max_minutes=1e-9)
    assert "Profile: none, the training ended before step 6" in caplog.text
    assert traced(job.run_dir) == []


def test_steps_beyond_the_training_are_refused(tmp_path: Path) -> None:
    job = make_job(tmp_path / "run", one_device())
    line = "--profile_steps=9,12: the training has the steps 0 to 8; give earlier ones"
    with pytest.raises(SeamlineError, match=line):
        loop.train(job, profile_steps=(9, 12))
    assert list((tmp_path / "run").iterdir()) == []


def test_a_profile_can_be_written_to_a_bucket(bucket: str, tmp_path: Path) -> None:
    job = make_job(tmp_path / "run", one_device())
    job = dataclasses.replace(job, run_dir=f"{bucket}/run")
    profile = Profile(job, 0, (7, 7))
    with profile.mark(7):
        tf.zeros(3)
    profile.end_after(8)
    assert traced(job.run_dir) == [[7]]


def test_the_profile_of_the_page_is_one_that_the_command_takes() -> None:
    page = (ROOT / "docs" / "tensorboard.md").read_text()
    [line] = re.findall(r"^python -m (trainer\.task .*)$", page, re.MULTILINE)
    program = (
        "import sys; from trainer import training_flags as t; from absl import flags;"
        "flags.FLAGS(sys.argv); print(t.training()['profile_steps'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *line.split()[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("(20, 30)\n", "")
    assert "profiles the steps 20 to 30" in page
