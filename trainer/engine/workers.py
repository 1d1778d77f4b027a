"""What workers agree on, and what becomes of them when one is lost.

All of it goes through the strategy's own all-reduce. On one worker nothing is sent.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import re
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.engine import cluster
from trainer.engine.cluster import Cluster
from trainer.errors import EXIT_TRY_AGAIN, SeamlineError, Unavailable

HEARTBEAT_S = 20
"""A worker that is silent for so long counts as lost."""

_LEAVE_S = 20.0
_LOST = (
    *(tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError),
    *(tf.errors.DeadlineExceededError, tf.errors.FailedPreconditionError),
    *(tf.errors.InternalError, tf.errors.UnknownError),
)
_UNEQUAL = "joining a group with size"
_TASK = re.compile(r"/task:(\d+)")
_CAUSE = re.compile(r"ollective ops is aborted by: (.*)|(.*/task:\d+.*)")


def start(found: Cluster, timeout_s: float) -> tf.distribute.Strategy:
    """TensorFlow's strategy over all workers; all must have been started."""
    # How long a silent worker is waited for can be set nowhere else.
    from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
    from tensorflow.python.eager import context

    workers = len(found.addresses)
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader="/job:worker/replica:0/task:0",
        cluster_register_timeout_in_ms=int(timeout_s * 1000),
        heartbeat_timeout_in_ms=HEARTBEAT_S * 1000,
        coordinated_jobs=[
            coordination_config_pb2.CoordinatedJob(name="worker", num_tasks=workers)
        ],
    )
    handler = signal.getsignal(signal.SIGTERM)
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(found.addresses)}),
        task_type="worker",
        task_id=found.index,
        num_accelerators={"GPU": len(tf.config.list_physical_devices("GPU"))},
        rpc_layer="grpc",
    )
    strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver)
    # TensorFlow's server takes SIGTERM for itself, and does nothing.
    signal.signal(signal.SIGTERM, handler)
    return strategy


def count(strategy: tf.distribute.Strategy) -> int:
    """How many workers."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 1
    return strategy.cluster_resolver.cluster_spec().num_tasks("worker")


def index(strategy: tf.distribute.Strategy) -> int:
    """Which of the workers this process is."""
    return strategy.cluster_resolver.task_id if count(strategy) > 1 else 0


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this is worker 0, which alone writes; true on one worker."""
    return index(strategy) == 0


def compile_table(
    strategy: tf.distribute.Strategy,
) -> Callable[[Sequence[int]], np.ndarray]:
    """Values of this worker, int `[K]` -> those of all, int64 `[workers, K]`.

    All workers must call it together, with as many values.
    """
    workers, own = count(strategy), index(strategy)
    if workers == 1:
        return lambda values: np.array([values], np.int64)
    add = _compile_addition(strategy)
    local = strategy.num_replicas_in_sync // workers

    def table(values: Sequence[int]) -> np.ndarray:
        rows = np.zeros((workers, len(values)), np.int64)
        rows[own] = values
        return add(tf.constant(rows)).numpy() // local

    return table


