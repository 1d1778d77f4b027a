"""What this process may use: memory and processors, of its container if it has one."""

from __future__ import annotations

import os

_MEMORY_FILES = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)
_CPU_FILE = "/sys/fs/cgroup/cpu.max"


def memory_limit() -> int:
    """Bytes this process may use: of the machine, or of its container if less."""
    limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _MEMORY_FILES:
        text = _read(path)
        limit = min(limit, int(text)) if text.isdigit() else limit
    return limit


def cpu_limit() -> int:
    """Processors this process may use, at least 1.

    A pod limited to 4 processors on a node of 96 sees all 96 in `os.cpu_count()`.
    """
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    quota, _, period = _read(_CPU_FILE).partition(" ")
    if quota.isdigit() and period.isdigit():
        count = min(count, -(-int(quota) // int(period)))
    return max(count, 1)


def _read(path: str) -> str:
    if not os.path.exists(path):
        return ""
    with open(path, encoding="utf-8") as file:
        return file.read().strip()
