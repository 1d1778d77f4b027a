"""What a process may use, in fake trees of cgroups and in a real one."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests import cgroups
from tests.conftest import ROOT
from trainer import machine

GB = 1 << 30
UNLIMITED = "9223372036854771712"
"""What version 1 says where there is no limit."""


@pytest.fixture(autouse=True)
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty tree of cgroups, and a machine of 96 processors and much memory."""
    monkeypatch.setattr(machine, "PROCESS", str(tmp_path / "process"))
    monkeypatch.setattr(machine, "MOUNT", str(tmp_path / "mount"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(96)))
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 100 * GB // 4096}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    return tmp_path / "mount"


def build(mount: Path, process: str, files: dict[str, str]) -> None:
    """Writes what /proc/self/cgroup says and files below the mount."""
    (mount.parent / "process").write_text(process)
    for name, text in files.items():
        path = mount / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def test_without_cgroups_all_of_the_machine_may_be_used() -> None:
    assert (machine.memory_limit(), machine.memory_source()) == (
        100 * GB,
        "this machine",
    )
    assert (machine.cpu_limit(), machine.cpu_source()) == (96, "this machine")


def test_version_2_limits_are_those_of_the_own_group(mount: Path) -> None:
    files = {
        "cgroup.controllers": "cpu memory",
        "pods/one/memory.max": str(8 * GB),
        "pods/one/cpu.max": "400000 100000",
        "pods/other/memory.max": str(GB),
        "pods/other/cpu.max": "100000 100000",
    }
    build(mount, "0::/pods/one\n", files)
    assert machine.memory_limit() == 8 * GB
    assert machine.cpu_limit() == 4
    assert machine.memory_source() == "container limit (cgroup)"
    assert machine.cpu_source() == "container limit (cgroup)"


def test_version_1_limits_are_those_of_the_own_group_of_each_controller(
    mount: Path,
) -> None:
    process = "9:name=systemd:/x\n4:memory:/docker/a\n2:cpu,cpuacct:/docker/b\n0::/\n"
    files = {
        "memory/memory.limit_in_bytes": UNLIMITED,
        "memory/docker/memory.limit_in_bytes": UNLIMITED,
        "memory/docker/a/memory.limit_in_bytes": str(3 * GB),
        "memory/docker/b/memory.limit_in_bytes": str(GB),
        "cpu/cpu.cfs_quota_us": "-1",
        "cpu/cpu.cfs_period_us": "100000",
        "cpu/docker/b/cpu.cfs_quota_us": "200000",
        "cpu/docker/b/cpu.cfs_period_us": "50000",
        "cpu/docker/a/cpu.cfs_quota_us": "50000",
        "cpu/docker/a/cpu.cfs_period_us": "50000",
    }
    build(mount, process, files)
    assert machine.memory_limit() == 3 * GB
    assert machine.cpu_limit() == 4


@pytest.mark.parametrize("least", ["", "/pods", "/pods/burst", "/pods/burst/one"])
@pytest.mark.parametrize(
    ("controllers", "folder", "name"),
    [("0:", ".", "memory.max"), ("3:memory", "memory", "memory.limit_in_bytes")],
)
def test_the_least_limit_on_the_way_up_holds(
    least: str, controllers: str, folder: str, name: str, mount: Path
) -> None:
    files = {}
    for level in ("", "/pods", "/pods/burst", "/pods/burst/one"):
        files[f"{folder}{level}/{name}"] = str((2 if level == least else 5) * GB)
    build(mount, f"{controllers}:/pods/burst/one\n", files)
    assert machine.memory_limit() == 2 * GB


def test_in_a_hybrid_system_each_controller_counts_where_it_lies(mount: Path) -> None:
    files = {
        "unified/user/memory.max": str(6 * GB),
        "cpu/user/cpu.cfs_quota_us": "300000",
        "cpu/user/cpu.cfs_period_us": "100000",
    }
    build(mount, "2:cpu:/user\n0::/user\n", files)
    assert machine.memory_limit() == 6 * GB
    assert machine.cpu_limit() == 3


@pytest.mark.parametrize(
    "path", ["/", "/kubepods/pod1/abc", "/../../abc", "/a (deleted)"]
)
def test_in_a_namespace_the_root_of_the_mount_is_the_own_group(
    path: str, mount: Path
) -> None:
    build(
        mount,
        f"4:memory:{path}\n0::{path}\n",
        {"memory/memory.limit_in_bytes": str(7 * GB), "cpu.max": "200000 100000"},
    )
    (mount.parent / "memory.max").write_text(str(GB))
    assert machine.memory_limit() == 7 * GB
    assert machine.cpu_limit() == 2


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("400000 100000", 4),
        ("150000 100000", 2),
        ("1000 100000", 1),
        ("max 100000", 96),
        ("99900000 100000", 96),
    ],
)
def test_part_of_a_processor_counts_as_one(text: str, count: int, mount: Path) -> None:
    build(mount, "0::/\n", {"cpu.max": text})
    assert machine.cpu_limit() == count


