"""The image's entrypoint as process 1 of a container: SIGTERM saves and ends it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from trainer.engine.pace import FIRST_STEP

ROOT = Path(__file__).parents[1]
SMALL = (
    *("--dataset=sample", "--encoder=mobilenetv2", "--encoder_weights=none"),
    *("--image_size=32", "--batch_size=4", "--steps_per_epoch=2"),
)
UNSHARE = ("unshare", "--pid", "--fork", "--kill-child")


def entrypoint() -> list[str]:
    text = (ROOT / "docker/Dockerfile").read_text("utf-8")
    found = re.search(r"^ENTRYPOINT (\[.*\])$", text, re.MULTILINE)
    assert found
    program, *rest = json.loads(found[1])
    assert program == "python"
    return [sys.executable, *rest]


def as_process_one(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """Starts the entrypoint in a process namespace of its own, where it is number 1."""
    trial = [*UNSHARE, "true"]
    if not shutil.which("unshare") or subprocess.run(trial, check=False).returncode:
        pytest.skip("needs the right to make process namespaces")
    return subprocess.Popen(
        [*UNSHARE, *entrypoint(), *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def child_of(process: subprocess.Popen[str]) -> int:
    path = f"/proc/{process.pid}/task/{process.pid}/children"
    (child,) = Path(path).read_text("utf-8").split()
    return int(child)


def test_sigterm_saves_a_checkpoint_within_the_grace_period(tmp_path: Path) -> None:
    job = yaml.safe_load((ROOT / "k8s/train-job.yaml").read_text("utf-8"))
    grace = job["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    run_dir = tmp_path / "run"
    arguments = ("trainer.task", *SMALL, "--epochs=100000", f"--run_dir={run_dir}")
    with as_process_one(*arguments, cwd=tmp_path) as process:
        assert process.stdout
        said = []
        for line in process.stdout:
            said.append(line)
            if FIRST_STEP in line:
                break
        os.kill(child_of(process), signal.SIGTERM)
        rest, _ = process.communicate(timeout=grace)
    assert process.returncode == 143, "".join(said) + rest
    assert [*(run_dir / "checkpoints").iterdir()]


def test_a_command_without_a_handler_of_its_own_ends_too(tmp_path: Path) -> None:
    (tmp_path / "waits.py").write_text(
        "import time\n"
        "from trainer import flags\n"
        "def main(argv):\n"
        "    print('here', flush=True)\n"
        # One long sleep would not end for a signal that comes just before it.
        "    while True: time.sleep(0.1)\n"
        "flags.run(main)\n",
        "utf-8",
    )
    with as_process_one("waits", cwd=tmp_path) as process:
        assert process.stdout
        assert process.stdout.readline() == "here\n"
        os.kill(child_of(process), signal.SIGTERM)
        rest, _ = process.communicate(timeout=30)
    assert process.returncode == 143
    assert rest == "stopped by SIGTERM; the same command starts again\n"
