"""Small real datasets that several tests read."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Tests say what holds without a GPU; one that is there would change parts and rounding.
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import tensorflow as tf

from tests import forks, tiny
from tests.gcs import bucket, cloud, cloud_server  # noqa: F401
from trainer.data import conversion, preparation, sample, sources

# Two logical CPUs, so that two replicas can be tested in this process; TensorFlow
# allows the split only before its first op.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)

tiny.rewrite_no_graphs()

# The same examples every time: a change that passes once passes again.
hypothesis.settings.register_profile("repeatable", derandomize=True, database=None)
hypothesis.settings.load_profile("repeatable")

ROOT = Path(__file__).parent.parent

LONGEST = (
    *("whole_job", "multi_worker", "survival", "task", "readme", "encoders", "cloud"),
    *("wiring", "streaming", "benchmark", "interruptions", "foreign_layouts"),
    *("inputs", "entrypoint", "cloud_conversion", "rates", "notebook"),
    "tutorial_benchmark",
)
"""The longest files, longest first: begun last, they would leave a core idle."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first."""
    order = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CCP-like folder of 14 drawn figures; tests must not change it."""
    folder = tmp_path_factory.mktemp("drawn") / "figures"
    sample.write_sample(str(folder), count=14, seed=3)
    return folder


@pytest.fixture
def dataset(drawn: Path, tmp_path: Path) -> Path:
    """A copy of `drawn` to spoil."""
    return Path(shutil.copytree(drawn, tmp_path / "figures"))


@pytest.fixture(scope="session")
def records_dir(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`drawn` as records: 11 train, 3 val; tests must not change it."""
    folder = tmp_path_factory.mktemp("records") / "drawn"
    source = sources.open_folder(str(drawn), name="drawn")
    conversion.convert(source, str(folder), **preparation.NEW_RECORDS)
    return folder


SHORT = (
    *("--encoder_weights=none", "--image_size=32", "--batch_size=4"),
    "--steps_per_epoch=2",
)
SMALL = ("--encoder=tiny", *SHORT)
"""Flags of a training that takes seconds, by `run_command`."""

SMALL_REAL = ("--encoder=mobilenetv2", *SHORT)
"""The same with an encoder that users have, which takes four times as long."""


@pytest.fixture(scope="session")
def finished_run(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run of two short epochs; tests must not change it."""
    work = tmp_path_factory.mktemp("work")
    command = ("trainer.task", f"--dataset={drawn}", *SMALL, "--epochs=2")
    done = run_command(*command, cwd=work)
    assert done.returncode == 0, done.stdout + done.stderr
    [run_dir] = (work / "runs").iterdir()
    return run_dir


def run_command(
    *arguments: str, cwd: Path, timeout: float = 300, fresh: bool = False
) -> subprocess.CompletedProcess[str]:
    """Runs `python -m trainer.…` as a user would, in a folder of its own.

    Args:
      fresh: whether by an interpreter that has imported nothing, see `tests/forks.py`.
    """
    if not fresh:
        return forks.run(*arguments, cwd=cwd, timeout=timeout)
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=cwd,
        env={**os.environ, **forks.COMMON},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
