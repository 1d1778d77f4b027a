"""Following a Job: the logs of all its pods, and its end."""

from __future__ import annotations

import re
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from trainer.errors import EXIT_TRY_AGAIN, EXIT_USER_ERROR
from trainer.jobs import troubles
from trainer.jobs.cluster import Cluster, may_pass

_INDEX = "batch.kubernetes.io/job-completion-index"
_LOOK_EVERY_S = 2.0
_FOR_ANOTHER = {EXIT_TRY_AGAIN, 128 + signal.SIGTERM}
_MISTAKE = re.compile(rf"PodFailurePolicy .*exit code {EXIT_USER_ERROR}\b", re.DOTALL)


class LogPrinter:
    """Prints what the pods of a Job write, each line with its worker's number.

    Pods come and go: a new one is followed as soon as it is there, and a stream that
    breaks goes on at the line after the last one printed.
    """

    def __init__(self, found: Cluster, name: str, *, follow: bool) -> None:
        self._cluster, self._name, self._follow = found, name, follow
        if follow:
            found.be_patient()
        self._lock = threading.Lock()
        self._threads: dict[str, threading.Thread] = {}
        self._newest: dict[str, threading.Thread] = {}
        self._errors: list[Exception] = []

    def run(self) -> bool:
        """Returns when the Job has ended, or at once without `follow`.

        Returns:
          Whether there was a pod.
        """
        while True:
            # Read before the pods: what ends after this line is seen next time.
            ended = troubles.job_end(self._cluster.job(self._name)) is not None
            for pod in self._cluster.pods(self._name):
                self._start(pod)
            if ended or not self._follow:
                break
            if self._errors:
                raise self._errors[0]
            self._cluster.pause(_LOOK_EVERY_S)
        for thread in self._threads.values():
            thread.join()
        if self._errors:
            raise self._errors[0]
        return bool(self._threads)

    def _start(self, pod: Any) -> None:
        name = pod.metadata.name
        if name in self._threads or not _has_started(pod):
            return
        index = (pod.metadata.annotations or {}).get(_INDEX)
        prefix = f"[{index}] " if index is not None else ""
        arguments = (pod, prefix, self._newest.get(prefix))
        thread = threading.Thread(target=self._copy, args=arguments, daemon=True)
        self._threads[name] = self._newest[prefix] = thread
        thread.start()

    def _copy(self, pod: Any, prefix: str, before: threading.Thread | None) -> None:
        """Prints a pod's log, after that of the pod it replaces."""
        spec = pod.spec
        if before:
            before.join()
            self._print(prefix, f"--- goes on in pod {pod.metadata.name}")
        try:
            for container in [*(spec.init_containers or []), *spec.containers]:
                self._print_all(pod.metadata.name, container.name, prefix)
        except Exception as error:
            self._errors.append(error)

    def _print_all(self, pod: str, container: str, prefix: str) -> None:
        """Prints the log of one container to its end."""
        last = ""
        while True:
            printed = last
            over = not self._follow or self._is_over(pod, container)
            try:
                for line in self._lines(pod, container):
                    last, _, text = line.partition(" ")
                    if last > printed:
                        self._print(prefix, text)
            except Exception as error:
                # 400: it has not started, and never will if the one before it failed.
                status = getattr(error, "status", None)
                if status == 404:
                    return
                if status != 400 and not may_pass(error):
                    raise
            last = max(last, printed)
            if over:
                return
            self._cluster.pause(_LOOK_EVERY_S)

    def _lines(self, pod: str, container: str) -> Iterator[str]:
        """Lines with the moments they were written at, in one format."""
        options: dict[str, Any] = {"timestamps": True, "_preload_content": False}
        options |= {"container": container, "follow": self._follow}
        read = self._cluster.core.read_namespaced_pod_log
        rest = b""
        for piece in read(pod, self._cluster.namespace, **options).stream():
            *whole, rest = (rest + piece).split(b"\n")
            for line in whole:
                yield line.decode("utf-8", "replace")

    def _is_over(self, pod: str, container: str) -> bool:
        """Whether a container writes nothing more."""
        read = self._cluster.core.read_namespaced_pod
        try:
            status = self._cluster.read(read, pod, self._cluster.namespace).status
        except Exception as error:
            if getattr(error, "status", None) == 404:
                return True
            raise
        known = [*(status.init_container_statuses or [])]
        known += status.container_statuses or []
        ended = [c for c in known if c.name == container and c.state.terminated]
        return bool(ended) or status.phase in ("Succeeded", "Failed")

    def _print(self, prefix: str, text: str) -> None:
        with self._lock:
            sys.stdout.write(f"{prefix}{text}\n")
            sys.stdout.flush()


