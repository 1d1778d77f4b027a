import operator
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from trainer import machine
from trainer.data import workers
from trainer.errors import Unavailable

SELF = "/proc/self"
"""A link to the number of whichever process reads it."""


def test_results_come_in_the_order_of_the_tasks() -> None:
    with workers.start(2, preload="json") as pool:
        assert list(pool.map(operator.neg, range(50))) == list(range(0, -50, -1))


def test_one_worker_is_this_process_and_two_are_others() -> None:
    with workers.start(1, preload="json") as pool:
        assert set(pool.map(os.readlink, [SELF] * 3)) == {str(os.getpid())}
    with workers.start(2, preload="json") as pool:
        assert str(os.getpid()) not in set(pool.map(os.readlink, [SELF] * 20))


def test_only_a_few_tasks_are_taken_ahead_of_the_reader() -> None:
    taken = []

    def tasks() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    with workers.start(2, preload="json") as pool:
        results = pool.map(operator.neg, tasks())
        assert next(results) == 0
        assert len(taken) <= 8


def test_an_exception_of_a_task_reaches_the_reader() -> None:
    with (
        workers.start(2, preload="json") as pool,
        pytest.raises(ValueError, match="invalid literal"),
    ):
        list(pool.map(int, ["1", "x"]))


def test_a_killed_worker_is_told_with_a_way_out() -> None:
    with (
        workers.start(2, preload="json") as pool,
        pytest.raises(Unavailable, match=r"was killed.*--workers=1"),
    ):
        list(pool.map(signal.raise_signal, [signal.SIGKILL] * 3))


ORPHANS = """
import os, sys
from trainer.data import workers
from trainer.errors import Unavailable
if __name__ == "__main__":
    with workers.start(2, preload="json") as pool:
        print(*set(pool.map(os.readlink, ["/proc/self"] * 40)), flush=True)
        sys.stdin.read()
"""


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(ORPHANS)
    parent = subprocess.Popen(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    children = [int(word) for word in parent.stdout.readline().split()]
    assert children
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 30
    alive = children
    while alive and time.monotonic() < deadline:
        alive = [pid for pid in alive if is_running(pid)]
    assert alive == []


def is_running(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_a_container_gets_no_more_workers_than_its_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "cpu_limit", lambda: 96)
    monkeypatch.setattr(machine, "memory_limit", lambda: 3 << 30)
    assert workers.default_workers() == 6
    monkeypatch.setattr(machine, "cpu_limit", lambda: 4)
    assert workers.default_workers() == 4
    monkeypatch.setattr(machine, "memory_limit", lambda: 1 << 20)
    assert workers.default_workers() == 1
