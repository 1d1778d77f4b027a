"""`trainer.task` that sends itself a signal at a chosen moment.

    python -m tests.survival EVENT NUMBER SIGNAL --flags...

The signal comes at the NUMBER-th EVENT of this process; "none" runs undisturbed. There
is one step a host call, and the encoder `tiny`.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tests import tiny
from trainer import flags as shared
from trainer import pipeline, storage, task
from trainer.engine import loop, pace, state, telling
from trainer.engine.shelf import Shelf

EVENTS: dict[str, tuple[Any, str, bool]] = {
    "before a step": (loop.Training, "_call", False),
    "after a step": (loop.Training, "_call", True),
    "before a save": (tf.train.Checkpoint, "write", False),
    "before its list": (tf.train.Checkpoint, "write", True),
    "after a save": (Shelf, "save", True),
    "removing the old": (storage, "remove_file", False),
    "validated": (telling, "epoch_row", False),
    "before the best": (state.Checkpoints, "save_best", False),
    "after the best": (state.Checkpoints, "save_best", True),
    "before the history": (state.History, "append", False),
    "after the history": (state.History, "append", True),
    "loading": (pipeline, "open_input", True),
    "scoring": (pipeline.evaluation, "evaluate", False),
    "exporting": (pipeline, "export_model", False),
    "reporting": (pipeline, "publish", False),
}
"""What is patched, and whether the moment is after it."""


def signal_at(event: str, number: int, name: str) -> None:
    """Arranges for the signal."""
    left = [number]

    def count() -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), getattr(signal, name))

    if event == "between data and index":
        _tear(count, left)
    elif event == "validating":
        _interrupt_validation(count)
    else:
        owner, attribute, after = EVENTS[event]
        original = getattr(owner, attribute)

        @functools.wraps(original)
        def wrapped(*values: Any, **named: Any) -> Any:
            if not after:
                count()
            result = original(*values, **named)
            if after:
                count()
            return result

        setattr(owner, attribute, wrapped)


def _tear(count: Callable[[], None], left: list[int]) -> None:
    """A save has its data in place and not yet its index, as TensorFlow goes."""
    write = tf.train.Checkpoint.write

    def torn(self: Any, path: str, *values: Any) -> Any:
        result = write(self, path, *values)
        if left[0] == 1:
            storage.remove_file(f"{path}.index")
        count()
        return result

    tf.train.Checkpoint.write = torn


def _interrupt_validation(count: Callable[[], None]) -> None:
    compile_validation = loop.compile_validation

    def interrupted(job: Any) -> Callable[[], Any]:
        validate = compile_validation(job)

        def run() -> Any:
            count()
            return validate()

        return run

    loop.compile_validation = interrupted


if __name__ == "__main__":
    event, number, name = sys.argv[1:4]
    del sys.argv[1:4]
    tiny.register()
    if event != "none":
        pace._MOST_STEPS_A_CALL = 1
        signal_at(event, int(number), name)
    shared.run(task.main)
