"""docs/kubernetes.md against the code: files, commands and messages are real."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.desk import IMAGE
from tests.kubectl import documents
from tests.manifest_checks import main_of
from trainer.jobs import troubles

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/kubernetes.md").read_text("utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
LINES = "\n".join(BLOCKS).replace("\\\n", " ").splitlines()
SUBMITS = [line for line in LINES if line.startswith("python -m trainer.launch submit")]


@pytest.mark.parametrize("line", SUBMITS)
def test_every_submit_of_the_text_works(line: str) -> None:
    filled = line.replace("$IMAGE", IMAGE).replace("$BUCKET", "photos")
    words = [sys.executable, *shlex.split(filled)[1:]]
    words.insert(words.index("submit") + 1, "--dry_run")
    done = subprocess.run(
        words,
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    job, *_ = yaml.safe_load_all(done.stdout)
    assert job["kind"] == "Job"


def test_the_text_has_two_conversions_a_training_and_several_workers() -> None:
    assert len(SUBMITS) == 4
    assert sum("convert-job.yaml" in line for line in SUBMITS) == 2
    assert sum("--workers" in line for line in SUBMITS) == 1


@pytest.mark.parametrize(
    ("job", "on_gpus"), [("train-job.yaml", True), ("convert-job.yaml", False)]
)
def test_a_pool_of_the_text_has_room_for_the_pods(job: str, on_gpus: bool) -> None:
    """GPU nodes are tainted; a node keeps a part of its CPUs for itself."""
    pools = [line for line in LINES if " node-pools create " in line]
    types = [line for line in pools if ("--accelerator=" in line) == on_gpus]
    cpus = [int(x) for x in re.findall(r"--machine-type=\S+-(\d+)", " ".join(types))]
    (found,) = documents(job)
    asked = main_of(found)["resources"]["requests"]["cpu"]
    assert max(cpus, default=0) > int(asked)


def test_the_launchers_other_commands_exist() -> None:
    launches = [x.split()[3] for x in LINES if x.startswith("python -m trainer.launch")]
    assert {*launches} == {"submit", "status", "logs", "wait", "delete"}


def test_every_file_of_the_text_exists() -> None:
    for name in re.findall(r"\b((?:k8s|docker|overlays)/[\w./-]+\w)", TEXT):
        place = ROOT / ("k8s" if name.startswith("overlays") else "") / name
        assert place.exists(), name
    for target in re.findall(r"\]\(([\w.-]+)\)", TEXT):
        assert (ROOT / "docs" / target).exists(), target


def test_status_knows_what_to_do_about_every_message_of_the_table() -> None:
    start = TEXT.index("What `launch status` prints")
    table = TEXT[start : TEXT.index("What the launcher itself prints")]
    messages = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    assert len(messages) >= 15
    for message in messages:
        assert troubles.advice(message), message


def test_every_setting_of_the_table_is_in_the_manifests() -> None:
    start = TEXT.index("## What each setting does")
    table = TEXT[start : TEXT.index("## Troubleshooting")]
    manifest = (ROOT / "k8s/train-multiworker.yaml").read_text("utf-8")
    names = re.findall(r"^\| [^`|]*`([\w-]+)(?::[^`]*)?`", table, re.MULTILINE)
    assert len(names) >= 10
    for name in names:
        assert name in manifest, name
    for line in re.findall(r"^\| `(\w+: \w+)` \|", table, re.MULTILINE):
        assert line in manifest, line
