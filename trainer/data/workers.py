"""Worker processes: results in the order of the tasks, few of them waiting."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import cv2

from trainer import machine
from trainer.errors import Unavailable

Task = TypeVar("Task")
Result = TypeVar("Result")

_WORKER_MEMORY = 512 << 20


def default_workers() -> int:
    """One a processor, and fewer where the memory would not do."""
    affordable = machine.memory_limit() // _WORKER_MEMORY
    return max(1, min(machine.cpu_limit(), affordable))


class Workers:
    """Runs functions in processes of their own, or here when there is one alone."""

    def __init__(
        self, executor: concurrent.futures.Executor | None, count: int
    ) -> None:
        self._executor, self._count = executor, count

    def map(
        self, function: Callable[[Task], Result], tasks: Iterable[Task]
    ) -> Iterator[Result]:
        """Yields `function(task)` in order, a few tasks a worker ahead at most.

        Raises:
          Unavailable: a worker was killed from outside.
        """
        if self._executor is None:
            yield from map(function, tasks)
            return
        waiting: collections.deque[concurrent.futures.Future] = collections.deque()
        try:
            for task in tasks:
                waiting.append(self._executor.submit(function, task))
                if len(waiting) > 3 * self._count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise Unavailable(
                f"one of {self._count} workers was killed, most often for want of "
                "memory; try again with fewer: --workers=1"
            ) from error


@contextlib.contextmanager
def start(count: int, *, preload: str) -> Iterator[Workers]:
    """`count` worker processes until the end of the block; 1: none.

    Args:
      count: how many.
      preload: module to import once for all of them.
    """
    if count == 1:
        yield Workers(None, 1)
        return
    # Not fork: TensorFlow's threads would not survive it. Not spawn: every worker would
    # import anew what the fork server has.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    executor = concurrent.futures.ProcessPoolExecutor(
        count, mp_context=context, initializer=_begin, initargs=(dict(os.environ),)
    )
    try:
        yield Workers(executor, count)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _begin(environment: dict[str, str]) -> None:
    # The fork server has that of its start; credentials may have been set since.
    os.environ.clear()
    os.environ.update(environment)
    cv2.setNumThreads(1)
    # Ctrl-C reaches the whole group; the parent alone decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker waits for tasks for ever when its parent is killed; this ends it."""
    parent: Any = multiprocessing.parent_process()
    parent.join()
    os._exit(1)
