from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.gcs import Cloud
from tests.gcs_gate import Request
from trainer import storage
from trainer.errors import SeamlineError, Unavailable
from trainer.storage import locks

HOLD = """
import sys
from trainer.storage import locks
with locks.exclusive(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


class Pauses:
    """Counts seconds that nobody waits."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture(params=["disk", "bucket"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        return str(tmp_path / "run")
    return f"{request.getfixturevalue('bucket')}/run"


def holder(folder: str) -> subprocess.Popen[str]:
    """A process that holds the lock until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, folder],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process seems to be on another machine than those before."""
    monkeypatch.setattr(locks, "_space", lambda: "another")


def renewed(folder: str) -> None:
    path = storage.join(folder, "lock")
    storage.write_bytes(path, storage.read_bytes(path))


def test_a_second_process_waits_and_is_refused_with_one_line(folder: str) -> None:
    remote, waited = storage.is_remote(folder), Pauses()
    first = holder(folder)

    def pause(seconds: float) -> None:
        waited(seconds)
        if remote and waited.seconds % 15 == 0:
            renewed(folder)  # as the holder does, if it were so long

    with (
        pytest.raises(Unavailable, match=f"{folder}: process {first.pid} on") as error,
        locks.exclusive(folder, pause=pause),
    ):
        pass
    assert error.value.exit_code == 75
    assert "\n" not in str(error.value)
    assert waited.seconds == (90 if remote else 30)
    first.communicate()


def test_a_lock_that_is_given_back_leaves_nothing(folder: str) -> None:
    with locks.exclusive(folder) as still_ours:
        still_ours()
        assert storage.list_folder(folder) == ["lock"]
    assert storage.list_folder(folder) == []


def test_a_lock_is_given_back_while_another_waits(folder: str) -> None:
    first = holder(folder)

    def pause(seconds: float) -> None:
        if first.returncode is None:
            first.communicate()

    with locks.exclusive(folder, pause=pause):
        assert first.returncode == 0
        content = storage.read_bytes(storage.join(folder, "lock"))
        assert json.loads(content)["number"] == os.getpid()
    assert storage.list_folder(folder) == []


def test_the_lock_of_a_killed_process_holds_nobody_up(folder: str) -> None:
    first = holder(folder)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert storage.list_folder(folder) == ["lock"]
    pauses = Pauses()
    with locks.exclusive(folder, pause=pauses):
        pass
    assert pauses.seconds == 0


def test_a_lock_left_in_a_bucket_by_another_machine_is_taken_after_a_while(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = holder(f"{bucket}/run")
    first.kill()
    first.wait()
    elsewhere(monkeypatch)
    pauses = Pauses()
    with locks.exclusive(f"{bucket}/run", pause=pauses):
        assert pauses.seconds == 45
    assert storage.list_folder(f"{bucket}/run") == []


def test_of_two_who_take_a_left_lock_one_gets_it(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = holder(f"{bucket}/run")
    first.kill()
    first.wait()
    elsewhere(monkeypatch)
    got: list[int | None] = []
    original = locks.buckets.write_over

    def rival_first(url: str, content: bytes, generation: int) -> int | None:
        original(url, b"a rival's", generation)
        got.append(original(url, content, generation))
        return got[-1]

    def pause(seconds: float) -> None:
        if got:
            renewed(f"{bucket}/run")

    monkeypatch.setattr(locks.buckets, "write_over", rival_first)
    with (
        pytest.raises(Unavailable, match="another process trains here"),
        locks.exclusive(f"{bucket}/run", pause=pause),
    ):
        pass
    assert got == [None]


def test_a_lock_in_a_bucket_is_renewed_and_its_loss_is_noticed(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_STALE_S", -1)
    path = f"{bucket}/run/lock"
    with locks.exclusive(f"{bucket}/run") as still_ours:
        first = storage.buckets.require(path).generation
        still_ours()
        assert storage.buckets.require(path).generation != first
        storage.write_bytes(path, b"another's")
        with pytest.raises(Unavailable, match="another process has taken this run"):
            still_ours()
    assert storage.read_bytes(path) == b"another's"


def test_a_renewal_whose_answer_was_lost_is_known_as_our_own(
    cloud: Cloud, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_STALE_S", -1)
    with cloud.failing(1 / 2), locks.exclusive(f"{bucket}/run") as still_ours:
        for _ in range(6):
            still_ours()
    assert storage.list_folder(f"{bucket}/run") == []


def test_a_disk_without_locks_is_used_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(file: int, how: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(locks.fcntl, "flock", unsupported)
    with locks.exclusive(str(tmp_path / "run")) as still_ours:
        still_ours()


def test_a_folder_without_rights_is_one_clear_error(cloud: Cloud, bucket: str) -> None:
    def forbid(request: Request) -> int | None:
        return 403 if request.method == "POST" else None

    with (
        cloud.watching(forbid),
        pytest.raises(SeamlineError, match="run/lock: no permission"),
        locks.exclusive(f"{bucket}/run"),
    ):
        pass