@pytest.mark.parametrize(
    "text", ["max", "-1", UNLIMITED, "", "4G", "²", "9" * 5000, "\x00", "1 2 3", "0 0"]
)
def test_what_is_no_number_is_no_limit(text: str, mount: Path) -> None:
    names = ("memory.max", "memory/memory.limit_in_bytes", "cpu.max")
    periods = {"cpu/cpu.cfs_period_us": "0", "cpu/cpu.cfs_quota_us": text}
    build(mount, "0::/\n", dict.fromkeys(names, text) | periods)
    assert machine.memory_limit() == 100 * GB
    assert machine.cpu_limit() == 96
    assert machine.memory_source() == machine.cpu_source() == "this machine"


@pytest.mark.parametrize("process", [b"", b"\xff\xfe\x00", b"0\n::\n0:/\n0::\0/a\n"])
def test_a_process_whose_groups_are_unknown_has_the_limits_of_the_mount(
    process: bytes, mount: Path
) -> None:
    build(mount, "", {"memory.max": str(5 * GB)})
    (mount.parent / "process").write_bytes(process)
    assert machine.memory_limit() == 5 * GB


def test_limits_that_cannot_be_read_are_none(mount: Path) -> None:
    (mount / "memory.max").mkdir(parents=True)
    (mount / "cpu.max").mkdir()
    (mount.parent / "process").mkdir()
    assert machine.memory_limit() == 100 * GB
    assert machine.cpu_limit() == 96


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(2, (2, "RLIMIT_AS")), (6, (5, "container limit (cgroup)"))],
)
def test_a_limit_of_the_address_space_counts_where_it_is_the_least(
    limit: int,
    expected: tuple[int, str],
    mount: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    build(mount, "0::/\n", {"memory.max": str(5 * GB)})
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit * GB, 9 * GB))
    assert (machine.memory_limit() // GB, machine.memory_source()) == expected


SAY = """
from trainer import machine
print(machine.memory_limit(), machine.memory_source())
print(machine.cpu_limit(), machine.cpu_source())
"""


def said(prefix: list[str], code: str) -> list[str]:
    """Lines that Python code prints behind a prefix."""
    done = subprocess.run(
        [*prefix, sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_a_real_cgroup_limits_the_memory_of_those_in_it() -> None:
    with cgroups.memory_group(3 * GB) as group:
        assert said(group.prefix, SAY)[0] == f"{3 * GB} container limit (cgroup)"
        assert 0 < group.peak_memory() < GB
    assert not group.folder.exists()


def test_a_real_cgroup_limits_the_processors_of_those_in_it() -> None:
    with cgroups.cpu_group(0.5) as group:
        code = f"import os; os.sched_getaffinity = lambda pid: range(96)\n{SAY}"
        assert said(group.prefix, code)[1] == "1 container limit (cgroup)"
    assert not group.folder.exists()


def test_a_group_ends_with_the_processes_left_in_it() -> None:
    with cgroups.memory_group(GB) as group:
        left = subprocess.Popen(
            [*group.prefix, "sh", "-c", "echo; read x"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert left.stdout is not None
        left.stdout.readline()
    assert left.wait() < 0
    assert not group.folder.exists()


THREADS = """
import logging, os, sys
import tensorflow as tf
from trainer import machine
from trainer.engine.strategy import build_strategy
logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
os.sched_getaffinity = lambda pid: range(96)
machine.MOUNT, started = sys.argv[1:]
if started:
    tf.zeros(1)
build_strategy("one_device")
tf.zeros(1)
print(tf.config.threading.get_intra_op_parallelism_threads())
print(tf.config.threading.get_inter_op_parallelism_threads())
"""


@pytest.mark.parametrize(
    ("quota", "started", "threads", "line"),
    [
        ("400000", "", ["4", "4"], "Threads: .* gets 4, though 96 .*: container.*"),
        ("max", "", ["0", "0"], "Devices: .*"),
        (
            "400000",
            "yes",
            ["0", "0"],
            "Threads: .* keeps .* 96 .* may use 4: container.*",
        ),
    ],
)
def test_tensorflow_has_no_more_threads_than_the_container_processors(
    quota: str, started: str, threads: list[str], line: str, mount: Path
) -> None:
    build(mount, "", {"cpu.max": f"{quota} 100000"})
    done = subprocess.run(
        [sys.executable, "-c", THREADS, str(mount), started],
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    first, *_, intra, inter = done.stdout.splitlines()
    assert re.fullmatch(line, first)
    assert [intra, inter] == threads


def test_own_memory_grows_with_what_is_held() -> None:
    before = machine.own_memory()
    held = bytearray(os.urandom(1 << 20) * 64)
    assert machine.own_memory() - before > 60 << 20
    del held
