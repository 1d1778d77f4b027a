"""Commands as processes of their own: how long they take, and what they hold."""

from __future__ import annotations

import collections
import dataclasses
import os
import signal
import subprocess
import sys
import time

from trainer.benchmarks import memory
from trainer.errors import SeamlineError

_POLL_S = 0.1
_LAST_LINES = 20


@dataclasses.dataclass(frozen=True)
class Moment:
    """Where a command stands.

    Attributes:
      seconds: since it was started.
      megabytes: that it has held at most until then; see `memory.watched`.
    """

    seconds: float
    megabytes: float


def follow(arguments: list[str], mark: str) -> tuple[Moment, Moment]:
    """Runs `python -m …` to its end.

    Args:
      arguments: after `python -m`.
      mark: what a line of its output holds.

    Returns:
      The moment of the first such line, and that of the end.

    Raises:
      SeamlineError: it failed or printed no such line; tells what it printed last.
    """
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    assert process.stdout is not None, "a pipe was asked for"
    marked = None
    said: collections.deque[str] = collections.deque(maxlen=_LAST_LINES)
    try:
        with memory.watched(process.pid, poll_s=_POLL_S) as peak_mb:
            for line in process.stdout:
                said.append(line)
                if marked is None and mark in line:
                    marked = Moment(time.perf_counter() - began, peak_mb())
            code = process.wait()
            end = Moment(time.perf_counter() - began, peak_mb())
    finally:
        # In a session of its own it would outlive us when we are stopped.
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdout.close()
    if code or marked is None:
        what = f"ended with exit code {code}" if code else f"never said {mark!r}"
        raise SeamlineError(
            f"python -m {' '.join(arguments)}: {what}; its last lines:\n{''.join(said)}"
        )
    return marked, end