@functools.cache
def _compile_addition(
    strategy: tf.distribute.Strategy,
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Adds up int64 `[workers, K]` over all replicas."""

    def replica(part: tf.Tensor) -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        # An argument lies on no device of the replica's yet.
        part = tf.identity(part)
        return context.all_reduce(tf.distribute.ReduceOp.SUM, part)

    @tf.function(input_signature=[tf.TensorSpec([count(strategy), None], tf.int64)])
    def add(table: tf.Tensor) -> tf.Tensor:
        added = strategy.run(replica, args=(table,))
        return strategy.experimental_local_results(added)[0]

    return add


def compile_agreement(
    strategy: tf.distribute.Strategy,
) -> Callable[..., tuple[int, ...]]:
    """(values of this worker) -> for each, the greatest over all workers.

    All workers must call it together. What the chief alone decides is 0 elsewhere.
    """
    table = compile_table(strategy)
    return lambda *values: tuple(int(x) for x in table(values).max(axis=0))


def from_chief(strategy: tf.distribute.Strategy, text: str) -> str:
    """The chief's text, on every worker. All must call it together."""
    if count(strategy) == 1:
        return text
    table, chief = compile_table(strategy), is_chief(strategy)
    content = text.encode()
    [length] = table([len(content)])[0]
    sent = list(content) if chief else [0] * length
    return bytes(table(sent)[0].tolist()).decode()


def copy_chief(strategy: tf.distribute.Strategy, tracked: object) -> None:
    """Gives every replicated number that a checkpoint of `tracked` holds the chief's.

    All workers must call it together.
    """
    if count(strategy) == 1:
        return
    view = tf.train.TrackableView(tracked)
    numbers: dict[tf.DType, list[tf.Variable]] = {}
    for found in view.descendants():
        variable = found.value if isinstance(found, keras.Variable) else found
        # Others, such as a checkpoint's own counter, are the chief's alone.
        if _is_replicated(strategy, variable):
            kind = variable.dtype if variable.dtype.is_floating else tf.int64
            numbers.setdefault(kind, []).append(variable)

    def replica(kind: tf.DType) -> list[tf.Tensor]:
        context = tf.distribute.get_replica_context()
        chief = tf.equal(context.replica_id_in_sync_group, 0)
        # x + -0.0 is x, whatever x is; -0.0 + 0.0 would be 0.0.
        nothing = tf.constant(0, kind) if kind.is_integer else tf.constant(-0.0, kind)
        sent = [tf.where(chief, tf.cast(x, kind), nothing) for x in numbers[kind]]
        return context.all_reduce(tf.distribute.ReduceOp.SUM, sent)

    @tf.function
    def copy() -> None:
        for kind, variables in numbers.items():
            got = strategy.run(replica, args=(kind,))
            for variable, value in zip(variables, got, strict=True):
                strategy.extended.update(
                    variable, lambda x, new: x.assign(tf.cast(new, x.dtype)), (value,)
                )

    copy()


def _is_replicated(strategy: tf.distribute.Strategy, found: object) -> bool:
    return isinstance(
        found, tf.Variable
    ) and strategy.extended.variable_created_in_scope(found)


def wait_for_all(strategy: tf.distribute.Strategy) -> None:
    """Returns when all workers have called it."""
    compile_table(strategy)([0])


def scratch_folder() -> str:
    """A folder for what only the chief's run directory keeps; gone at the end."""
    folder = tempfile.mkdtemp(prefix="seamline-worker-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def refuse_difference(
    strategy: tf.distribute.Strategy, values: Mapping[str, Any]
) -> None:
    """Refuses workers that were started with other values than the chief.

    All workers must call it together; all raise.

    Raises:
      SeamlineError: what differs.
    """
    chiefs = json.loads(from_chief(strategy, json.dumps(values)))
    differing = [
        f"{name}: {chiefs.get(name)} at worker 0, {values[name]} here"
        for name in sorted(values)
        if values[name] != chiefs.get(name)
    ]
    rows = compile_table(strategy)([len(differing)])[:, 0]
    if rows.any():
        raise SeamlineError(
            f"worker {rows.argmax()} was started with other values than worker 0 "
            f"({'; '.join(differing) or 'its log shows them'}); start all workers with "
            "the same command"
        )


@contextlib.contextmanager
def lost_worker_explained() -> Iterator[None]:
    """Raises `Unavailable` for what TensorFlow says when a worker is lost.

    Raises:
      Unavailable: one was; the others may go on when all are started again.
      SeamlineError: they have different numbers of devices.
    """
    try:
        yield
    except _LOST as error:
        found = cluster.read_cluster(os.environ)
        names = found.addresses if found else ()
        if _UNEQUAL in str(error):
            _leave_for_certain(SeamlineError.exit_code)
            raise SeamlineError(
                "the workers have different numbers of devices; give all of them as "
                "many GPUs, or the same --num_virtual_devices"
            ) from error
        cause = _CAUSE.search(str(error))
        if not names or not cause:
            raise
        _leave_for_certain(EXIT_TRY_AGAIN)
        task = _TASK.search(str(error))
        who = "a worker"
        if task and int(task[1]) < len(names):
            who = f"worker {task[1]} ({names[int(task[1])]})"
        elif found and found.index:
            # Nobody is named where worker 0 is silent, which would have to name it.
            who = f"worker 0 ({names[0]})"
        raise Unavailable(
            f"{who} was lost ({(cause[1] or cause[2]).strip()[:200]}); the same "
            "command on all workers goes on from the last checkpoint"
        ) from error


def _leave_for_certain(code: int) -> None:
    """Ends the process soon, even where TensorFlow hangs when it is taken down."""
    timer = threading.Timer(_LEAVE_S, os._exit, [code])
    timer.daemon = True
    timer.start()
