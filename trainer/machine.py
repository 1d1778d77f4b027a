"""What this process may use: memory and processors, of its container if it has one.

A container is a cgroup, of Linux' version 1 or 2 or of both side by side. Groups nest,
and a process gets no more than the least that its own group and those above it allow.
"""

from __future__ import annotations

import operator
import os
import re
import resource
from collections.abc import Iterator
from pathlib import PurePosixPath

PROCESS = "/proc/self/cgroup"
"""Lines `number:controllers:path` with the groups of this process; see cgroups(7)."""

STATUS = "/proc/self/status"
"""Lines `name: value` of this process; see proc(5)."""

MOUNT = "/sys/fs/cgroup"
"""Where the groups of version 2 lie, and those of version 1 in a folder for each
controller. In a hybrid system version 2 lies in the folder `unified`."""

THIS_MACHINE = "this machine"
CONTAINER = "container limit (cgroup)"
ADDRESS_SPACE = "RLIMIT_AS"


def memory_limit() -> int:
    """Bytes this process may use: of the machine, or of its container if less."""
    return _memory()[0]


def memory_source() -> str:
    """What sets `memory_limit`: THIS_MACHINE, CONTAINER or ADDRESS_SPACE."""
    return _memory()[1]


def own_memory() -> int:
    """Bytes that this process holds and that no file could give back; 0: not known."""
    found = re.search(r"^RssAnon:\s+(\d+) kB$", _read(STATUS), re.MULTILINE)
    return int(found[1]) << 10 if found else 0


def cpu_limit() -> int:
    """Processors this process may use, at least 1; part of one counts as one.

    A pod limited to 4 processors on a node of 96 sees all 96 in `os.cpu_count()`.
    """
    return _processors()[0]


def cpu_source() -> str:
    """What sets `cpu_limit`: THIS_MACHINE, where no quota is less, or CONTAINER."""
    return _processors()[1]


def visible_cpus() -> int:
    """Processors this process may run on, whatever share of their time it gets."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> tuple[int, str]:
    """Bytes, and what sets them. No limit: "max" (version 2) or almost 2^63 (1)."""
    limits = [
        (os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), THIS_MACHINE),
    ]
    for folder in _groups("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(f"{folder}/{name}")
            if re.fullmatch("[0-9]{1,20}", text):
                limits.append((int(text), CONTAINER))
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if address_space != resource.RLIM_INFINITY:
        limits.append((address_space, ADDRESS_SPACE))
    return min(limits, key=operator.itemgetter(0))


def _processors() -> tuple[int, str]:
    """Processors, and what sets them. No quota: "max" (version 2) or -1 (1)."""
    limits = [(visible_cpus(), THIS_MACHINE)]
    for folder in _groups("cpu"):
        text = _read(f"{folder}/cpu.max") or " ".join(
            _read(f"{folder}/cpu.cfs_{name}_us") for name in ("quota", "period")
        )
        if re.fullmatch("[1-9][0-9]{0,19} [1-9][0-9]{0,19}", text):
            quota, period = map(int, text.split())
            limits.append((-(-quota // period), CONTAINER))
    return min(limits, key=operator.itemgetter(0))


def _groups(controller: str) -> Iterator[str]:
    """Folders of this process's groups and of all above them, existing or not.

    In a container the path may be the host's, of which nothing lies below the mount:
    the mount itself is the container's group then.
    """
    entries = re.findall(r"^\d+:([^:\n]*):(/[^\n\0]*)$", _read(PROCESS), re.MULTILINE)
    paths = {name: path for names, path in entries for name in names.split(",")}
    roots = {
        MOUNT: "",
        f"{MOUNT}/unified": "",
        f"{MOUNT}/{controller}": controller,
    }
    for root, name in roots.items():
        # A group outside the container's namespace has a path that begins with "/..".
        own = PurePosixPath(os.path.normpath(paths.get(name, "/")))
        for path in (own, *own.parents):
            yield f"{root}{path}".rstrip("/")


def _read(path: str) -> str:
    """The text of a file; none where there is none to read, so no limit either."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
