"""NumPy functions inside TensorFlow's pipelines, and what they need at the end.

TensorFlow's threads call them, and each call needs Python. Where a pipeline still makes
batches while the interpreter ends, the process hangs or aborts: the interpreter waits
for the pipeline, and the pipeline for the interpreter. So before the end new calls are
refused, which fills the pipelines' queues with errors at once, and then all is quiet.
"""

from __future__ import annotations

import atexit
import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

_QUIET_S, _PATIENCE_S = 0.05, 10.0

_ending = threading.Event()
_calls = itertools.count()
_running: set[int] = set()


def numpy_function(
    function: Callable[..., Any], arguments: Sequence[tf.Tensor], types: Sequence[Any]
) -> Any:
    """`tf.numpy_function` for pure functions, safe at the end of the process.

    Args:
      function: NumPy arrays -> NumPy arrays.
      arguments: what it is called with.
      types: of what it returns.
    """

    def call(*arrays: Any) -> Any:
        number = next(_calls)
        if _ending.is_set():
            raise RuntimeError("the process ends")
        _running.add(number)
        try:
            return function(*arrays)
        finally:
            _running.discard(number)

    return tf.numpy_function(call, arguments, types, stateful=False)


@atexit.register
def _end() -> None:
    """Refuses calls, and waits until none has come for a while and none is running."""
    _ending.set()
    before = next(_calls)
    if before == 0:
        return
    for _ in range(round(_PATIENCE_S / _QUIET_S)):
        threading.Event().wait(_QUIET_S)
        now = next(_calls)
        if now == before + 1 and not _running:
            return
        before = now
