"""Progress on the Job object, against the Kubernetes API on loopback."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from kubernetes.config import incluster_config

from tests.desk import ROOT, Desk
from tests.kubernetes_api import Server, refusal
from trainer import annotations
from trainer.annotations import EVERY_S, Annotations, JobAnnotations


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with Server() as server:
        yield Desk(server, tmp_path)


class Clock:
    """Seconds that pass when a test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Cluster:
    """Keeps what is sent; `raises` is raised instead."""

    def __init__(self) -> None:
        self.sent: list[Annotations] = []
        self.raises: Exception | None = None
        self.arrived, self.answer = threading.Event(), threading.Event()
        self.answer.set()

    def __call__(self, values: Annotations) -> None:
        self.arrived.set()
        assert self.answer.wait(10)
        if self.raises:
            raise self.raises
        self.sent.append(values)


@pytest.fixture
def parts() -> tuple[JobAnnotations, Cluster, Clock]:
    cluster, clock = Cluster(), Clock()
    return JobAnnotations(cluster, clock=clock), cluster, clock


def finish(job: JobAnnotations) -> None:
    """Waits for the patch that is on its way."""
    if job._thread:
        job._thread.join(10)


def test_a_report_becomes_annotations_that_people_can_read(parts: Any) -> None:
    job, cluster, _ = parts
    job.report(step=120, total=600, epoch=3, epochs=50, eta=7800.0, mean_iou=0.41649)
    finish(job)
    (sent,) = map(dict, cluster.sent)
    assert "T" in (sent.pop("seamline/updated") or "")
    assert sent == {
        "seamline/phase": "training",
        "seamline/step": "120/600",
        "seamline/epoch": "3/50",
        "seamline/eta": "2h10m",
        "seamline/mean-iou": "0.416",
    }


def test_what_is_not_known_is_taken_away(parts: Any) -> None:
    job, cluster, _ = parts
    job.report(step=1, total=600, mean_iou=math.nan)
    finish(job)
    known = {key for key, value in cluster.sent[0].items() if value is not None}
    assert known == {f"seamline/{x}" for x in ("phase", "step", "updated")}
    assert cluster.sent[0]["seamline/eta"] is None


def test_the_job_is_patched_at_most_every_thirty_seconds(parts: Any) -> None:
    job, cluster, clock = parts
    for second in range(91):
        clock.now = 1000.0 + second
        job.report(step=second, total=600)
        finish(job)
    assert EVERY_S == 30
    assert [sent["seamline/step"] for sent in cluster.sent] == [
        f"{second}/600" for second in (0, 30, 60, 90)
    ]


def test_training_does_not_wait_for_a_cluster_that_is_slow(parts: Any) -> None:
    job, cluster, clock = parts
    cluster.answer.clear()
    job.report(step=1, total=600)
    assert cluster.arrived.wait(10)
    clock.now += 60
    job.report(step=2, total=600)  # returns, and sends nothing beside the first
    cluster.answer.set()
    finish(job)
    assert [sent["seamline/step"] for sent in cluster.sent] == ["1/600"]


def test_the_last_word_is_said_at_once_with_the_latest_report(parts: Any) -> None:
    job, cluster, _ = parts
    job.report(step=570, total=600, eta=20.0)
    job.report(step=600, total=600, eta=0.0)
    job.close("done")
    assert cluster.sent[-1]["seamline/phase"] == "done"
    assert cluster.sent[-1]["seamline/step"] == "600/600"
    assert cluster.sent[-1]["seamline/eta"] is None
    job.report(step=600, total=600)
    finish(job)
    assert len(cluster.sent) == 2


