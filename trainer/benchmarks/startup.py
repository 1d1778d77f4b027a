"""From the start of a process to its first training step, beside bare TensorFlow."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time

from trainer import dataset
from trainer.benchmarks import memory
from trainer.benchmarks.measurements import Measurement
from trainer.benchmarks.settings import Settings
from trainer.engine.pace import FIRST_STEP
from trainer.errors import SeamlineError


def measure(settings: Settings) -> list[Measurement]:
    """Seconds and peak memory of `trainer.task` until its first step is done.

    Beside it TensorFlow is imported, builds the same network and makes one step on
    zeros with Keras' cross-entropy, and nothing else. Weights are random: nothing is
    downloaded. All else of the recipe, its loss too, is `trainer.task`'s.

    Raises:
      SeamlineError: a value, file or folder that only the user can mend.
    """
    recipe = settings.recipe
    records_dir = dataset.prepare(**settings.data).records_dir
    names = ("encoder", "decoder", "image_size", "batch_size", "optimizer")
    shape = [f"--{name}={getattr(recipe, name)}" for name in names]
    others = ("loss", "augment", "ema", "clip_norm", "preprocessing")
    rest = [f"--{name}={getattr(recipe, name)}" for name in others]
    rest += ["--encoder_weights=none", "--encoder_training=full"]
    found: dict[str, list[tuple[float, float]]] = {"task": [], "bare": []}
    for _ in range(settings.repeats):
        with tempfile.TemporaryDirectory(prefix="seamline-") as run_dir:
            places = [f"--records_dir={records_dir}", f"--run_dir={run_dir}"]
            task = ["trainer.task", *places, *shape, *rest]
            found["task"].append(_until_first_step(task))
        bare = ["trainer.benchmarks.bare_step", *shape]
        found["bare"].append(_until_first_step(bare))
    ratios = [
        one[0] / other[0]
        for one, other in zip(found["task"], found["bare"], strict=True)
    ]
    what = f"{recipe.encoder}, batch {recipe.batch_size} at {recipe.image_size}²"
    rows = [
        Measurement(
            "startup.vs_bare_tensorflow",
            statistics.median(ratios),
            "",
            f"seconds to the first step / bare TensorFlow's; {len(ratios)} turns, "
            f"{min(ratios):.2f} to {max(ratios):.2f}",
        )
    ]
    for name, turns in found.items():
        seconds, megabytes = (statistics.median(x) for x in zip(*turns, strict=True))
        rows += [
            Measurement(f"startup.{name}_seconds", seconds, "s", what),
            Measurement(f"startup.{name}_peak_memory_mb", megabytes, "MB", what),
        ]
    return rows


def _until_first_step(command: list[str]) -> tuple[float, float]:
    """Seconds, and peak memory in MB, until a command says so; then it is ended."""
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-u", "-m", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None, "a pipe was asked for"
        said = ""
        for line in process.stdout:
            said += line
            if FIRST_STEP in line:
                break
        seconds = time.perf_counter() - began
        # What the kernel says when it has ended would be our own peak, if greater.
        megabytes = memory.peak_kb(process.pid) / 1024
        process.kill()
    if FIRST_STEP not in said:
        raise SeamlineError(f"python -m {command[0]}: made no step; it said:\n{said}")
    return seconds, megabytes
