"""A run from records in a bucket to results in a bucket, without a local copy."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import SMALL
from tests.forks import COMMON, Command
from tests.gcs import Cloud
from tests.gcs_gate import Request
from trainer import storage


@dataclasses.dataclass
class Place:
    """Where commands of this module work.

    Attributes:
      cloud: the server.
      url: of the bucket.
      work: the working directory of commands, empty.
      temporary: the folder for temporary files, empty.
    """

    cloud: Cloud
    url: str
    work: Path
    temporary: Path

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Starts `python -m trainer.…` as a user with access to the bucket would."""
        return Command(
            *arguments,
            cwd=self.work,
            env={
                **{**os.environ, **COMMON, **self.cloud.env},
                "TMPDIR": str(self.temporary),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code and what a command wrote to stdout and stderr."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    def files(self, folder: str) -> dict[str, int]:
        """Names and sizes; without TensorFlow's marks of empty folders."""
        blobs = self.cloud.client.list_blobs(self.url[len("gs://") :])
        sizes = {blob.name: blob.size for blob in blobs if blob.name[-1] != "/"}
        start = f"{folder}/"
        return {k[len(start) :]: n for k, n in sizes.items() if k.startswith(start)}

    def read(self, name: str) -> bytes:
        bucket = self.cloud.client.bucket(self.url[len("gs://") :])
        return bucket.blob(name).download_as_bytes()


@pytest.fixture(scope="module")
def place(
    cloud_server: Cloud, records_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Place:
    """A bucket with records and photos."""
    name = cloud_server.new_bucket()
    bucket = cloud_server.client.bucket(name)
    for path in storage.list_files(str(records_dir)):
        bucket.blob(f"records/{path}").upload_from_filename(str(records_dir / path))
    work, temporary = (tmp_path_factory.mktemp(x) for x in ("work", "temporary"))
    return Place(cloud_server, f"gs://{name}", work, temporary)


def training(place: Place) -> list[str]:
    places = (f"--records_dir={place.url}/records", f"--run_dir={place.url}/run")
    return ["trainer.task", *places, *SMALL, "--epochs=2"]


@pytest.fixture(scope="module")
def killed(place: Place) -> Place:
    """A training killed in the middle of the checkpoint of its second epoch."""
    started = threading.Event()

    def kill(request: Request) -> int | None:
        if not re.search("last/ckpt-4_temp/.*/rewriteTo/", request.path):
            return None
        started.wait()
        process.kill()
        process.wait()
        return 503

    with place.cloud.watching(kill):
        process = place.start(*training(place))
        started.set()
        out, err = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, out + err
    return place


@pytest.fixture(scope="module")
def finished(killed: Place) -> tuple[Place, str]:
    """The bucket after the same command went on, and what it printed.

    A quarter of its requests was answered with 503.
    """
    assert any("_temp/part" in name for name in killed.files("run"))
    for left in killed.temporary.iterdir():
        left.unlink()
    with killed.cloud.failing(1 / 4):
        code, out, err = killed.run(*training(killed))
    assert code == 0, out + err
    return killed, out


def test_a_killed_training_goes_on_from_its_last_checkpoint_in_the_bucket(
    finished: tuple[Place, str],
) -> None:
    place, out = finished
    assert f"Resuming from {place.url}/run/checkpoints/last/ckpt-2: 1 epochs" in out
    rows = [json.loads(x) for x in place.read("run/history.jsonl").splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]


def test_a_run_leaves_in_a_bucket_what_it_leaves_on_a_disk(
    finished: tuple[Place, str], finished_run: Path
) -> None:
    def general(name: str) -> str:
        name = re.sub(r"ckpt-\d+", "ckpt-STEP", name)
        return re.sub(r"tfevents\..*", "tfevents.", name)

    here = finished[0].files("run")
    there = storage.list_files(str(finished_run))
    assert {general(name) for name in here} == {general(name) for name in there}
    assert all(here.values())
    assert "report.html" in here


def test_nothing_is_left_on_the_local_disk(finished: tuple[Place, str]) -> None:
    place, _ = finished
    assert os.listdir(place.work) == os.listdir(place.temporary) == []


def test_a_run_in_a_bucket_is_scored_into_a_bucket(finished: tuple[Place, str]) -> None:
    place, _ = finished
    code, out, err = place.run(
        "trainer.evaluate",
        f"--run_dir={place.url}/run",
        f"--output={place.url}/scored/scores.json",
    )
    assert code == 0, out + err
    scored, own = (
        json.loads(place.read(f"{name}/scores.json")) for name in ("scored", "run")
    )
    asked = ("label_groups", "test_time", "checkpoint")
    assert scored == {**own, **{name: scored[name] for name in asked}}


def test_an_exported_model_in_a_bucket_predicts_photos_of_a_bucket(
    finished: tuple[Place, str], drawn: Path
) -> None:
    place, _ = finished
    bucket = place.cloud.client.bucket(place.url[len("gs://") :])
    photo = sorted((drawn / "photos").iterdir())[0]
    bucket.blob(f"photos/{photo.name}").upload_from_filename(str(photo))
    code, out, err = place.run(
        "trainer.predict",
        f"--model={place.url}/run/export",
        f"--input={place.url}/photos",
        f"--output_dir={place.url}/predictions",
    )
    assert code == 0, out + err
    made = place.files("predictions")
    assert sorted(made) == [
        f"{photo.stem}.{x}" for x in ("json", "labels.png", "overlay.jpg")
    ]
    labels = np.frombuffer(place.read(f"predictions/{photo.stem}.labels.png"), np.uint8)
    size = cv2.imdecode(labels, cv2.IMREAD_GRAYSCALE).shape
    assert size == cv2.imread(str(photo)).shape[:2]
    assert os.listdir(place.work) == os.listdir(place.temporary) == []


def test_a_run_directory_in_a_bucket_that_does_not_exist_is_one_clear_error(
    place: Place,
) -> None:
    code, _, err = place.run(
        "trainer.task",
        f"--records_dir={place.url}/records",
        "--run_dir=gs://typo/run",
        *SMALL,
    )
    assert code == 42
    assert err.startswith("error: gs://typo/run/")
    assert "there is no bucket 'typo'" in err
    assert err.count("\n") == 1


def test_missing_rights_to_write_are_one_clear_error(place: Place) -> None:
    def forbid(request: Request) -> int | None:
        return 403 if request.method in ("POST", "PUT") else None

    with place.cloud.watching(forbid):
        code, _, err = place.run(
            "trainer.task",
            f"--records_dir={place.url}/records",
            f"--run_dir={place.url}/forbidden",
            *SMALL,
        )
    assert code == 42
    assert err.startswith(f"error: {place.url}/forbidden/")
    assert "no permission" in err
    assert err.count("\n") == 1
    assert place.files("forbidden") == {}
