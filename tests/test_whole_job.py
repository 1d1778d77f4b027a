"""Whole Jobs, really run: the launcher submits them, their pods' commands are started.

Two pods convert photos of a bucket, two workers train on the records, are disturbed,
and export a model; all of it lies in the bucket. By default one worker is evicted; with
`SURVIVAL=full` one is killed later too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.desk import IMAGE, PODS, ROOT, Desk
from tests.gcs import Cloud
from tests.gcs_gate import Request
from tests.job_controller import Ended, JobController, decide, running
from tests.kubernetes_api import Server
from tests.pods import expand
from tests.test_survival import FULL, tensors
from trainer import storage
from trainer.data import verification
from trainer.jobs import manifest

TINY = (
    *("--encoder=tiny", "--encoder_weights=none", "--encoder_training=frozen"),
    *("--image_size=32", "--batch_size=4", "--epochs=4", "--steps_per_epoch=2"),
)


@dataclasses.dataclass
class Place:
    """A cluster, a bucket with photos, and a person who submits Jobs."""

    desk: Desk
    cloud: Cloud
    url: str
    folder: Path

    def submit(self, name: str, *arguments: str) -> None:
        given = (f"--name={name}", f"--image={IMAGE}", f"--data={self.url}")
        done = self.desk.launch("submit", *given, *arguments)
        assert done.returncode == 0, done.stderr

    @contextlib.contextmanager
    def running(
        self, name: str, *moments: tuple[str, Callable[[JobController], object]]
    ) -> Iterator[JobController]:
        """Runs the pods of a Job that was submitted; leaves when it has ended.

        Moments are uploads: one after the other, when an object of this name is begun,
        something happens, and the upload waits for it.
        """
        job = JobController(self.desk, name, self.folder, self.cloud.env)
        left = list(moments)

        def look(request: Request) -> None:
            if left and request.makes(left[0][0]):
                _, happen = left.pop(0)
                happen(job)

        with self.cloud.watching(look), running(job):
            yield job
        assert not left

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Starts the launcher and does not wait for it."""
        return subprocess.Popen(
            [sys.executable, "-m", "trainer.launch", *arguments],
            cwd=ROOT,
            env=self.desk.environment,
            stdout=subprocess.PIPE,
            text=True,
        )

    def logs(self, name: str) -> str:
        done = self.desk.launch("logs", name, "--nofollow")
        assert done.returncode == 0, done.stderr
        return done.stdout

    def pods(self, name: str) -> list[str]:
        items = self.desk.server.call("GET", PODS)["items"]
        found = [item["metadata"]["name"] for item in items]
        return [pod for pod in found if pod.startswith(f"{name}-")]


def upload(cloud: Cloud, folder: Path, url: str) -> None:
    """Copies the drawn figures to where the manifest looks for photos."""
    bucket = cloud.client.bucket(url[len("gs://") :])
    for name in storage.list_files(str(folder)):
        blob = bucket.blob(f"clothing-co-parsing/{name}")
        blob.upload_from_string((folder / name).read_bytes())


