"""A person at a laptop whose cluster is the Kubernetes API on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.kubectl import documents, newest
from tests.kubernetes_api import Server

ROOT = Path(__file__).parents[1]
IMAGE = f"registry.example/seamline@sha256:{'1a' * 32}"
BUCKET = "--data=gs://photos"
JOBS = "/apis/batch/v1/namespaces/default/jobs"
PODS = "/api/v1/namespaces/default/pods"
EVENTS = "/api/v1/namespaces/default/events"


class Desk:
    """Runs commands with the loopback cluster as context, and plays the cluster."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.environment = {
            **os.environ,
            "KUBECONFIG": str(server.kubeconfig(folder)),
            "KUBECACHEDIR": str(folder / "cache"),
        }

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def launch(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "trainer.launch", *arguments)

    def submit(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        given = [f"--image={IMAGE}", "--name=first", BUCKET, *arguments]
        return self.launch("submit", *given)

    def kubectl(self, *arguments: str, program: str = "") -> str:
        result = self.run(program or newest(), *arguments)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def create(self, **annotations: str) -> dict[str, Any]:
        """The Job `first`, as `submit` makes it."""
        (job,) = documents("train-job.yaml")
        job["metadata"]["name"] = "first"
        told = {f"seamline/{k.replace('_', '-')}": v for k, v in annotations.items()}
        job["metadata"]["annotations"] |= told
        return self.server.call("POST", JOBS, job)

    def end(self, condition: str, reason: str = "", message: str = "") -> None:
        """Plays the Job controller: the Job `first` has ended."""
        ended = {"type": condition, "status": "True", "reason": reason}
        self.patch_status({"conditions": [{**ended, "message": message}]})

    def patch_status(self, status: dict[str, Any]) -> None:
        self.server.call("PATCH", f"{JOBS}/first/status", {"status": status})

    def add_pod(
        self, name: str, second: int, status: dict[str, Any], index: int | None = None
    ) -> None:
        """Plays the Job controller: a pod of the Job `first`."""
        metadata: dict[str, Any] = {
            "name": name,
            "labels": {"batch.kubernetes.io/job-name": "first"},
            "creationTimestamp": f"2030-01-01T00:00:{second:02d}Z",
        }
        if index is not None:
            key = "batch.kubernetes.io/job-completion-index"
            metadata["annotations"] = {key: str(index)}
        spec = {
            "initContainers": [{"name": "preflight", "image": IMAGE}],
            "containers": [{"name": "trainer", "image": IMAGE}],
        }
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        self.server.call("POST", PODS, {**pod, "status": status})

    def pod_status(self, name: str, status: dict[str, Any]) -> None:
        self.server.call("PATCH", f"{PODS}/{name}/status", {"status": status})

    def stored(self) -> dict[str, Any]:
        return self.server.call("GET", f"{JOBS}/first")

    def calls(self, method: str, dry: bool = False) -> list[str]:
        """Paths of the requests, without the server's dry runs."""
        seen = self.server.api.requests_seen
        return [p for m, p, _ in seen if m == method and (dry or "dryRun" not in p)]


def container_state(name: str = "trainer", **state: Any) -> dict[str, Any]:
    """A container's part of a pod's status."""
    common = {"image": IMAGE, "imageID": "", "restartCount": 0, "ready": False}
    return {"name": name, **common, "state": state}
