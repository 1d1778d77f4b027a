"""Peak memory of a command with all its worker processes (Linux)."""

from __future__ import annotations

import glob
import os
import subprocess
import sys
import threading

_POLL_S = 0.02


def peak_memory_mb(arguments: list[str]) -> float:
    """Runs `python -m …` and adds up what each of its processes held at most.

    The kernel keeps each process's own peak (`VmHWM`), so that looking now and then
    misses only processes that live for an instant. Pages that processes share count
    once for each.

    Args:
      arguments: after `python -m`.

    Raises:
      subprocess.CalledProcessError: the command failed.
    """
    command = [sys.executable, "-m", *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, start_new_session=True
    )
    peaks: dict[int, int] = {}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_POLL_S):
            for pid in _session(process.pid):
                # Not the greatest: until a new process is its own program, the kernel
                # shows the peak of the one that started it.
                peaks[pid] = peak_kb(pid) or peaks.get(pid, 0)

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    done.set()
    watcher.join()
    if code:
        raise subprocess.CalledProcessError(code, command)
    return sum(peaks.values()) / 1024


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
