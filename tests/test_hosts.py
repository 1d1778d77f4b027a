"""One conversion by several processes at once, as an Indexed Job runs it."""

import os
import subprocess
from pathlib import Path

from tests.conftest import run_command
from tests.forks import Command


def start(work: Path, drawn: Path, index: int) -> subprocess.Popen[str]:
    hosts = (f"--shard_index={index}", "--num_hosts=2")
    return Command(
        *("trainer.convert", f"--dataset={drawn}", "--records_dir=shared", *hosts),
        cwd=work,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_two_hosts_at_once_seal_what_one_host_seals(
    drawn: Path, tmp_path: Path
) -> None:
    alone = ("trainer.convert", f"--dataset={drawn}", "--records_dir=alone")
    done = run_command(*alone, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    running = [start(tmp_path, drawn, index) for index in range(2)]
    ended = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0], ended
    said = "".join(out for out, _ in ended)
    # Both may find that all shards are done; one seals then, the other says so.
    assert said.count("train + ") == 1
    for name in os.listdir(tmp_path / "alone"):
        ours = (tmp_path / "shared" / name).read_bytes()
        assert ours == (tmp_path / "alone" / name).read_bytes()
    assert sorted(os.listdir(tmp_path / "shared")) == sorted(
        os.listdir(tmp_path / "alone")
    )
