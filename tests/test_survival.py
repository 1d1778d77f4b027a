"""Trainings that are really killed, again and again, and end as if nothing had been.

By default five of fifteen kills and an encoder of five layers. All of it, in about ten
minutes:

    SURVIVAL=full pytest -s tests/test_survival.py
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import ROOT, run_command
from tests.gcs import Cloud
from tests.test_engine import without_times
from trainer import storage

FULL = os.environ.get("SURVIVAL") == "full"

# Each of these ends one process; they are sent one after the other to one run of three
# epochs of five steps. Numbers are drawn, within what the process certainly reaches.
_draw = np.random.default_rng(5).integers
KILLS = [
    ("before a step", 1),
    ("between data and index", 1),  # of the first checkpoint of all
    ("before its list", 1),
    ("after a step", int(_draw(1, 3))),
    ("between data and index", 2),
    ("before the best", 1),
    ("after the best", 1),
    ("after the history", 1),
    ("after a step", int(_draw(1, 3))),
    ("removing the old", int(_draw(1, 3))),
    ("before a save", int(_draw(1, 3))),
    ("validated", 1),
    ("before the history", 1),
    ("exporting", 1),
    ("reporting", 1),
]
SOME_KILLS = [KILLS[k] for k in (1, 4, 12)]

STOPS = [
    ("loading", 1),
    ("before a step", 1),
    ("after a step", 2),
    ("after a step", 1),
    ("after the best", 1),
    ("validating", 1),
    ("before a save", 2),
    ("scoring", 1),
    ("exporting", 1),
]
SOME_STOPS = [STOPS[k] for k in (2, 5, 7)]


def flags(records: str, run_dir: str) -> list[str]:
    return [
        *(f"--records_dir={records}", f"--run_dir={run_dir}", "--encoder_weights=none"),
        f"--encoder={'mobilenetv2' if FULL else 'tiny'}",
        *("--image_size=32", "--batch_size=4", "--epochs=3", "--steps_per_epoch=5"),
    ]


def live(
    arguments: Iterable[str], event: str = "none", number: int = 0, name: str = ""
) -> subprocess.CompletedProcess[str]:
    """One process, to its end or until the signal."""
    command = ("tests.survival", event, str(number), name, *arguments)
    done = run_command(*command, cwd=ROOT)
    where = [x[9:] for x in done.stdout.splitlines() if "Resuming" in x]
    print(f"{name} {event} {number}: exit {done.returncode}", *where, flush=True)
    return done


def lives(
    arguments: list[str], moments: list[tuple[str, int]], number: signal.Signals
) -> None:
    """Sends the signal at all these moments, then lets the run end."""
    code = -number if number == signal.SIGKILL else 128 + number
    for event, count in moments:
        # Saved after every step, or at the end of epochs alone: both must do.
        often = "--save_minutes=1e-6" if event != "before the history" else ""
        done = live([*arguments, *filter(None, [often])], event, count, number.name)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
    done = live(arguments)
    assert done.returncode == 0, done.stdout + done.stderr


def tensors(folder: Path) -> dict[str, np.ndarray]:
    """All that the newest checkpoint holds, but for times."""
    reader = tf.train.load_checkpoint(tf.train.latest_checkpoint(str(folder)))
    names = (x for x in reader.get_variable_to_shape_map() if "progress" not in x)
    return {name: reader.get_tensor(name) for name in sorted(names) if name[0] != "_"}


def history(run_dir: Path) -> list[dict]:
    lines = (run_dir / "history.jsonl").read_text().splitlines()
    return without_times([json.loads(line) for line in lines])


def assert_same_run(ours: Path, theirs: Path) -> None:
    assert history(ours) == history(theirs)
    for kind in ("last", "best"):
        one, other = (tensors(x / "checkpoints" / kind) for x in (ours, theirs))
        assert one.keys() == other.keys()
        assert len(one) > 30
        for name, value in one.items():
            np.testing.assert_array_equal(value, other[name], err_msg=name)
    assert (ours / "scores.json").read_bytes() == (theirs / "scores.json").read_bytes()
    assert (ours / "report.html").exists()
    assert (ours / "export" / "saved_model.pb").exists()
    print(f"{len(one)} tensors bit-identical, {len(history(ours))} lines of history")


@pytest.fixture(scope="module")
def unbroken(records_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("survival") / "unbroken"
    done = live(flags(str(records_dir), str(run_dir)))
    assert done.returncode == 0, done.stdout + done.stderr
    return run_dir


def test_a_run_killed_again_and_again_ends_as_an_unbroken_one(
    unbroken: Path, records_dir: Path, tmp_path: Path
) -> None:
    arguments = flags(str(records_dir), str(tmp_path / "run"))
    lives(arguments, KILLS if FULL else SOME_KILLS, signal.SIGKILL)
    assert_same_run(tmp_path / "run", unbroken)


def test_a_run_stopped_again_and_again_ends_as_an_unbroken_one(
    unbroken: Path, records_dir: Path, tmp_path: Path
) -> None:
    arguments = flags(str(records_dir), str(tmp_path / "run"))
    lives(arguments, STOPS if FULL else SOME_STOPS, signal.SIGTERM)
    assert_same_run(tmp_path / "run", unbroken)


def test_a_run_in_a_faulty_bucket_killed_and_stopped_ends_as_an_unbroken_one(
    unbroken: Path, cloud: Cloud, bucket: str, records_dir: Path, tmp_path: Path
) -> None:
    for name in storage.list_files(str(records_dir)):
        content = (records_dir / name).read_bytes()
        storage.write_bytes(f"{bucket}/records/{name}", content)
    arguments = flags(f"{bucket}/records", f"{bucket}/run")
    kills = KILLS[2:8] + KILLS[9:13:2] if FULL else [KILLS[4], KILLS[6]]
    with cloud.failing(1 / 5):
        for moment in kills:
            often = [*arguments, "--save_minutes=1e-6"]
            assert live(often, *moment, "SIGKILL").returncode == -9
        assert live(arguments, "after a step", 1, "SIGTERM").returncode == 143
        done = live(arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in storage.list_files(f"{bucket}/run"):
        storage.download(f"{bucket}/run/{name}", str(tmp_path / "run" / name))
    assert_same_run(tmp_path / "run", unbroken)
