"""A pod whose containers really run, as processes on this machine.

Command, arguments and environment are those of its spec. What a node has and this
machine has not is mapped:

- `python` is this interpreter, forked after its imports, and `trainer` this checkout,
  since there is no image;
- an emptyDir is a folder, whose path stands in for the mount path in command,
  arguments, environment and working directory; /dev/shm is this machine's;
- names of a headless Service, with their port, become ports of localhost, one for each
  pod, since no DNS knows them and all pods share one network (tests/dns does that);
- the ServiceAccount's token comes as KUBECONFIG, since what a cluster mounts works only
  at one path and over TLS.

Images, limits, users and capabilities are not looked at.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.desk import IMAGE, PODS, ROOT
from tests.forks import Command
from tests.kubernetes_api import Server

_REFERENCE = re.compile(r"\$\$|\$\(([\w.-]+)\)")
_MAP_FIELD = re.compile(r"metadata\.(labels|annotations)\['(.+)'\]")

INDEX = "batch.kubernetes.io/job-completion-index"

Object = dict[str, Any]


def expand(text: str, values: Mapping[str, str]) -> str:
    """`$(NAME)` as Kubernetes expands it: `$$` is a `$`, what is unknown stays."""

    def replace(match: re.Match[str]) -> str:
        return "$" if match[1] is None else values.get(match[1], match[0])

    return _REFERENCE.sub(replace, text)


def field(pod: Object, path: str) -> str:
    """What a `fieldRef` to the metadata stands for."""
    if found := _MAP_FIELD.fullmatch(path):
        return pod["metadata"][found[1]][found[2]]
    head, _, name = path.partition(".")
    assert head == "metadata", path
    return pod["metadata"][name]


def environment_of(container: Object, pod: Object) -> dict[str, str]:
    """The variables that a container's spec names."""
    values: dict[str, str] = {}
    for entry in container.get("env", []):
        if "valueFrom" in entry:
            text = field(pod, entry["valueFrom"]["fieldRef"]["fieldPath"])
        else:
            text = expand(entry["value"], values)
        values[entry["name"]] = text
    return values


