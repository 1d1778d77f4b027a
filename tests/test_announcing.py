"""Progress of a training on its Kubernetes Job: from the loop to the annotations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import SMALL, run_command
from tests.desk import Desk
from tests.kubernetes_api import Server, refusal
from tests.test_engine import make_job, one_device
from trainer.engine import announcing, loop, workers
from trainer.errors import Stopped


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with Server() as server:
        yield Desk(server, tmp_path)


@pytest.fixture
def pod(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """This process is a pod of the Job `first`."""
    desk.create()
    monkeypatch.setenv("KUBECONFIG", desk.environment["KUBECONFIG"])
    monkeypatch.setenv("SEAMLINE_JOB_NAME", "first")
    monkeypatch.setenv("SEAMLINE_NAMESPACE", "default")
    return desk


def told(desk: Desk) -> dict[str, str]:
    """What the Job's annotations say about the training."""
    keys = ("phase", "step", "epoch", "eta", "mean-iou")
    found = desk.stored()["metadata"]["annotations"]
    named = {key: found.get(f"seamline/{key}") for key in keys}
    return {key: text for key, text in named.items() if text is not None}


def test_the_loop_reports_every_call_and_every_epoch(tmp_path: Path) -> None:
    job = make_job(tmp_path / "run", one_device())
    seen = []

    def report(of: object, progress: loop.Progress, left: float | None) -> None:
        assert of is job
        seen.append((progress.epoch, progress.step, progress.best_epoch, left))

    rows = loop.train(job, report=report)
    assert [x[:2] for x in seen if x[1] == 3 * x[0]] == [(1, 3), (2, 6), (3, 9)]
    steps = [step for _, step, _, _ in seen]
    assert steps == sorted(steps)
    assert {(0, 3), (1, 6), (2, 9)} <= {x[:2] for x in seen}
    best = max(rows, key=lambda row: row["val_mean_iou"])["epoch"]
    assert seen[-1][2:] == (best, 0.0)
    assert seen[0][2:] == (0, None), "the first call has no rate and no score yet"


def test_the_job_says_how_a_training_ended(pod: Desk, tmp_path: Path) -> None:
    job = make_job(tmp_path / "run", one_device())
    with announcing.on_the_job(job.strategy) as report:
        rows = loop.train(job, report=report)
    best = max(row["val_mean_iou"] for row in rows)
    expected = {"phase": "done", "step": "9/9", "epoch": "3/3"}
    assert told(pod) == {**expected, "mean-iou": f"{best:.3f}"}


def test_before_the_first_score_there_is_none(pod: Desk, tmp_path: Path) -> None:
    job = make_job(tmp_path / "run", one_device())
    with announcing.on_the_job(job.strategy) as report:
        report(job, loop.Progress(step=2), 65.0)
    assert told(pod) == {"phase": "done", "step": "2/9", "epoch": "0/3"}


def test_a_training_that_is_stopped_says_so(
    pod: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A busy machine takes longer to import the client.
    monkeypatch.setattr(announcing, "_STOPPED_S", 30.0)
    job = make_job(tmp_path / "run", one_device())

    def live() -> None:
        with announcing.on_the_job(job.strategy) as report:
            report(job, loop.Progress(step=2), 65.0)
            raise Stopped(15, "by SIGTERM")

    with pytest.raises(Stopped):
        live()
    assert told(pod) == {"phase": "stopped", "step": "2/9", "epoch": "0/3"}


def test_the_other_workers_say_nothing(
    pod: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "is_chief", lambda devices: False)
    job = make_job(tmp_path / "run", one_device())
    with announcing.on_the_job(job.strategy) as report:
        report(job, loop.Progress(step=2), 65.0)
    assert pod.calls("PATCH") == []


def test_the_command_trains_on_when_the_cluster_fails_and_tells_it_in_the_end(
    pod: Desk, records_dir: Path, tmp_path: Path
) -> None:
    pod.server.api.refuse["PATCH", "jobs"] = refusal(500, "InternalError", "etcd")
    flags = (f"--records_dir={records_dir}", *SMALL, "--epochs=2", "--run_dir=run")
    done = run_command("trainer.task", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (done.stdout + done.stderr).count("No progress on the Job") == 1
    lines = (tmp_path / "run" / "history.jsonl").read_text("utf-8").splitlines()
    best = max(json.loads(line)["val_mean_iou"] for line in lines)
    expected = {"phase": "done", "step": "4/4", "epoch": "2/2"}
    assert told(pod) == {**expected, "mean-iou": f"{best:.3f}"}
    row = pod.launch("status", "first").stdout.splitlines()[1]
    assert row.split()[2:4] == ["4/4", "2/2"]
