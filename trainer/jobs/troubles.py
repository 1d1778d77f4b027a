"""What keeps a Job from going on, in clear words with what to do."""

from __future__ import annotations

import re
from typing import Any

_IMAGE = (
    "the image cannot be had: check its name and digest, and that the cluster's nodes "
    "may read the registry"
)
_MEMORY = (
    "used more memory than its limit: raise resources.limits.memory in the manifest, "
    "or give --input_memory_mb or a smaller --batch_size after --"
)
_ADVICE = {
    r"ImagePullBackOff|ErrImagePull|ErrImageNeverPull|InvalidImageName": _IMAGE,
    r"CreateContainer(Config)?Error|RunContainerError": (
        "the container cannot be started; see: kubectl describe pod {pod}"
    ),
    r"OOMKilled": _MEMORY,
    r"Evicted.*(ephemeral|EmptyDir)": (
        "used more disk than its limit: raise ephemeral-storage and the sizeLimit of "
        "the volume in the manifest"
    ),
    r"Unschedulable.*Insufficient nvidia\.com/gpu": (
        "no node has so many free GPUs: wait, give a smaller --gpus, or add nodes"
    ),
    r"Unschedulable.*persistentvolumeclaim": (
        "its volume is not there: kubectl get persistentvolumeclaims"
    ),
    r"Unschedulable.*(affinity|selector)": (
        "no node has the labels asked for: compare nodeSelector with kubectl get nodes "
        "--show-labels"
    ),
    r"Unschedulable.*untolerated taint": (
        "the free nodes are kept for others: compare tolerations with the taints in "
        "kubectl describe nodes"
    ),
    r"Unschedulable.*Insufficient (cpu|memory|ephemeral-storage)": (
        "no node has so much free: ask for less in the manifest, or add nodes"
    ),
    r"exceeded quota": (
        "the namespace's quota is used up; see: kubectl describe quota"
    ),
    r"serviceaccount .*not found": "kubectl apply -f k8s/service-account.yaml",
    r"violates PodSecurity|admission webhook": (
        "a rule of this cluster forbids it; mend the manifest or ask who runs it"
    ),
    r"DeadlineExceeded": (
        "ran longer than activeDeadlineSeconds; submit it again to go on from the last "
        "checkpoint"
    ),
    r"exit 42\b": "a retry cannot mend it: the last line of its log says what to do",
    r"exit 143\b": "told to stop; it saved before",
    r"exit 75\b": "another worker or a service was lost; it is started again",
    r"exit 137\b": (
        "killed from outside, most often for memory: see kubectl describe pod {pod}"
    ),
}


def advice(told: str, pod: str = "POD") -> str:
    """What to do about it; "" if that is not known."""
    for pattern, words in _ADVICE.items():
        if re.search(pattern, told, re.DOTALL):
            return words.format(pod=pod)
    return ""


def pod_troubles(pod: Any) -> list[str]:
    """What a pod waits for or ended with, one line each, without advice."""
    status = pod.status
    found = [_line(status)] if status.reason else []
    for state in _states(pod):
        if state.waiting and state.waiting.reason not in _NO_TROUBLE:
            found.append(_line(state.waiting))
        elif state.terminated and state.terminated.exit_code:
            ended = state.terminated
            reason = "" if ended.reason in (None, "Error") else f"{ended.reason}, "
            said = f": {ended.message}" if ended.message else ""
            found.append(f"{reason}exit {ended.exit_code}{said}")
    for condition in status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            found.append(_line(condition))
        elif condition.type == "DisruptionTarget" and condition.status == "True":
            found.append(f"disrupted: {_line(condition)}")
    return found


_NO_TROUBLE = ("PodInitializing", "ContainerCreating", None)


def _states(pod: Any) -> list[Any]:
    status = pod.status
    listed = [*(status.init_container_statuses or [])]
    listed += status.container_statuses or []
    return [container.state for container in listed if container.state]


def _line(cause: Any) -> str:
    parts = (getattr(cause, "reason", None), getattr(cause, "message", None))
    return ": ".join(" ".join(str(part).split()) for part in parts if part)


def job_end(job: Any) -> Any:
    """The condition that ended the Job, or None while it goes on."""
    true = [c for c in job.status.conditions or [] if c.status == "True"]
    return next((c for c in true if c.type in ("Complete", "Failed")), None)


def job_phase(job: Any) -> str:
    """One word: complete, failed, suspended, running or waiting."""
    if end := job_end(job):
        return end.type.lower()
    if job.spec.suspend:
        return "suspended"
    return "running" if job.status.active else "waiting"


def job_line(job: Any) -> str:
    """The phase and why."""
    end = job_end(job)
    reason = f": {_line(end)}" if end and _line(end) else ""
    queue = (job.metadata.labels or {}).get("kueue.x-k8s.io/queue-name")
    if not end and job.spec.suspend and queue:
        reason = f": waits in queue {queue}"
    return f"{job_phase(job)}{reason}"


def with_advice(told: str, pod: str = "POD") -> str:
    """A trouble, and what to do about it on the same line."""
    words = advice(told, pod)
    return f"{told} → {words}" if words else told