def test_a_pod_that_may_have_no_more_threads_goes_on(
    parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, cluster, clock = parts

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        job.report(step=1, total=600)
    clock.now += EVERY_S
    job.report(step=2, total=600)
    job.close()
    assert [sent["seamline/phase"] for sent in cluster.sent] == ["training", "done"]


class _Refused(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(f"({status})")
        self.status = status


@pytest.mark.parametrize(("status", "tries"), [(403, 1), (404, 1), (500, 3), (None, 3)])
def test_a_refusal_is_told_once_and_stops_nothing(
    parts: Any, caplog: pytest.LogCaptureFixture, status: int | None, tries: int
) -> None:
    job, cluster, clock = parts
    cluster.raises = _Refused(status) if status else OSError("no route to host")
    caplog.set_level(logging.INFO, "seamline")
    logging.getLogger("seamline").propagate = True
    arrived = 0
    for _ in range(3):
        cluster.arrived.clear()
        job.report(step=1, total=600)
        finish(job)
        arrived += cluster.arrived.is_set()
        clock.now += EVERY_S
    assert arrived == tries
    assert len([r for r in caplog.records if "No progress on" in r.message]) == 1
    job.close()


def test_outside_a_job_reports_go_nowhere(desk: Desk) -> None:
    job = annotations.of_this_job({"KUBECONFIG": desk.environment["KUBECONFIG"]})
    job.report(step=1, total=600)
    job.close()
    assert desk.server.api.requests_seen == []


PROGRAM = """
import logging, os, sys
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
from trainer import annotations
job = annotations.of_this_job(os.environ)
job.report(step=120, total=600, epoch=3, epochs=50, eta=65, mean_iou=0.416)
job.close("done")
assert "tensorflow" not in sys.modules
"""


def in_a_pod(desk: Desk, **variables: str) -> str:
    """Runs the program with the environment of a pod of the Job `first`."""
    pod = {"SEAMLINE_JOB_NAME": "first", "SEAMLINE_NAMESPACE": "default", **variables}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, **desk.environment, **pod, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def test_a_pod_annotates_its_own_job_and_status_shows_it(desk: Desk) -> None:
    before = desk.create()
    assert "No progress" not in in_a_pod(desk)
    after = desk.stored()
    told = after["metadata"]["annotations"]
    assert told["seamline/step"] == "120/600"
    assert told["seamline/phase"] == "done"
    # What was there stays, and nothing else changes.
    assert before["metadata"]["annotations"].items() <= told.items()
    assert after["spec"] == before["spec"]
    assert {p.partition("?")[0] for p in desk.calls("PATCH")} == {
        "/apis/batch/v1/namespaces/default/jobs/first"
    }
    row = desk.launch("status", "first").stdout.splitlines()[1]
    assert row.split()[:5] == ["first", "waiting", "120/600", "3/50", "-"]


def test_without_kubeconfig_the_token_that_the_pod_mounts_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "token").write_text("secret", "utf-8")
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    for name, file in (("TOKEN", "token"), ("CERT", "ca.crt")):
        place = str(tmp_path / file)
        monkeypatch.setattr(incluster_config, f"SERVICE_{name}_FILENAME", place)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    settings = annotations._connect().api_client.configuration
    assert settings.host == "https://10.0.0.1:443"
    assert settings.get_api_key_with_prefix("BearerToken") == "bearer secret"
    assert settings.ssl_ca_cert == str(tmp_path / "ca.crt")
    assert capsys.readouterr().out == ""


def test_only_the_first_worker_writes(desk: Desk) -> None:
    desk.create()
    in_a_pod(desk, JOB_COMPLETION_INDEX="1")
    assert desk.calls("PATCH") == []
    in_a_pod(desk, JOB_COMPLETION_INDEX="0")
    assert desk.calls("PATCH") != []


@pytest.mark.parametrize("code", [403, 500])
def test_a_pod_that_may_not_goes_on(desk: Desk, code: int) -> None:
    desk.create()
    answer = refusal(code, "Reason", "no")
    desk.server.api.refuse["PATCH", "jobs"] = answer
    assert in_a_pod(desk).count("No progress on the Job") == 1


def test_a_pod_without_a_cluster_goes_on(desk: Desk) -> None:
    desk.create()
    told = in_a_pod(desk, KUBECONFIG="/nowhere", HOME="/nowhere")
    assert told.count("No progress on the Job") == 1
