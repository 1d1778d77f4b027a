"""Small trainings by several workers, each a process of its own on this machine.

    python -m tests.cluster '{"run_dir": …}'

trains the model of `test_engine` on the workers of `TF_CONFIG`, and leaves what came
out in `out-<worker>.npz` of the run directory's parent.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.forks import COMMON, Command


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a worker ended: exit code (negative: by that signal) and what it said."""

    code: int
    output: str


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("localhost", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def environment(ports: list[int], index: int) -> dict[str, str]:
    """Of worker `index`, one worker a port."""
    config = {
        "cluster": {"worker": [f"localhost:{port}" for port in ports]},
        "task": {"type": "worker", "index": index},
    }
    return {**os.environ, **COMMON, "TF_CONFIG": json.dumps(config)}


def run_workers(
    *arguments: str,
    cwd: Path,
    timeout: float = 200,
    frozen: int | None = None,
    killed: int | None = None,
    each: Sequence[Sequence[str]] = ((), ()),
    folders: Sequence[str] = (".", "."),
) -> list[Ended]:
    """Runs `python -m …` on so many workers until all have ended.

    One that is `frozen`, and cannot end, is killed when the others have. When one has
    been `killed`, the others must end within 60 s. `each` worker may have arguments of
    its own, and a folder below `cwd`.
    """
    workers = len(each)
    ports = free_ports(workers)
    running = [
        Command(
            *arguments,
            *each[index],
            cwd=cwd / folders[index],
            env=environment(ports, index),
            unbuffered=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for index in range(workers)
    ]
    try:
        if frozen is not None:
            for index in set(range(workers)) - {frozen}:
                running[index].wait(timeout)
            running[frozen].kill()
        if killed is not None:
            running[killed].wait(timeout)
            timeout = 60
        outputs = [each.communicate(timeout=timeout)[0] for each in running]
    finally:
        for each in running:
            each.kill()
    return [Ended(x.returncode, text) for x, text in zip(running, outputs, strict=True)]


def train_on_workers(
    run_dir: Path,
    *,
    frozen: int | None = None,
    killed: int | None = None,
    **what: Any,
) -> list[Ended]:
    """Runs `main` below with these values on two workers."""
    values = f"--what={json.dumps({'run_dir': str(run_dir), **what})}"
    lost = {"frozen": frozen, "killed": killed}
    return run_workers("tests.cluster", values, cwd=run_dir.parent, **lost)


def outcome(run_dir: Path, worker: int) -> dict[str, np.ndarray]:
    """What a worker left: `loss`, `val_loss`, `confusion`, `weight_0`, …"""
    with np.load(run_dir.parent / f"out-{worker}.npz") as arrays:
        return dict(arrays)


def steps_outcome(job: Any, count: int) -> dict[str, np.ndarray]:
    """Runs so many steps and a validation."""
    import tensorflow as tf

    from trainer.engine import steps

    batches, run_steps = steps.training_iterator(job, 0), steps.compile_training(job)
    losses = [
        float(run_steps(batches, tf.constant(1), tf.constant(step))[0])
        for step in range(count)
    ]
    found = steps.compile_validation(job)()
    return {
        "loss": np.array(losses),
        "val_loss": np.array(found.loss),
        "confusion": found.confusion,
        **weights_of(job),
    }


def weights_of(job: Any) -> dict[str, np.ndarray]:
    """All numbers of model and optimizer."""
    variables = [*job.model.variables, *job.optimizer.variables]
    return {f"weight_{i}": x.numpy() for i, x in enumerate(variables)}


def _signal_at(step: int, number: int) -> None:
    from trainer.engine import loop

    original = loop.bars.Bar.update

    def update(bar: Any, count: int, note: str = "") -> None:
        original(bar, count, note)
        if bar._done == step:
            os.kill(os.getpid(), number)

    loop.bars.Bar.update = update


def main(argv: list[str]) -> None:
    """Trains as `--what` says: steps, or to the end with a signal at a step."""
    from absl import flags

    what = json.loads(flags.FLAGS.what)
    from tests.test_engine import make_job
    from trainer.engine import loop, pace, strategy, workers

    with workers.lost_worker_explained():
        devices = strategy.build_strategy(
            "auto", num_virtual_devices=what.get("virtual", 0)
        )
        own = workers.index(devices)
        run_dir = Path(what["run_dir"])
        job = make_job(
            run_dir if own == 0 else Path(workers.scratch_folder()) / "run",
            devices,
            **what.get("changes", {}),
        )
        if "signal" in what:
            pace._MOST_STEPS_A_CALL = 1
        if what.get("signal_worker") == own:
            _signal_at(what["at_step"], getattr(signal, what["signal"]))
        if "steps" in what:
            out = steps_outcome(job, what["steps"])
        else:
            loop.train(job)
            out = weights_of(job)
        np.savez(run_dir.parent / f"out-{own}.npz", **out)
        workers.wait_for_all(devices)


if __name__ == "__main__":
    from absl import flags

    from trainer import flags as shared

    flags.DEFINE_string("what", None, "JSON")
    shared.run(main)