class Pod:
    """A pod of the API on loopback; `start` runs its containers one after the other.

    Args:
      server: the API, which gets status and logs.
      manifest: as the API keeps it.
      folder: for its volumes.
      outside: variables with which its processes reach the world, such as a bucket.
      ended: called with the pod once nothing of it runs.
    """

    def __init__(
        self,
        server: Server,
        manifest: Object,
        folder: Path,
        outside: Mapping[str, str],
        ended: Callable[[Pod], None],
    ) -> None:
        self._server, self._manifest, self._outside = server, manifest, outside
        self._ended = ended
        self.name = manifest["metadata"]["name"]
        self.status: Object = {"phase": "Pending", "conditions": []}
        self.code = 1
        self.codes: dict[str, int] = {}
        self._process: subprocess.Popen[str] | None = None
        self._told_to_end = False
        self._folders = self._make_volumes(folder / self.name)
        self._lock = threading.Lock()
        self.thread = threading.Thread(target=self._live, daemon=True)

    def _make_volumes(self, folder: Path) -> dict[str, str]:
        """Mount paths -> folders."""
        spec = self._manifest["spec"]
        empty = {v["name"] for v in spec["volumes"] if "emptyDir" in v}
        found = {}
        for mount in spec["containers"][0]["volumeMounts"]:
            if mount["name"] in empty and mount["mountPath"] != "/dev/shm":
                place = folder / mount["name"]
                place.mkdir(parents=True)
                found[mount["mountPath"]] = str(place)
        return found

    def evict(self) -> None:
        """As a drained node does."""
        disrupted = {"type": "DisruptionTarget", "status": "True"}
        self._report(conditions=[{**disrupted, "reason": "EvictionByEvictionAPI"}])
        self.terminate()

    def terminate(self) -> None:
        """SIGTERM to process 1, and SIGKILL after the grace period."""
        grace = self._manifest["spec"]["terminationGracePeriodSeconds"]
        with self._lock:
            self._told_to_end = True
            if self._process and self._process.poll() is None:
                self._process.send_signal(signal.SIGTERM)
                killer = threading.Timer(grace, self.kill)
                killer.daemon = True
                killer.start()

    def kill(self) -> None:
        """SIGKILL to all processes, as when memory runs out."""
        process = self._process
        if process and process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)

    def _live(self) -> None:
        spec = self._manifest["spec"]
        checks = spec.get("initContainers", [])
        kinds = ["initContainerStatuses"] * len(checks) + ["containerStatuses"]
        both = zip([*checks, *spec["containers"]], kinds, strict=True)
        try:
            for container, kind in both:
                self.code = self._run(container, kind)
                if self.code:
                    break
            self._report(phase="Failed" if self.code else "Succeeded")
        finally:
            self._ended(self)

    def _run(self, container: Object, kind: str) -> int:
        """Runs one container to its end; its exit code."""
        name = container["name"]
        with self._lock:
            if self._told_to_end:
                return 143
            self._process = process = self._start(container)
        phase = "Running" if kind == "containerStatuses" else "Pending"
        self._tell(kind, name, {"running": {}}, phase)
        logs = self._server.api.logs
        key = self.name if kind == "containerStatuses" else f"{self.name}/{name}"
        assert process.stdout
        for line in process.stdout:
            logs[key] = logs.get(key, "") + line
        code = process.wait()
        self.codes[name] = code = code if code >= 0 else 128 - code
        reason = "Error" if code else "Completed"
        self._tell(kind, name, {"terminated": {"exitCode": code, "reason": reason}})
        return code

    def _start(self, container: Object) -> subprocess.Popen[str]:
        named = environment_of(container, self._manifest)
        words = [*container["command"], *container.get("args", [])]
        program, m, *rest = [self._placed(expand(word, named)) for word in words]
        assert (program, m) == ("python", "-m")
        token = self._manifest["spec"]["automountServiceAccountToken"]
        config = self._outside["KUBECONFIG"] if token else "/no/token"
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{ROOT}/tests/dns:{ROOT}",
            "CUDA_VISIBLE_DEVICES": "",
            **self._outside,
            "KUBECONFIG": config,
            **{name: self._placed(value) for name, value in named.items()},
        }
        return Command(
            *rest,
            cwd=Path(self._placed(container["workingDir"])),
            env=environment,
            unbuffered=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _placed(self, text: str) -> str:
        for path, folder in self._folders.items():
            text = re.sub(rf"(^|=){re.escape(path)}(?=/|$)", rf"\g<1>{folder}", text)
        return text

    def _tell(self, kind: str, name: str, state: Object, phase: str = "") -> None:
        common = {"image": IMAGE, "imageID": "", "restartCount": 0, "ready": False}
        others = [x for x in self.status.get(kind, []) if x["name"] != name]
        told = {kind: [*others, {"name": name, **common, "state": state}]}
        self._report(**told, **({"phase": phase} if phase else {}))

    def _report(self, **changes: Any) -> None:
        self.status.update(changes)
        path = f"{PODS}/{self.name}/status"
        self._server.call("PATCH", path, {"status": self.status})


def service_names(server: Server, template: Object, names: list[str]) -> list[str]:
    """`<pod>.<service>:<port>` of the headless Services that pods of a Job are in.

    Args:
      template: of the pods, with all their labels.
      names: their host names.
    """
    path = PODS.replace("pods", "services")
    labels, domain = template["metadata"]["labels"], template["spec"].get("subdomain")
    found = []
    for service in server.call("GET", path)["items"]:
        spec = service["spec"]
        headless = spec.get("clusterIP") == "None" and spec["publishNotReadyAddresses"]
        chosen = spec["selector"].items() <= labels.items()
        if headless and chosen and service["metadata"]["name"] == domain:
            ports = [port["port"] for port in spec["ports"]]
            found += [f"{name}.{domain}:{port}" for name in names for port in ports]
    return found
