"""Which devices train: one device, all GPUs of a machine, or those of several."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from trainer import machine
from trainer.data.inputs import Share
from trainer.engine import cluster, workers
from trainer.engine.cluster import Cluster
from trainer.errors import SeamlineError

log = logging.getLogger("seamline")

DRIVER = "/proc/driver/nvidia"
"""Where the driver of NVIDIA's GPUs shows itself."""

STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker")


def build_strategy(
    name: str, *, num_virtual_devices: int = 0
) -> tf.distribute.Strategy:
    """Builds the strategy and says what was chosen, and why.

    Args:
      name: "one_device"; "mirrored": all devices of this machine; "multi_worker": those
        of all workers; or "auto": multi_worker where the environment names several
        workers (see `cluster`), else mirrored on several devices.
      num_virtual_devices: split the CPU into so many logical devices, to try several
        replicas without GPUs; 0: don't. Must come before TensorFlow's first op.

    Raises:
      SeamlineError: a strategy that this machine or environment cannot run.
      Unavailable: not all workers have been started.
    """
    if name not in STRATEGIES:
        raise SeamlineError(f"--strategy={name}: choose one of {', '.join(STRATEGIES)}")
    found = find_workers(name)
    _fit_threads()
    if found:
        return _over_workers(name, found, num_virtual_devices)
    devices = local_devices(name, num_virtual_devices=num_virtual_devices)
    strategy: tf.distribute.Strategy
    if name != "one_device" and (name == "mirrored" or len(devices) > 1):
        strategy = tf.distribute.MirroredStrategy(devices)
    else:
        strategy = tf.distribute.OneDeviceStrategy(devices[0])
    log.info(
        "Devices: %s on %d of %d: %s (--strategy=%s)",
        type(strategy).__name__,
        strategy.num_replicas_in_sync,
        len(devices),
        ", ".join(devices),
        name,
    )
    return strategy


def find_workers(name: str) -> Cluster | None:
    """The workers that the environment names; None for fewer than two.

    Args, Raises: see `build_strategy`; none of them is waited for.
    """
    found = cluster.read_cluster(os.environ)
    _refuse_misfit(name, found)
    return found if found and len(found.addresses) > 1 else None


def _refuse_misfit(name: str, found: Cluster | None) -> None:
    if name == "multi_worker" and found is None:
        raise SeamlineError(
            "--strategy=multi_worker: the environment names no workers; set TF_CONFIG, "
            "or start k8s/train-multiworker.yaml"
        )
    if name in ("one_device", "mirrored") and found and len(found.addresses) > 1:
        raise SeamlineError(
            f"--strategy={name}: {found.source} names {len(found.addresses)} workers, "
            "and each would train alone; use multi_worker or unset it"
        )


