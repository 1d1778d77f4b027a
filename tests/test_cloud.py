"""A run from records in a bucket to results in a bucket, without a local copy."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, SMALL
from tests.gcs import Cloud
from trainer import storage


@dataclasses.dataclass
class Place:
    """Where commands of this module work.

    Attributes:
      cloud: the server.
      url: of the bucket.
      work: the working directory of commands, empty.
      home: stands for the user's home and holds `tmp`, for temporary files.
    """

    cloud: Cloud
    url: str
    work: Path
    home: Path

    def run(
        self, *arguments: str, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs `python -m trainer.…` as a user with access to the bucket would."""
        env = {
            **os.environ,
            **self.cloud.env,
            "PYTHONPATH": str(ROOT),
            "CUDA_VISIBLE_DEVICES": "",
            "HOME": str(self.home),
            "TMPDIR": str(self.home / "tmp"),
            **variables,
        }
        command = [sys.executable, "-m", *arguments]
        return subprocess.run(
            command, cwd=self.work, env=env, capture_output=True, text=True, timeout=300
        )

    def task(self, *flags: str) -> subprocess.CompletedProcess[str]:
        """Trains on the records in the bucket into its folder `run`."""
        places = (f"--records_dir={self.url}/records", f"--run_dir={self.url}/run")
        return self.run("trainer.task", *places, *SMALL, *flags)

    def names(self) -> list[str]:
        """All files in the bucket; without TensorFlow's marks of empty folders."""
        names = self.cloud.names(self.url[len("gs://") :])
        return [name for name in names if not name.endswith("/")]


@pytest.fixture(scope="module")
def place(
    cloud_server: Cloud, records_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Place:
    """A bucket with records."""
    work, home = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("home")
    (home / "tmp").mkdir()
    name = cloud_server.new_bucket()
    bucket = cloud_server.client.bucket(name)
    for path in storage.list_files(str(records_dir)):
        bucket.blob(f"records/{path}").upload_from_filename(str(records_dir / path))
    return Place(cloud_server, f"gs://{name}", work, home)


@pytest.fixture(scope="module")
def trained(place: Place) -> Place:
    """The bucket after a training of one epoch."""
    done = place.task("--epochs=1")
    assert done.returncode == 0, done.stdout + done.stderr
    return place


def test_a_run_leaves_in_the_bucket_what_it_leaves_on_a_disk(
    trained: Place, finished_run: Path
) -> None:
    here = {
        name[len("run/") :] for name in trained.names() if name.startswith("run/")
    }
    print(sorted(here), sorted(storage.list_files(str(finished_run))), list(trained.home.rglob("*")), list(trained.work.rglob("*")))
    assert 0
