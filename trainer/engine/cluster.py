"""Which workers train together: read from the environment, and waited for.

Two ways to say it:

- `TF_CONFIG`, TensorFlow's own: `{"cluster": {"worker": ["host:port", …]}, "task":
  {"type": "worker", "index": 0}}`;
- the environment of a Kubernetes Indexed Job: `JOB_COMPLETION_INDEX`, which Kubernetes
  sets, and `SEAMLINE_WORKERS`, `SEAMLINE_JOB_NAME`, `SEAMLINE_SERVICE` (a headless
  Service) and `SEAMLINE_PORT`. Its pods are called `<job>-<index>.<service>`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import socket
import time
from collections.abc import Mapping
from typing import Any

from trainer.errors import SeamlineError, Unavailable

log = logging.getLogger("seamline")

START_TIMEOUT_S = 900.0
"""How long workers wait for each other: nodes may have to be started first."""

_DEFAULT_PORT = 2222
_POLL_S = 0.5


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The workers of a training.

    Attributes:
      addresses: `host:port` of each; the first one is the chief, which writes.
      index: which of them this process is.
      source: the variable that says so.
    """

    addresses: tuple[str, ...]
    index: int
    source: str


def read_cluster(environment: Mapping[str, str]) -> Cluster | None:
    """The cluster that the environment describes; None where it describes none.

    Raises:
      SeamlineError: it is wrong or incomplete; the variable is named.
    """
    if environment.get("TF_CONFIG"):
        return _from_tf_config(environment["TF_CONFIG"])
    if environment.get("SEAMLINE_WORKERS"):
        return _from_indexed_job(environment)
    return None


def _from_tf_config(text: str) -> Cluster | None:
    try:
        config = json.loads(text)
    except ValueError as error:
        raise SeamlineError(f"TF_CONFIG={text}: not JSON ({error})") from error
    if config == {}:
        return None
    cluster = config.get("cluster") if isinstance(config, dict) else None
    if not isinstance(cluster, dict) or not cluster:
        raise SeamlineError(
            f'TF_CONFIG={text}: has no cluster; such as {{"cluster": {{"worker": '
            '["host:port"]}, "task": {"type": "worker", "index": 0}}'
        )
    strange = sorted({*cluster} - {"chief", "worker"})
    if strange:
        raise SeamlineError(
            f"TF_CONFIG: its cluster has '{strange[0]}'; only chief and worker take "
            "part in a synchronous training"
        )
    jobs = {name: _addresses(name, cluster.get(name, [])) for name in cluster}
    task = config.get("task")
    kind, index = _task(task if isinstance(task, dict) else {}, text)
    if index not in range(len(jobs.get(kind, []))):
        raise SeamlineError(
            f"TF_CONFIG: task {kind} {index} is not in its cluster, which has "
            f"{len(jobs.get(kind, []))} of {kind}"
        )
    chiefs = jobs.get("chief", [])
    before = len(chiefs) if kind == "worker" else 0
    addresses = (*chiefs, *jobs.get("worker", []))
    return Cluster(addresses, before + index, "TF_CONFIG")


def _addresses(job: str, value: Any) -> list[str]:
    listed = value if isinstance(value, list) else [value]
    for address in listed:
        port = address.rpartition(":")[2] if isinstance(address, str) else ""
        if not port.isdecimal():
            raise SeamlineError(f"TF_CONFIG: {job} {address!r} is not host:port")
    return listed


def _task(task: dict[str, Any], text: str) -> tuple[str, int]:
    try:
        return str(task["type"]), int(task["index"])
    except (KeyError, TypeError, ValueError) as error:
        raise SeamlineError(
            f'TF_CONFIG={text}: its task needs a type and an index; such as "task": '
            '{"type": "worker", "index": 0}'
        ) from error


def _from_indexed_job(environment: Mapping[str, str]) -> Cluster | None:
    workers = _integer(environment, "SEAMLINE_WORKERS", least=1)
    if workers == 1:
        return None
    index = _integer(environment, "JOB_COMPLETION_INDEX", least=0)
    if index >= workers:
        raise SeamlineError(
            f"JOB_COMPLETION_INDEX={index}: SEAMLINE_WORKERS={workers} must equal the "
            "Job's completions and parallelism"
        )
    port = _DEFAULT_PORT
    if environment.get("SEAMLINE_PORT"):
        port = _integer(environment, "SEAMLINE_PORT", least=1)
    job, service = (
        _text(environment, name) for name in ("SEAMLINE_JOB_NAME", "SEAMLINE_SERVICE")
    )
    hosts = (f"{job}-{number}.{service}:{port}" for number in range(workers))
    return Cluster(tuple(hosts), index, "JOB_COMPLETION_INDEX")


def _text(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "")
    if not value:
        raise SeamlineError(
            f"{name}: not set, but SEAMLINE_WORKERS is; see k8s/train-multiworker.yaml"
        )
    return value


def _integer(environment: Mapping[str, str], name: str, *, least: int) -> int:
    value = _text(environment, name)
    if not value.isdecimal() or int(value) < least:
        raise SeamlineError(f"{name}={value}: must be a whole number from {least} up")
    return int(value)


def meet(cluster: Cluster, timeout_s: float) -> None:
    """Waits until all workers have been started.

    TensorFlow waits too, but for an hour, and deaf to signals. So every worker but the
    chief opens its port, the chief starts TensorFlow once it has reached all of them,
    and they once they have reached the chief.

    Raises:
      Unavailable: one has not been started in time.
      SeamlineError: this worker's port is taken.
    """
    end = time.monotonic() + timeout_s
    if cluster.index == 0:
        for number in range(1, len(cluster.addresses)):
            _reach(cluster, number, end, timeout_s)
        return
    port = int(cluster.addresses[cluster.index].rpartition(":")[2])
    try:
        door = socket.create_server(("", port), backlog=64)
    except OSError as error:
        raise SeamlineError(
            f"{cluster.source}: worker {cluster.index} cannot open port {port}: "
            f"{error.strerror}; choose another one"
        ) from error
    with door:
        _reach(cluster, 0, end, timeout_s)


def _reach(cluster: Cluster, number: int, end: float, timeout_s: float) -> None:
    host, _, port = cluster.addresses[number].rpartition(":")
    told = False
    while True:
        try:
            with socket.create_connection((host, int(port)), timeout=5):
                return
        except OSError as error:
            if time.monotonic() > end:
                raise Unavailable(
                    f"worker {number} ({host}:{port}) was not there within "
                    f"{timeout_s:.0f} s ({error}); the same command tries again"
                ) from error
            if not told:
                log.info("Waiting for worker %d (%s:%s)", number, host, port)
                told = True
        time.sleep(_POLL_S)
