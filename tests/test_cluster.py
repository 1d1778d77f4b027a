"""Which workers there are, as environments say it; and how they find each other."""

from __future__ import annotations

import json
import socket
import threading

import pytest

from tests.cluster import free_ports
from trainer.engine import strategy
from trainer.engine.cluster import Cluster, meet, read_cluster
from trainer.errors import SeamlineError, Unavailable

POD = {
    "JOB_COMPLETION_INDEX": "1",
    "SEAMLINE_WORKERS": "3",
    "SEAMLINE_JOB_NAME": "train",
    "SEAMLINE_SERVICE": "workers",
}


def tf_config(cluster: object, kind: str = "worker", index: object = 0) -> str:
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


def test_an_environment_without_workers_is_no_cluster() -> None:
    assert read_cluster({}) is None
    assert read_cluster({"JOB_COMPLETION_INDEX": "2"}) is None
    assert read_cluster({"TF_CONFIG": "{}"}) is None
    assert read_cluster({**POD, "SEAMLINE_WORKERS": "1"}) is None


def test_tf_config_names_the_workers_chief_first() -> None:
    jobs = {"worker": ["a:1", "b:2"], "chief": ["c:3"]}
    read = read_cluster({"TF_CONFIG": tf_config(jobs, "worker", 1)})
    assert read == Cluster(("c:3", "a:1", "b:2"), 2, "TF_CONFIG")
    read = read_cluster({"TF_CONFIG": tf_config(jobs, "chief", 0)})
    assert read is not None
    assert read.index == 0


def test_the_pods_of_an_indexed_job_find_each_other_by_name() -> None:
    hosts = tuple(f"train-{number}.workers:2222" for number in range(3))
    assert read_cluster(POD) == Cluster(hosts, 1, "JOB_COMPLETION_INDEX")
    other = read_cluster({**POD, "SEAMLINE_PORT": "99"})
    assert other is not None
    assert other.addresses[0] == "train-0.workers:99"


def test_tf_config_goes_before_the_jobs_environment() -> None:
    read = read_cluster({**POD, "TF_CONFIG": tf_config({"worker": ["a:1", "b:1"]})})
    assert read is not None
    assert read.source == "TF_CONFIG"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "TF_CONFIG={: not JSON"),
        ("[1]", r"TF_CONFIG=\[1\]: has no cluster"),
        ('{"task": {"type": "worker", "index": 0}}', "has no cluster"),
        (tf_config({"worker": ["a:1"], "ps": ["b:1"]}), "its cluster has 'ps'"),
        (tf_config({"worker": ["a:1"]}, index=1), "task worker 1 is not in its"),
        (tf_config({"worker": ["a:1"]}, "chief"), "task chief 0 is not in its"),
        (tf_config({"worker": ["a:1"]}, index="x"), "needs a type and an index"),
        ('{"cluster": {"worker": ["a:1"]}}', "needs a type and an index"),
        (tf_config({"worker": ["a"]}), "worker 'a' is not host:port"),
    ],
)
def test_a_wrong_tf_config_is_one_clear_line(text: str, expected: str) -> None:
    with pytest.raises(SeamlineError, match=expected) as error:
        read_cluster({"TF_CONFIG": text})
    assert error.value.exit_code == 42
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"JOB_COMPLETION_INDEX": "3"}, "=3: SEAMLINE_WORKERS=3 must equal"),
        ({"JOB_COMPLETION_INDEX": ""}, "JOB_COMPLETION_INDEX: not set"),
        ({"SEAMLINE_WORKERS": "two"}, "SEAMLINE_WORKERS=two: must be a whole number"),
        ({"SEAMLINE_SERVICE": ""}, "SEAMLINE_SERVICE: not set"),
        ({"SEAMLINE_PORT": "-1"}, "SEAMLINE_PORT=-1: must be a whole number"),
    ],
)
def test_a_wrong_jobs_environment_is_one_clear_line(
    change: dict[str, str], expected: str
) -> None:
    with pytest.raises(SeamlineError, match=expected):
        read_cluster({**POD, **change})


def test_a_strategy_that_does_not_fit_the_environment_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(SeamlineError, match="the environment names no workers"):
        strategy.build_strategy("multi_worker")
    monkeypatch.setenv("TF_CONFIG", tf_config({"worker": ["a:1", "b:1"]}))
    for name in ("one_device", "mirrored"):
        with pytest.raises(SeamlineError, match="TF_CONFIG names 2 workers"):
            strategy.build_strategy(name)


def test_a_worker_alone_in_its_cluster_trains_as_without_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TF_CONFIG", tf_config({"worker": ["a:1"]}))
    assert strategy.build_strategy("multi_worker").num_replicas_in_sync == 1


def local_cluster(index: int, ports: list[int]) -> Cluster:
    return Cluster(tuple(f"localhost:{port}" for port in ports), index, "TF_CONFIG")


@pytest.mark.parametrize("index", [0, 1])
def test_a_worker_that_never_starts_is_not_waited_for_for_ever(index: int) -> None:
    with pytest.raises(Unavailable, match="was not there within 0 s") as error:
        meet(local_cluster(index, free_ports(2)), 0.0)
    assert error.value.exit_code == 75
    assert f"worker {1 - index} (localhost:" in str(error.value)


def test_the_chief_starts_once_all_other_workers_are_there() -> None:
    ports = free_ports(3)
    # In place of a chief that has started TensorFlow: its port is not open before.
    waiting = [
        threading.Thread(target=meet, args=(local_cluster(index, ports), 60))
        for index in (1, 2)
    ]
    for each in waiting:
        each.start()
    meet(local_cluster(0, ports), 60)
    assert all(each.is_alive() for each in waiting)
    with open_port(ports[0]):
        for each in waiting:
            each.join()


def open_port(port: int) -> socket.socket:
    return socket.create_server(("localhost", port))


def test_a_port_that_is_taken_is_named() -> None:
    ports = free_ports(2)
    with (
        open_port(ports[1]),
        pytest.raises(SeamlineError, match=f"cannot open port {ports[1]}"),
    ):
        meet(local_cluster(1, ports), 0.0)