def _has_started(pod: Any) -> bool:
    checks = pod.status.init_container_statuses or []
    begun = [c for c in checks if c.state and (c.state.running or c.state.terminated)]
    return bool(begun) or pod.status.phase in ("Running", "Succeeded", "Failed")


def wait(found: Cluster, name: str) -> int:
    """Waits for the end of the Job and prints it; until then, what keeps pods waiting.

    Returns:
      0 complete; 42 ended by a mistake that a retry cannot mend; where retries were
      used up, the exit code of the last pod; 1 otherwise.
    """
    from kubernetes import watch

    found.be_patient()
    one = {"namespace": found.namespace, "field_selector": f"metadata.name={name}"}
    options = {**one, "timeout_seconds": 60, "_request_timeout": (10, 120)}
    told: set[str] = set()
    while True:
        _tell_what_is_new(found, found.job(name), told)
        # A watch starts with the Job as it is. It breaks now and then (a proxy, a new
        # control plane); the line above tells then whether cluster and Job are there.
        try:
            for event in watch.Watch().stream(
                found.batch.list_namespaced_job, **options
            ):
                if event["type"] == "DELETED":
                    print(f"{name}: deleted before its end")
                    return 1
                if troubles.job_end(event["object"]):
                    return _report_end(found, name, event["object"])
        except Exception as error:
            if not may_pass(error):
                raise
        found.pause(1)


def _tell_what_is_new(found: Cluster, job: Any, told: set[str]) -> None:
    """Prints what keeps pods from starting, or from being made, each once."""
    pods = found.pods(job.metadata.name)
    lines = [
        f"{pod.metadata.name}: {troubles.with_advice(trouble)}"
        for pod in pods
        if pod.status.phase == "Pending"
        for trouble in troubles.pod_troubles(pod)
    ]
    if not pods and not troubles.job_end(job):
        for event in found.warnings(job)[-1:]:
            # Every try is for a pod of another name.
            said = re.sub(r'pods "[^"]*"', "pods", " ".join(str(event.message).split()))
            lines.append(f"{job.metadata.name}: {troubles.with_advice(said)}")
    for line in lines:
        if line not in told:
            told.add(line)
            print(line, flush=True)


def _report_end(found: Cluster, name: str, job: Any) -> int:
    print(f"{name}: {troubles.with_advice(troubles.job_line(job))}")
    end = troubles.job_end(job)
    if end.type == "Complete":
        return 0
    pods = [pod for pod in found.pods(name) if pod.status.phase == "Failed"]
    # Where one worker fails, the others are stopped or miss it, and may end later.
    causes = [pod for pod in pods if not _ended_for_another(pod)]
    last = (causes or pods)[-1:]
    for pod in last:
        for trouble in troubles.pod_troubles(pod):
            told = troubles.with_advice(trouble, pod.metadata.name)
            print(f"  {pod.metadata.name}: {told}")
    if _MISTAKE.match(f"{end.reason} {end.message}"):
        return EXIT_USER_ERROR
    if end.reason == "BackoffLimitExceeded":
        codes = [code for pod in last for code in _exit_codes(pod)]
        return codes[-1] if codes else 1
    return 1


def _ended_for_another(pod: Any) -> bool:
    """Whether it was stopped or missed another; one that is evicted has no codes."""
    codes = {*_exit_codes(pod)}
    return bool(codes) and codes <= _FOR_ANOTHER


def _exit_codes(pod: Any) -> list[int]:
    # Preflight first: where it fails, the training never starts.
    listed = [*(pod.status.init_container_statuses or [])]
    listed += pod.status.container_statuses or []
    ends = [c.state.terminated for c in listed if c.state and c.state.terminated]
    return [end.exit_code for end in ends if end.exit_code]
