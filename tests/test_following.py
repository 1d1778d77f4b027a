"""Logs, the end and the state of a Job, with a cluster that misbehaves.

In this process: where the code would pause, the test plays the cluster.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client

from tests.desk import EVENTS, Desk, container_state
from tests.kubernetes_api import Server, refusal
from trainer.errors import SeamlineError, Unavailable
from trainer.jobs import cluster, following, status, troubles
from trainer.jobs.cluster import Cluster


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with Server() as server:
        settings = client.Configuration(host=server.url)
        settings.retries = False
        client.Configuration.set_default(settings)
        yield Desk(server, tmp_path)
        client.Configuration.set_default(None)


class Scenes:
    """What the cluster does at each pause, in turn; a pause more is a failure."""

    def __init__(self, *scenes: Callable[[], object]) -> None:
        self.left = list(scenes)

    def __call__(self, seconds: float) -> None:
        assert seconds > 0
        assert self.left, "waits longer than it should"
        self.left.pop(0)()


def nothing() -> None:
    pass


def open_cluster(*scenes: Callable[[], object]) -> Cluster:
    return Cluster("default", pause=Scenes(*scenes))


# retries

_TROUBLE = [(500, "etcd"), (503, "starting"), (429, "slow down")]


@pytest.mark.parametrize(("code", "said"), _TROUBLE)
def test_reading_is_tried_again_while_the_cluster_is_out_of_order(
    desk: Desk, code: int, said: str
) -> None:
    desk.create()
    answers = [refusal(code, "Reason", said) for _ in range(2)]
    desk.server.api.refuse["GET", "jobs"] = answers
    found = open_cluster(nothing, nothing)
    assert found.job("first").metadata.name == "first"
    assert found.pause.left == []  # type: ignore[attr-defined]


def test_reading_gives_up_in_the_end(desk: Desk) -> None:
    answers = [refusal(500, "InternalError", "etcd") for _ in range(4)]
    desk.server.api.refuse["GET", "jobs"] = answers
    found = open_cluster(nothing, nothing, nothing)
    with (
        pytest.raises(Unavailable, match=r"^first: etcd \(500\); try again later$"),
        cluster.explained("first", "default"),
    ):
        found.job("first")


def test_a_lack_of_rights_is_not_tried_again(desk: Desk) -> None:
    said = 'pods is forbidden: User "ada" cannot list resource "pods" in API group ""'
    desk.server.api.refuse["GET", "pods"] = refusal(403, "Forbidden", said)
    found = open_cluster()
    with (
        pytest.raises(SeamlineError, match="kubectl auth can-i list pods"),
        cluster.explained("first", "default"),
    ):
        found.pods("first")


# wait

_FAILED_WITH = (
    "Container {} for pod default/first-a failed with exit code {} matching FailJob "
    "rule at index 0"
)


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (("Complete", "", ""), 0),
        (("Failed", "PodFailurePolicy", _FAILED_WITH.format("trainer", 42)), 42),
        (("Failed", "PodFailurePolicy", _FAILED_WITH.format("preflight", 42)), 42),
        (("Failed", "PodFailurePolicy", _FAILED_WITH.format("trainer", 421)), 1),
        (("Failed", "BackoffLimitExceeded", "gave up after exit code 42"), 1),
        (("Failed", "DeadlineExceeded", "ran too long"), 1),
    ],
)
def test_the_exit_code_of_wait_tells_how_the_job_ended(
    desk: Desk, capsys: pytest.CaptureFixture, end: tuple[str, str, str], code: int
) -> None:
    desk.create()
    desk.end(*end)
    assert following.wait(open_cluster(), "first") == code
    told = capsys.readouterr().out
    assert told.startswith(f"first: {end[0].lower()}")
    assert end[2] in told


_MISTAKEN = ("PodFailurePolicy", _FAILED_WITH.format("trainer", 42))
_GAVE_UP = ("BackoffLimitExceeded", "")


@pytest.mark.parametrize(
    ("codes", "end", "told"),
    [
        ((42, 143), _MISTAKEN, "first-0: exit 42 → a retry cannot mend it"),
        ((137, 75), _GAVE_UP, "first-0: exit 137 → killed from outside"),
        ((1, 143), _GAVE_UP, "first-0: exit 1"),
        ((137, 1), _GAVE_UP, "first-1: exit 1"),
        ((75, 75), _GAVE_UP, "first-1: exit 75 → another worker or a service was lost"),
    ],
)
def test_wait_tells_of_the_worker_that_failed_and_not_of_one_stopped_for_it(
    desk: Desk,
    capsys: pytest.CaptureFixture,
    codes: tuple[int, int],
    end: tuple[str, str],
    told: str,
) -> None:
    desk.create()
    for number, code in enumerate(codes):
        state = container_state(terminated={"exitCode": code})
        ended = {"phase": "Failed", "containerStatuses": [state]}
        desk.add_pod(f"first-{number}", number, ended)
    desk.end("Failed", *end)
    assert f": exit {following.wait(open_cluster(), 'first')}" in told
    _, *lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"  {told}")


def test_only_used_up_retries_hand_on_the_code_of_the_last_pod(desk: Desk) -> None:
    desk.create()
    for number, code in enumerate((1, 137)):
        state = container_state(terminated={"exitCode": code})
        ended = {"phase": "Failed", "containerStatuses": [state]}
        desk.add_pod(f"first-{number}", number, ended)
    desk.end("Failed", "BackoffLimitExceeded")
    assert following.wait(open_cluster(), "first") == 137
    desk.end("Failed", "DeadlineExceeded")
    assert following.wait(open_cluster(), "first") == 1


def test_a_check_that_fails_hands_on_its_code_too(desk: Desk) -> None:
    desk.create()
    check = container_state("preflight", terminated={"exitCode": 75})
    main = container_state(waiting={"reason": "PodInitializing"})
    states = {"initContainerStatuses": [check], "containerStatuses": [main]}
    desk.add_pod("first-a", 1, {"phase": "Failed", **states})
    desk.end("Failed", "BackoffLimitExceeded")
    assert following.wait(open_cluster(), "first") == 75


@pytest.mark.parametrize(
    "answer",
    [
        lambda: refusal(410, "Expired", "too old resource version"),
        lambda: refusal(500, "InternalError", "etcd"),
        lambda: refusal(429, "TooManyRequests", "slow down"),
    ],
)
def test_wait_survives_a_watch_that_is_refused(desk: Desk, answer: Any) -> None:
    desk.create()
    api = desk.server.api
    api.refuse["WATCH", "jobs"] = [answer(), answer()]
    found = open_cluster(nothing, lambda: desk.end("Complete"))
    assert following.wait(found, "first") == 0
    assert api.refuse == {}


def test_wait_survives_a_watch_that_says_its_version_has_expired(desk: Desk) -> None:
    desk.create()
    desk.server.api.watch_errors.append((410, "Expired", "too old resource version"))
    found = open_cluster(lambda: desk.end("Complete"))
    assert following.wait(found, "first") == 0
    assert desk.server.api.watch_errors == []


def test_wait_survives_a_watch_that_is_dropped(desk: Desk) -> None:
    desk.create()
    desk.server.api.watch_errors.append(None)
    found = open_cluster(lambda: desk.end("Complete"))
    assert following.wait(found, "first") == 0


def test_wait_tells_once_what_keeps_a_pod_from_starting(
    desk: Desk, capsys: pytest.CaptureFixture
) -> None:
    desk.create()
    desk.add_pod("first-a", 1, _waiting("ImagePullBackOff"))
    desk.server.api.watch_errors += [None, None]
    found = open_cluster(nothing, lambda: desk.end("Complete"))
    assert following.wait(found, "first") == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("first-a: ImagePullBackOff → the image cannot be had")
    assert last == "first: complete"


def _warn(desk: Desk, job: Any, number: int, message: str) -> None:
    """Plays the Job controller: it could not make a pod."""
    about = {"kind": "Job", "name": "first", "uid": job["metadata"]["uid"]}
    metadata = {"name": f"first.{number}", "namespace": "default"}
    body = {"apiVersion": "v1", "kind": "Event", "metadata": metadata}
    body |= {"involvedObject": about, "type": "Warning", "message": message}
    desk.server.call("POST", EVENTS, body)


def test_wait_tells_once_why_there_is_no_pod(
    desk: Desk, capsys: pytest.CaptureFixture
) -> None:
    job = desk.create()

    def fail(number: int) -> None:
        said = f'Error creating: pods "first-{number}" is forbidden: exceeded quota: g'
        _warn(desk, job, number, said)

    fail(1)
    desk.server.api.watch_errors += [None, None]
    found = open_cluster(lambda: fail(2), lambda: desk.end("Complete"))
    assert following.wait(found, "first") == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith(
        "first: Error creating: pods is forbidden: exceeded quota: g → the namespace's"
    )
    assert last == "first: complete"


def test_who_may_not_read_events_can_wait(desk: Desk) -> None:
    desk.create()
    said = 'events is forbidden: cannot list resource "events"'
    desk.server.api.refuse["GET", "events"] = refusal(403, "Forbidden", said)
    desk.server.api.watch_errors.append(None)
    found = open_cluster(lambda: desk.end("Complete"))
    assert following.wait(found, "first") == 0
    assert desk.server.api.refuse == {}


def test_wait_waits_minutes_for_a_cluster_that_is_away(desk: Desk) -> None:
    desk.create()
    desk.end("Complete")
    answers = [refusal(503, "ServiceUnavailable", "upgrade") for _ in range(30)]
    desk.server.api.refuse["GET", "jobs"] = answers
    assert following.wait(open_cluster(*[nothing] * 30), "first") == 0


def test_who_may_not_watch_is_told_so(desk: Desk) -> None:
    desk.create()
    said = 'jobs.batch is forbidden: User "ada" cannot watch resource "jobs"'
    desk.server.api.refuse["WATCH", "jobs"] = refusal(403, "Forbidden", said)
    with (
        pytest.raises(SeamlineError, match="kubectl auth can-i watch jobs"),
        cluster.explained("first", "default"),
    ):
        following.wait(open_cluster(), "first")


# logs


def follow(
    found: Cluster, capsys: pytest.CaptureFixture, follow: bool = True
) -> list[str]:
    assert following.LogPrinter(found, "first", follow=follow).run()
    return capsys.readouterr().out.splitlines()


def end_of_all(desk: Desk, *pods: str) -> None:
    for pod in pods:
        desk.pod_status(pod, {"phase": "Succeeded"})
    desk.end("Complete")


def test_the_lines_of_all_workers_bear_their_numbers(
    desk: Desk, capsys: pytest.CaptureFixture
) -> None:
    desk.create()
    for number in range(2):
        desk.add_pod(f"first-{number}", number, {"phase": "Succeeded"}, index=number)
    desk.server.api.logs = {"first-0": "epoch 1\nepoch 2\n", "first-1": "épochs\n"}
    desk.end("Complete")
    lines = follow(open_cluster(), capsys)
    assert [line for line in lines if line[:4] == "[0] "] == [
        "[0] epoch 1",
        "[0] epoch 2",
    ]
    assert [line for line in lines if line[:4] == "[1] "] == ["[1] épochs"]


def test_the_check_before_the_training_is_printed_first(
    desk: Desk, capsys: pytest.CaptureFixture
) -> None:
    desk.create()
    desk.add_pod("first-a", 1, {"phase": "Succeeded"})
    desk.server.api.logs = {
        "first-a/preflight": "all well\n",
        "first-a/trainer": "epoch 1\n",
    }
    desk.end("Complete")
    assert follow(open_cluster(), capsys) == ["all well", "epoch 1"]


def test_a_check_that_fails_is_all_there_is_to_print(
    desk: Desk, capsys: pytest.CaptureFixture
) -> None:
    desk.create()
    desk.add_pod("first-a", 1, {"phase": "Failed"})
    api = desk.server.api
    api.logs = {"first-a/preflight": "verdict: will not work\n"}
    text = 'container "trainer" in pod "first-a" is waiting to start'
    api.waiting_to_start["first-a"] = text
    desk.end("Failed", "PodFailurePolicy")
    assert follow(open_cluster(), capsys) == ["verdict: will not work"]


def test_following_goes_on_in_the_pod_that_replaces_another(
    desk: Desk, capsys: pytest.CaptureFixture
) -> None:
    desk.create()
    desk.add_pod("first-0-a", 1, {"phase": "Failed"}, index=0)
    desk.server.api.logs = {"first-0-a": "epoch 1\nkilled\n"}

    def replace() -> None:
        desk.server.api.logs["first-0-b"] = "goes on at epoch 1\ndone\n"
        desk.add_pod("first-0-b", 2, {"phase": "Succeeded"}, index=0)

    found = open_cluster(replace, lambda: desk.end("Complete"))
    assert follow(found, capsys) == [
        "[0] epoch 1",
        "[0] killed",
        "[0] --- goes on in pod first-0-b",
        "[0] goes on at epoch 1",
        "[0] done",
    ]


def test_a_log_that_breaks_off_goes_on_without_losing_or_repeating_a_line(
    desk: Desk, capsys: pytest.CaptureFixture
) -> None:
    desk.create()
    desk.add_pod("first-a", 1, {"phase": "Succeeded"})
    text = "".join(f"step {number}\n" for number in range(50))
    desk.server.api.logs = {"first-a/trainer": text}
    desk.server.api.breaks = {"first-a": 20}
    desk.server.api.logs["first-a/preflight"] = ""
    desk.end("Complete")
    assert follow(open_cluster(nothing), capsys) == text.splitlines()


def test_a_pod_that_is_gone_ends_its_log_and_nothing_else(
    desk: Desk, capsys: pytest.CaptureFixture
) -> None:
    desk.create()
    desk.add_pod("first-a", 1, {"phase": "Failed"})
    desk.add_pod("first-b", 2, {"phase": "Succeeded"})
    desk.server.api.logs = {"first-b": "epoch 1\n"}
    gone = refusal(404, "NotFound", 'pods "first-a" not found')
    desk.server.api.refuse["LOG", "pods"] = gone
    desk.end("Complete")
    assert "epoch 1" in follow(open_cluster(), capsys)


def test_who_may_not_read_logs_is_told_so(desk: Desk) -> None:
    desk.create()
    desk.add_pod("first-a", 1, {"phase": "Running"})
    said = 'pods "first-a" is forbidden: cannot get resource "pods/log"'
    desk.server.api.refuse["LOG", "pods"] = refusal(403, "Forbidden", said)
    found = Cluster("default", pause=lambda seconds: None)
    with (
        pytest.raises(SeamlineError, match="kubectl auth can-i get pods/log"),
        cluster.explained("first", "default"),
    ):
        following.LogPrinter(found, "first", follow=True).run()


def test_a_cluster_that_is_away_is_told_at_once(
    desk: Desk, capsys: pytest.CaptureFixture
) -> None:
    desk.create()
    away = [refusal(503, "Starting", "the server is starting") for _ in range(2)]
    desk.server.api.refuse["GET", "jobs"] = away
    found = Cluster("default", pause=lambda seconds: None)
    assert found.job("first").metadata.name == "first"
    told = capsys.readouterr().err
    assert told == "note: the server is starting; trying again, 1 min at most\n"


# status

_UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}


def _terminated(code: int, reason: str = "Error", name: str = "trainer") -> Any:
    state = container_state(name, terminated={"exitCode": code, "reason": reason})
    key = "containerStatuses" if name == "trainer" else "initContainerStatuses"
    return {"phase": "Failed", key: [state]}


def _waiting(reason: str, message: str = "") -> Any:
    state = container_state(waiting={"reason": reason, "message": message})
    return {"phase": "Pending", "containerStatuses": [state]}


def _unschedulable(message: str) -> Any:
    return {"phase": "Pending", "conditions": [{**_UNSCHEDULABLE, "message": message}]}


@pytest.mark.parametrize(
    ("pod", "told"),
    [
        (_terminated(137, "OOMKilled"), "OOMKilled, exit 137 → used more memory than"),
        (_terminated(137), "exit 137 → killed from outside, most often for memory"),
        (_terminated(42), "exit 42 → a retry cannot mend it: the last line of its log"),
        (_terminated(42, name="preflight"), "exit 42 → a retry cannot mend it"),
        (_terminated(75), "exit 75 → another worker or a service was lost"),
        (_terminated(143), "exit 143 → told to stop; it saved before"),
        (_terminated(1), "Failed: exit 1"),
        (
            _waiting("ImagePullBackOff", 'Back-off pulling image "r/x"'),
            'ImagePullBackOff: Back-off pulling image "r/x" → the image cannot be had',
        ),
        (_waiting("ErrImagePull"), "ErrImagePull → the image cannot be had"),
        (_waiting("InvalidImageName"), "InvalidImageName → the image cannot be had"),
        (_waiting("ContainerCreating"), "  first-a: Pending"),
        (
            _unschedulable("0/3 nodes are available: 3 Insufficient nvidia.com/gpu."),
            "3 Insufficient nvidia.com/gpu. → no node has so many free GPUs",
        ),
        (
            _unschedulable("0/3 nodes are available: 3 Insufficient memory."),
            "→ no node has so much free",
        ),
        (
            _unschedulable(
                "0/3 nodes are available: 3 node(s) didn't match Pod's node "
                "affinity/selector."
            ),
            "→ no node has the labels asked for",
        ),
        (
            _unschedulable(
                "0/3 nodes are available: 3 node(s) had untolerated taint {x: y}."
            ),
            "→ the free nodes are kept for others",
        ),
        (
            _unschedulable('persistentvolumeclaim "seamline-data" not found'),
            "→ its volume is not there",
        ),
        (
            {
                "phase": "Failed",
                "reason": "Evicted",
                "message": 'Usage of EmptyDir volume "scratch" exceeds limit "16Gi"',
            },
            "→ used more disk than its limit",
        ),
    ],
)
def test_status_tells_what_is_wrong_with_a_pod_and_what_to_do(
    desk: Desk, pod: dict[str, Any], told: str
) -> None:
    desk.create()
    desk.add_pod("first-a", 1, pod)
    lines = status.describe(open_cluster(), "first")
    assert told in lines[-1]


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (
            'Error creating: pods "first-x" is forbidden: exceeded quota: gpus, '
            "requested: requests.nvidia.com/gpu=8, used: requests.nvidia.com/gpu=4, "
            "limited: requests.nvidia.com/gpu=8",
            "→ the namespace's quota is used up; see: kubectl describe quota",
        ),
        (
            'Error creating: pods "first-x" is forbidden: error looking up service '
            'account default/seamline: serviceaccount "seamline" not found',
            "→ kubectl apply -f k8s/service-account.yaml",
        ),
        (
            'Error creating: pods "first-x" is forbidden: violates PodSecurity '
            '"restricted:latest"',
            "→ a rule of this cluster forbids it",
        ),
    ],
)
def test_status_tells_why_there_is_no_pod(desk: Desk, event: str, told: str) -> None:
    _warn(desk, desk.create(), 1, event)
    lines = status.describe(open_cluster(), "first")
    assert event in lines[-1]
    assert told in lines[-1]


def test_a_job_that_waits_for_its_turn_names_its_queue(desk: Desk) -> None:
    desk.create()
    patch = {"metadata": {"labels": {"kueue.x-k8s.io/queue-name": "gold"}}}
    path = "/apis/batch/v1/namespaces/default/jobs/first"
    desk.server.call("PATCH", path, {**patch, "spec": {"suspend": True}})
    lines = status.describe(open_cluster(), "first")
    assert lines[-1] == "first: suspended: waits in queue gold"


def test_restarts_count_ended_pods_but_not_the_end_itself(desk: Desk) -> None:
    desk.create()
    found = open_cluster()
    for second in range(3):
        desk.add_pod(f"first-{second}", second, {"phase": "Failed"})
    pods = found.pods("first")
    desk.patch_status({"active": 1, "failed": 1})
    assert status.restarts(found.job("first"), pods) == 3
    desk.patch_status({"active": 1, "failed": 5})
    assert status.restarts(found.job("first"), pods) == 5
    desk.end("Failed", "BackoffLimitExceeded")
    assert status.restarts(found.job("first"), pods) == 4


def test_the_table_shows_how_old_its_news_are_and_no_eta_after_the_end(
    desk: Desk,
) -> None:
    desk.create(eta="5m", phase="training", updated="2030-01-01T00:00:00+00:00")
    now = datetime.datetime(2030, 1, 1, 0, 1, 5, tzinfo=datetime.timezone.utc)
    found = open_cluster()
    desk.patch_status({"active": 1})
    rows = status.table([found.job("first")], [0], now)
    assert rows[1].split() == "first training - - 5m - 0 1m05s ago".split()
    desk.end("Complete")
    rows = status.table([found.job("first")], [0], now)
    assert rows[1].split() == "first complete - - - - 0 1m05s ago".split()


def test_unknown_trouble_is_told_without_advice() -> None:
    assert troubles.with_advice("something new") == "something new"