def _over_workers(
    name: str, found: Cluster, num_virtual_devices: int
) -> tf.distribute.Strategy:
    total = len(found.addresses)
    log.info(
        "Workers: this is number %d of %d (0 .. %d), by %s",
        *(found.index, total, total - 1, found.source),
    )
    # Reading addresses and waiting need no TensorFlow device; splitting the CPU must
    # come before TensorFlow uses one.
    if num_virtual_devices:
        _split_cpu(num_virtual_devices)
    else:
        _check_gpus(name, len(tf.config.list_physical_devices("GPU")))
    cluster.meet(found, cluster.START_TIMEOUT_S)
    with _virtual_devices(num_virtual_devices):
        strategy = workers.start(found, cluster.START_TIMEOUT_S)
    replicas = strategy.num_replicas_in_sync
    log.info(
        "Devices: MultiWorkerMirroredStrategy on %d workers with %d replicas each, %d "
        "in all (--strategy=%s)",
        *(total, replicas // total, replicas, name),
    )
    return strategy


@contextlib.contextmanager
def _virtual_devices(count: int) -> Iterator[None]:
    """Makes TensorFlow's strategy take so many CPUs of each worker.

    It would take one: several CPUs are of use for trials only.
    """
    if not count:
        yield
        return
    from tensorflow.python.distribute import collective_all_reduce_strategy

    owner = collective_all_reduce_strategy.CollectiveAllReduceExtended
    before = owner._initialize_local_devices

    def devices(
        self: object, resolver: object, worker: str
    ) -> tuple[tuple[str, ...], str]:
        del self, resolver
        return tuple(f"{worker}/device:CPU:{i}" for i in range(count)), "CPU"

    owner._initialize_local_devices = devices
    try:
        yield
    finally:
        owner._initialize_local_devices = before


def _fit_threads() -> None:
    """Gives TensorFlow as many threads as this process has processors.

    It starts one for each that it sees, whatever the container's quota is; the kernel
    stops them all together once they have used it up.
    """
    count, seen = machine.cpu_limit(), machine.visible_cpus()
    if count >= seen:
        return
    source = machine.cpu_source()
    try:
        tf.config.threading.set_intra_op_parallelism_threads(count)
        tf.config.threading.set_inter_op_parallelism_threads(count)
    except RuntimeError:
        log.info(
            "Threads: TensorFlow keeps those it has started for %d visible processors, "
            "though it may use %d: %s",
            seen,
            count,
            source,
        )
        return
    log.info(
        "Threads: TensorFlow gets %d, though %d processors are visible: %s",
        count,
        seen,
        source,
    )


def local_devices(name: str, *, num_virtual_devices: int = 0) -> list[str]:
    """The devices of this machine that may train; all of its GPUs, else its CPU.

    Args, Raises: see `build_strategy`.
    """
    if num_virtual_devices:
        _split_cpu(num_virtual_devices)
        return [f"/cpu:{index}" for index in range(num_virtual_devices)]
    gpus = tf.config.list_logical_devices("GPU")
    _check_gpus(name, len(gpus))
    return [f"/gpu:{index}" for index in range(len(gpus))] or ["/cpu:0"]


def _split_cpu(parts: int) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * parts
        )
    except RuntimeError as error:
        raise SeamlineError(
            f"--num_virtual_devices={parts}: the CPU is in use already; a process can "
            "split it only once"
        ) from error


def _check_gpus(name: str, gpus: int) -> None:
    """Never falls back to the CPU of a GPU machine in silence."""
    # The node's driver shows in its pods too, also in one that asks for no GPU.
    unasked = os.environ.get("SEAMLINE_GPUS") == "0"
    if gpus or unasked or not os.path.exists(DRIVER):
        return
    if name in ("mirrored", "multi_worker"):
        raise SeamlineError(
            f"--strategy={name}: {DRIVER} says that there are GPUs, but TensorFlow "
            "sees none; pip install 'tensorflow[and-cuda]'"
        )
    log.info(
        "Note: TensorFlow sees no GPU, though %s is there; training on the CPU. "
        "pip install 'tensorflow[and-cuda]' mends it",
        DRIVER,
    )


def log_batches(strategy: tf.distribute.Strategy, batch_size: int) -> None:
    """Says how the global batch is shared."""
    replicas = strategy.num_replicas_in_sync
    log.info(
        "Batch: %d examples in all, %d a replica: %d workers, %d replicas",
        *(batch_size, batch_size // replicas, workers.count(strategy), replicas),
    )


def share_of(strategy: tf.distribute.Strategy) -> Share:
    """The part of each global batch that this process makes."""
    replicas = strategy.num_replicas_in_sync
    local = replicas // workers.count(strategy)
    return Share(pieces=replicas, first=workers.index(strategy) * local, local=local)


def distribute(strategy: tf.distribute.Strategy, dataset: tf.data.Dataset) -> Any:
    """This process's batches, one element a replica, as `strategy.run` takes them.

    One replica without a GPU needs no distributed dataset, whose iterators let
    TensorFlow's autotuner run whatever the options of the dataset say. When one of them
    is dropped, TensorFlow 2.21 may wait until that next wakes, after sleeps of 10 ms,
    20 ms and so on up to a minute: a training of 50 s ended 32 s late.
    """
    if strategy.num_replicas_in_sync > 1 or tf.config.list_logical_devices("GPU"):
        return strategy.distribute_datasets_from_function(lambda _: dataset)
    return dataset