@pytest.fixture(scope="module")
def place(
    cloud_server: Cloud, drawn: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("cluster")
    url = f"gs://{cloud_server.new_bucket()}"
    upload(cloud_server, drawn, url)
    with Server() as server:
        yield Place(Desk(server, folder), cloud_server, url, folder)


CONVERT = ("--manifest=k8s/convert-job.yaml", "--workers=2", "--", "--workers=1")
"""Two pods of one process each."""


@pytest.fixture(scope="module")
def converted(place: Place) -> JobController:
    """The Job that made records; one of its pods was killed in its first upload."""
    place.submit("convert", *CONVERT)
    moment = (r"/upload/.*val-00000", lambda job: job.pod(1).kill())
    with place.running("convert", moment) as job:
        wait = place.start("wait", "convert")
    told, _ = wait.communicate(timeout=60)
    assert wait.returncode == 0, told + place.logs("convert")
    return job


def test_two_pods_convert_and_one_that_is_killed_is_tried_again(
    place: Place, cloud: Cloud, converted: JobController
) -> None:
    assert converted.failed == 1
    assert sorted(converted.history, key=lambda x: (x.index, x.action)) == [
        Ended(0, 0, "Done"),
        Ended(1, 137, "Count"),
        Ended(1, 0, "Done"),
    ]
    card = verification.verify(f"{place.url}/records")
    assert {name: x["examples"] for name, x in card.splits.items()} == {
        "train": 11,
        "val": 3,
    }
    row = place.desk.launch("status", "convert").stdout.splitlines()[1].split()
    assert row[:2] == ["convert", "complete"]
    assert row[-2] == "1", "restarts"


def test_bad_data_ends_the_job_at_once(place: Place, drawn: Path) -> None:
    url = f"gs://{place.cloud.new_bucket()}"
    upload(place.cloud, drawn, url)
    bucket = place.cloud.client.bucket(url[len("gs://") :])
    bucket.blob("clothing-co-parsing/photos/0003.jpg").upload_from_string(b"no photo")
    spoilt = dataclasses.replace(place, url=url)
    spoilt.submit("spoilt", *CONVERT)
    with spoilt.running("spoilt") as job:
        wait = spoilt.start("wait", "spoilt")
    told, _ = wait.communicate(timeout=60)
    assert wait.returncode == 42, told
    assert "spoilt: failed: PodFailurePolicy: Container trainer for pod" in told
    assert "a retry cannot mend it" in told
    assert [x for x in job.history if x.action == "FailJob"] == [
        Ended(job.history[-1].index, 42, "FailJob")
    ]
    assert job.failed == 0
    assert len(spoilt.pods("spoilt")) == 2, "none was started again"
    assert "photos/0003.jpg: " in spoilt.logs("spoilt")


def train(place: Place, name: str) -> None:
    place.submit(name, "--workers=2", "--gpus=0", "--", *TINY)


@pytest.fixture(scope="module")
def undisturbed(place: Place, converted: JobController) -> str:
    """The run directory of a Job that nothing happened to."""
    train(place, "calm")
    with place.running("calm") as job:
        pass
    assert [x.code for x in job.history] == [0, 0], place.logs("calm")
    return f"{place.url}/runs/calm"


def test_a_job_whose_pods_are_stopped_and_killed_ends_as_an_undisturbed_one(
    place: Place, undisturbed: str, cloud: Cloud, tmp_path: Path
) -> None:
    seen: dict[str, str] = {}

    def evict(job: JobController) -> None:
        seen["status"] = place.desk.launch("status", "rough").stdout
        job.pod(1).evict()

    train(place, "rough")
    # It stops after one more epoch at most.
    moments = [("rough/checkpoints/last/ckpt-2_temp", evict)]
    if FULL:
        last = ("rough/checkpoints/last/ckpt-6_temp", lambda job: job.pod(1).kill())
        moments.append(last)
    with place.running("rough", *moments) as job:
        logs, wait = place.start("logs", "rough"), place.start("wait", "rough")
    told, ending = (x.communicate(timeout=60)[0] for x in (logs, wait))
    assert wait.returncode == 0, told
    assert "rough: complete" in ending
    _check_history(job.history)
    assert job.failed == FULL, "the one that was killed"
    _check_words(told, seen["status"])
    row = place.desk.launch("status", "rough").stdout.splitlines()[1].split()
    assert row[1:4] == ["complete", "8/8", "4/4"]
    runs = []
    for name in ("calm", "rough"):
        runs.append(tmp_path / name)
        for file in storage.list_files(f"{place.url}/runs/{name}"):
            source = f"{place.url}/runs/{name}/{file}"
            storage.download(source, str(tmp_path / name / file))
    assert_same_results(*runs)


def _check_history(history: list[Ended]) -> None:
    assert set(history[:2]) == {Ended(0, 143, "Ignore"), Ended(1, 143, "Ignore")}
    assert (Ended(1, 137, "Count") in history) == FULL
    assert (Ended(0, 75, "Ignore") in history) == FULL
    assert set(history[-2:]) == {Ended(0, 0, "Done"), Ended(1, 0, "Done")}


def _check_words(logs: str, status: str) -> None:
    """What the launcher printed meanwhile."""
    row = status.splitlines()[1].split()
    assert row[0] == "rough"
    assert row[1] in ("running", "training")
    assert "rough-1-00001: Running" in status
    logs = re.sub(r"(?<=\] )\d\d:\d\d:\d\d ", "", logs)
    for words in (
        "[1] Batch: 4 examples in all, 2 a replica: 2 workers",
        "[0] verdict: nothing found that would stop the training",
        "[1] stopped by SIGTERM after saving at step",
        "[1] --- goes on in pod rough-1-",
        "[0] Resuming from",
        "[0] epoch 4/4: ",
        "[0] Done: open gs://",
    ):
        assert words in logs, logs


def assert_same_results(ours: Path, theirs: Path) -> None:
    for kind in ("last", "best"):
        one, other = (tensors(x / "checkpoints" / kind) for x in (ours, theirs))
        assert one.keys() == other.keys()
        assert len(one) > 30
        for name, value in one.items():
            np.testing.assert_array_equal(value, other[name], err_msg=name)
    assert (ours / "scores.json").read_bytes() == (theirs / "scores.json").read_bytes()
    images = tf.constant(
        np.arange(2 * 40 * 70 * 3).reshape(2, 40, 70, 3) % 256, "uint8"
    )
    labels = [
        tf.saved_model.load(str(run / "export")).signatures["serving_default"](
            images=images
        )["labels"]
        for run in (ours, theirs)
    ]
    assert labels[0].shape == (2, 40, 70)
    np.testing.assert_array_equal(*labels)


# the controller itself


def policy(name: str) -> manifest.Object:
    job = manifest.job_of(manifest.load(f"k8s/{name}.yaml"))
    return job["spec"]["podFailurePolicy"]


@pytest.mark.parametrize(
    ("name", "codes", "disrupted", "action"),
    [
        ("train-job", {"trainer": 42}, False, "FailJob"),
        ("train-job", {"preflight": 42}, False, "FailJob"),
        ("train-job", {"trainer": 42}, True, "FailJob"),
        ("train-job", {"trainer": 137}, True, "Ignore"),
        ("train-job", {"trainer": 137}, False, "Count"),
        ("train-job", {"preflight": 0, "trainer": 143}, False, "Ignore"),
        ("train-job", {"trainer": 75}, False, "Count"),
        ("train-multiworker", {"trainer": 75}, False, "Ignore"),
        ("train-multiworker", {"preflight": 75}, False, "Count"),
        ("train-multiworker", {"preflight": 143}, False, "Ignore"),
        ("convert-job", {"trainer": 1}, False, "Count"),
    ],
)
def test_each_end_of_a_pod_means_what_the_manifest_says(
    name: str, codes: dict[str, int], disrupted: bool, action: str
) -> None:
    conditions = [{"type": "DisruptionTarget", "status": "True"}] if disrupted else []
    assert decide(policy(name), {"conditions": conditions}, codes)[0] == action


def test_variables_are_expanded_as_kubernetes_expands_them() -> None:
    values = {"A": "1", "B-x": "2"}
    text = "$(A)/$(B-x)/$(C)/$$(A)/$A"
    assert expand(text, values) == "1/2/$(C)/$(A)/$A"
