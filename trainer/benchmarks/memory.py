"""Peak memory of a command with all its worker processes (Linux)."""

from __future__ import annotations

import contextlib
import glob
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator

_POLL_S = 0.02


def peak_memory_mb(arguments: list[str]) -> float:
    """Runs `python -m …`; MB that its processes held at most, see `watched`.

    Args:
      arguments: after `python -m`.

    Raises:
      subprocess.CalledProcessError: the command failed.
    """
    command = [sys.executable, "-m", *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, start_new_session=True
    )
    with watched(process.pid) as peak_mb:
        code = process.wait()
    if code:
        raise subprocess.CalledProcessError(code, command)
    return peak_mb()


@contextlib.contextmanager
def watched(leader: int, *, poll_s: float = _POLL_S) -> Iterator[Callable[[], float]]:
    """Meanwhile looks again and again at the processes of a session.

    The kernel keeps each process's own peak (`VmHWM`), so that looking now and then
    misses only processes that live for an instant. Those of the processes that live at
    the same time are added up, which is never less than what they hold together. Pages
    that processes share count once for each.

    Args:
      leader: process that started the session.
      poll_s: seconds between two looks.

    Yields:
      A function that looks once more: MB that was the most at any look so far.
    """
    seen: Collection[int] = ()
    most, one_looks, done = 0, threading.Lock(), threading.Event()

    def look() -> float:
        nonlocal seen, most
        with one_looks:
            living = {pid: peak_kb(pid) for pid in _session(leader)}
            # Until a new process is its own program, the kernel shows the peak of the
            # one that started it: it counts from the second look on.
            most = max(most, sum(living[pid] for pid in living if pid in seen))
            seen = living
        return most / 1024

    def watch() -> None:
        while not done.wait(poll_s):
            look()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield look
    finally:
        done.set()
        watcher.join()


def _session(leader: int) -> list[int]:
    """Processes of the session that `leader` started."""
    found = []
    for folder in glob.glob("/proc/[0-9]*"):
        pid = int(os.path.basename(folder))
        try:
            if os.getsid(pid) == leader:
                found.append(pid)
        except ProcessLookupError:
            continue
    return found


def peak_kb(pid: int) -> int:
    """KiB that a process has held at most; 0 where there is none."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8") as file:
            lines = [line for line in file if line.startswith("VmHWM:")]
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(lines[0].split()[1]) if lines else 0
