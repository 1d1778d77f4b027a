"""The table of `launch status`: progress from the Jobs' annotations, and troubles."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from trainer.jobs import troubles
from trainer.jobs.cluster import Cluster
from trainer.jobs.manifest import PREFIX
from trainer.progress import duration

_COLUMNS = {
    "PHASE": "phase",
    "STEP": "step",
    "EPOCH": "epoch",
    "ETA": "eta",
    "MEAN IOU": "mean-iou",
}


def table(jobs: Sequence[Any], restarts: Sequence[int], now: Any) -> list[str]:
    """Lines: a head and a row for each Job; "-" stands for what is not known."""
    rows = [["NAME", *_COLUMNS, "RESTARTS", "UPDATED"]]
    for job, count in zip(jobs, restarts, strict=True):
        head = job.metadata.annotations or {}
        told = {title: head.get(f"{PREFIX}{key}") for title, key in _COLUMNS.items()}
        phase = troubles.job_phase(job)
        if phase != "running" or not told["PHASE"]:
            told["PHASE"] = phase
        if phase != "running":
            told["ETA"] = None
        values = [told[title] or "-" for title in _COLUMNS]
        updated = _age(head.get(f"{PREFIX}updated"), now)
        rows.append([job.metadata.name, *values, str(count), updated])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(x.ljust(n) for x, n in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _age(written: str | None, now: Any) -> str:
    try:
        then = datetime.datetime.fromisoformat(written or "")
        return f"{duration(max(0.0, (now - then).total_seconds()))} ago"
    except (ValueError, TypeError):
        return "-"


def restarts(job: Any, pods: Sequence[Any]) -> int:
    """Pods that ended before their work; those already cleaned away count if failed."""
    ended = sum(pod.status.phase == "Failed" for pod in pods)
    failed = job.status.failed or 0
    last = 1 if troubles.job_phase(job) == "failed" else 0
    return max(ended, failed, last) - last


def describe(found: Cluster, name: str) -> list[str]:
    """Lines about one Job: its row, why it is as it is, its pods and their troubles."""
    job, pods = found.job(name), found.pods(name)
    now = datetime.datetime.now(datetime.timezone.utc)
    lines = table([job], [restarts(job, pods)], now)
    lines += ["", f"{name}: {troubles.with_advice(troubles.job_line(job))}"]
    for pod in pods:
        said = troubles.pod_troubles(pod)
        text = ", ".join(
            troubles.with_advice(trouble, pod.metadata.name) for trouble in said
        )
        phase = pod.status.phase or "Unknown"
        lines.append(f"  {pod.metadata.name}: {phase}{f': {text}' if text else ''}")
    if not pods and not troubles.job_end(job):
        lines += [
            f"  {troubles.with_advice(' '.join(str(event.message).split()))}"
            for event in found.warnings(job)[-3:]
        ]
    return lines


def overview(found: Cluster) -> list[str]:
    """Lines about all Jobs of Seamline in the namespace."""
    jobs = found.jobs()
    if not jobs:
        return [f"no Jobs of Seamline in namespace {found.namespace}"]
    counts = [restarts(job, found.pods(job.metadata.name)) for job in jobs]
    return table(jobs, counts, datetime.datetime.now(datetime.timezone.utc))
