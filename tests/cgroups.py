"""Real cgroups: commands under a limit of memory or processors, as in a container.

Needs Linux, root and a hierarchy that may be written; tests skip where one is missing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

MOUNT = Path("/sys/fs/cgroup")

_HANDED_ON = "cgroup.subtree_control"
"""The controllers of a group's children: a file of version 2 alone."""

_SWAP = ("memory.memsw.limit_in_bytes", "memory.swap.max")
"""Not there where the kernel does not account for swap."""


@dataclasses.dataclass(frozen=True)
class Group:
    """A cgroup without processes at first."""

    folder: Path

    @property
    def prefix(self) -> list[str]:
        """Put before a command, this moves it into the group before it starts."""
        move = 'echo $$ > "$0" && exec "$@"'
        return ["sh", "-c", move, str(self.folder / "cgroup.procs")]

    def peak_memory(self) -> int:
        """The most bytes that the group has held so far, files it cached included."""
        for name in ("memory.max_usage_in_bytes", "memory.peak"):
            if (self.folder / name).exists():
                return int((self.folder / name).read_text())
        pytest.skip("the peak of a cgroup's memory needs Linux 5.19")


@contextlib.contextmanager
def memory_group(limit: int) -> Iterator[Group]:
    """A group of at most `limit` bytes of memory and no swap, until the block ends."""
    version_1 = {"memory.limit_in_bytes": limit, "memory.memsw.limit_in_bytes": limit}
    version_2 = {"memory.max": limit, "memory.swap.max": 0}
    with _group("memory", version_1, version_2) as group:
        yield group


@contextlib.contextmanager
def cpu_group(processors: float) -> Iterator[Group]:
    """A group with the time of so many processors, until the block ends."""
    quota = round(100_000 * processors)
    version_1 = {"cpu.cfs_period_us": 100_000, "cpu.cfs_quota_us": quota}
    version_2 = {"cpu.max": f"{quota} 100000"}
    with _group("cpu", version_1, version_2) as group:
        yield group


@contextlib.contextmanager
def _group(controller: str, version_1: dict, version_2: dict) -> Iterator[Group]:
    parent = _parent(controller)
    try:
        folder = Path(tempfile.mkdtemp(prefix="seamline-test-", dir=parent))
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    try:
        limits = version_2 if (parent / _HANDED_ON).exists() else version_1
        for name, value in limits.items():
            if name not in _SWAP or (folder / name).exists():
                (folder / name).write_text(str(value))
        yield Group(folder)
    finally:
        _remove(folder)


def _parent(controller: str) -> Path:
    """The group in which to make one: this process's own, whose limits hold on there.

    In version 2 a group with processes hands no limits on, so it is one above.
    """
    groups = Path("/proc/self/cgroup")
    text = groups.read_text() if groups.exists() else ""
    for names, path in re.findall(r"^\d+:(.*?):/(.*)$", text, re.MULTILINE):
        own = MOUNT / controller / path
        if controller in names.split(",") and own.exists():
            return own
        for folder in () if names else (MOUNT / path, *(MOUNT / path).parents):
            file = folder / _HANDED_ON
            if file.exists() and controller in file.read_text().split():
                return folder
    pytest.skip(f"no cgroup here hands on a limit of {controller}")


def _remove(folder: Path) -> None:
    """Ends what still runs in a group, and the group."""
    deadline = time.monotonic() + 30
    while True:
        for pid in (folder / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        try:
            folder.rmdir()
        except OSError:
            # The kernel holds the group for a moment after its last process.
            if time.monotonic() > deadline:
                raise
        else:
            return
