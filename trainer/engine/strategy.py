"""Which devices train: one device, or all GPUs of the machine through Mirrored."""

from __future__ import annotations

import logging
import os

import tensorflow as tf

from trainer import machine
from trainer.data.inputs import Share
from trainer.errors import SeamlineError

log = logging.getLogger("seamline")

_DRIVER = "/proc/driver/nvidia"

STRATEGIES = ("auto", "one_device", "mirrored")


def build_strategy(
    name: str, *, num_virtual_devices: int = 0
) -> tf.distribute.Strategy:
    """Builds the strategy and says what was chosen.

    Args:
      name: "auto" (mirrored on several devices), "one_device" or "mirrored".
      num_virtual_devices: split the CPU into so many logical devices, to try mirrored
        training without GPUs; 0: don't. Must come before TensorFlow's first op.

    Raises:
      SeamlineError: a strategy that this machine cannot run.
    """
    if name not in STRATEGIES:
        raise SeamlineError(f"--strategy={name}: choose one of {', '.join(STRATEGIES)}")
    _fit_threads()
    devices = _devices(name, num_virtual_devices)
    if name == "mirrored" or (name == "auto" and len(devices) > 1):
        strategy = tf.distribute.MirroredStrategy(devices)
    else:
        strategy = tf.distribute.OneDeviceStrategy(devices[0])
    log.info(
        "Devices: %s on %d of %d: %s",
        type(strategy).__name__,
        strategy.num_replicas_in_sync,
        len(devices),
        ", ".join(devices),
    )
    return strategy


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


def _devices(name: str, num_virtual_devices: int) -> list[str]:
    if num_virtual_devices:
        cpu = tf.config.list_physical_devices("CPU")[0]
        parts = [tf.config.LogicalDeviceConfiguration()] * num_virtual_devices
        try:
            tf.config.set_logical_device_configuration(cpu, parts)
        except RuntimeError as error:
            raise SeamlineError(
                f"--num_virtual_devices={num_virtual_devices}: the CPU is in use "
                "already; a process can split it only once"
            ) from error
        return [f"/cpu:{index}" for index in range(num_virtual_devices)]
    gpus = tf.config.list_logical_devices("GPU")
    if not gpus and os.path.exists(_DRIVER):
        if name == "mirrored":
            raise SeamlineError(
                f"--strategy=mirrored: {_DRIVER} says that there are GPUs, but "
                "TensorFlow sees none; pip install 'tensorflow[and-cuda]'"
            )
        log.info(
            "Note: TensorFlow sees no GPU, though %s is there; training on the CPU. "
            "pip install 'tensorflow[and-cuda]' mends it",
            _DRIVER,
        )
    return [f"/gpu:{index}" for index in range(len(gpus))] or ["/cpu:0"]


def share_of(strategy: tf.distribute.Strategy) -> Share:
    """The part of each global batch that this process makes: all of it."""
    replicas = strategy.num_replicas_in_sync
    return Share(pieces=replicas, first=0, local=replicas)
