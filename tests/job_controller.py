"""The Job controller for the Kubernetes API on loopback; pods really run.

It does what Kubernetes documents for `batch/v1` Jobs: completion indexes,
podFailurePolicy, backoffLimit, a new pod only once the old one has ended. Two things
are left out: the pause before a new pod, ten seconds and more in a cluster, and
deadlines.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import queue
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.cluster import free_ports
from tests.desk import JOBS, PODS, Desk
from tests.pods import INDEX, Object, Pod, service_names

_PATIENCE_S = 400
"""A busy machine takes minutes to compile a training."""
_JOB = "batch.kubernetes.io/job-name"


def decide(policy: Object, status: Object, codes: Mapping[str, int]) -> tuple[str, str]:
    """What a podFailurePolicy makes of a pod that has failed: the first rule that fits.

    Args:
      policy: of the Job.
      status: of the pod.
      codes: exit codes by container.

    Returns:
      FailJob, Ignore or Count, and which container and rule decided.
    """
    true = {(x["type"], x["status"]) for x in status["conditions"]}
    for index, rule in enumerate(policy.get("rules", [])):
        if {(x["type"], x["status"]) for x in rule.get("onPodConditions", [])} & true:
            return rule["action"], f"at index {index}"
        wanted = rule.get("onExitCodes")
        for name, code in codes.items() if wanted else ():
            fits = (code in wanted["values"]) == (wanted["operator"] == "In")
            if code and fits and wanted.get("containerName", name) == name:
                told = f"Container {name} failed with exit code {code} matching "
                return rule["action"], f"{told}{rule['action']} rule at index {index}"
    return "Count", ""


@dataclasses.dataclass(frozen=True)
class Ended:
    """A pod that has ended: its index, exit code and what was made of it."""

    index: int | None
    code: int
    action: str


class JobController:
    """Runs the pods of one Job until it is complete or has failed.

    Args:
      desk: with the API.
      name: of the Job.
      folder: for volumes of the pods.
      outside: variables with which the pods reach the world.
    """

    def __init__(
        self,
        desk: Desk,
        name: str,
        folder: Path,
        outside: Mapping[str, str],
    ) -> None:
        self._desk, self._name, self._folder = desk, name, folder
        self.job = desk.server.call("GET", f"{JOBS}/{name}")
        self._spec = self.job["spec"]
        self._template = self._spec["template"]
        self._template["metadata"].setdefault("labels", {})[_JOB] = name
        self._outside = {**outside, "POD_ADDRESSES": json.dumps(self._addresses())}
        self._outside["KUBECONFIG"] = desk.environment["KUBECONFIG"]
        self._numbers = itertools.count()
        self._events: queue.Queue[Pod] = queue.Queue()
        self._running: dict[int | None, Pod] = {}
        self._done: list[int | None] = []
        self.failed = 0
        self.history: list[Ended] = []

    def _addresses(self) -> dict[str, str]:
        """Names and ports of the pods in the cluster -> on this machine."""
        names = [f"{self._name}-{k}" for k in range(self._spec.get("completions", 1))]
        found = service_names(self._desk.server, self._template, names)
        ports = free_ports(len(found))
        return {x: f"localhost:{port}" for x, port in zip(found, ports, strict=True)}

    def run(self) -> None:
        """Starts all pods, replaces those that fail, and ends the Job."""
        pods = self._spec.get("completions", 1)
        assert self._spec.get("parallelism", 1) == pods
        indexed = self._spec.get("completionMode") == "Indexed"
        for index in range(pods) if indexed else [None]:
            self._start(index)
        end = None
        try:
            while end is None:
                end = self._settle(self._events.get(timeout=_PATIENCE_S))
        finally:
            for pod in self._running.values():
                pod.terminate()
            for pod in self._running.values():
                pod.thread.join(_PATIENCE_S)
        self._running.clear()
        self._report([{"status": "True", **end}])

    def pod(self, index: int) -> Pod:
        """The one that runs now."""
        return self._running[index]

    def _start(self, index: int | None) -> None:
        number = f"{next(self._numbers):05d}"
        host = f"{self._name}{'' if index is None else f'-{index}'}"
        labels = {**self._template["metadata"]["labels"]}
        metadata: Object = {"name": f"{host}-{number}", "labels": labels}
        spec = json.loads(json.dumps(self._template["spec"]))
        if index is not None:
            labels[INDEX] = str(index)
            metadata["annotations"] = {INDEX: str(index)}
            spec["hostname"] = host
            path = f"metadata.annotations['{INDEX}']"
            own = {"name": "JOB_COMPLETION_INDEX"}
            own["valueFrom"] = {"fieldRef": {"fieldPath": path}}
            for container in [*spec.get("initContainers", []), *spec["containers"]]:
                container["env"].append(own)
        manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}
        created = self._desk.server.call("POST", PODS, {**manifest, "spec": spec})
        where = (self._folder, self._outside)
        pod = Pod(self._desk.server, created, *where, ended=self._events.put)
        self._running[index] = pod
        pod.thread.start()
        self._report([])

    def _settle(self, pod: Pod) -> Object | None:
        """Takes note of a pod that has ended; the Job's last condition if it was it."""
        [index] = [k for k, other in self._running.items() if other is pod]
        del self._running[index]
        if pod.status["phase"] == "Succeeded":
            self._done.append(index)
            self.history.append(Ended(index, 0, "Done"))
            return None if self._running else {"type": "Complete"}
        policy = self._spec.get("podFailurePolicy", {})
        action, reason = decide(policy, pod.status, pod.codes)
        self.history.append(Ended(index, pod.code, action))
        if action == "FailJob":
            said = reason.replace("failed", f"for pod default/{pod.name} failed", 1)
            return {"type": "Failed", "reason": "PodFailurePolicy", "message": said}
        self.failed += action == "Count"
        if self.failed > self._spec["backoffLimit"]:
            said = "Job has reached the specified backoff limit"
            return {"type": "Failed", "reason": "BackoffLimitExceeded", "message": said}
        self._start(index)
        return None

    def _report(self, conditions: list[Any]) -> None:
        counts = {"succeeded": len(self._done), "failed": self.failed}
        counts["active"] = len(self._running)
        status = {**counts, "conditions": conditions}
        self._desk.server.call(
            "PATCH", f"{JOBS}/{self._name}/status", {"status": status}
        )


@contextlib.contextmanager
def running(controller: JobController) -> Iterator[JobController]:
    """Meanwhile the Job runs; leaves when it has ended."""
    problems: list[BaseException] = []

    def run() -> None:
        try:
            controller.run()
        except BaseException as error:
            problems.append(error)
            raise

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield controller
    thread.join()
    assert not problems, problems
