"""Whether XLA compiles the training step."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import tensorflow as tf

from trainer.recipes import Recipe

log = logging.getLogger("seamline")

# Compiling a whole step takes a minute; a few percent never pay for it.
_FASTER = 1.1
# On an H200 that of DenseNet121 takes 44 s, and each step then 19 ms less.
_PAYS_AFTER = 2300
_TURNS = 5


def settle(
    xla: str,
    recipe: Recipe,
    replicas: int,
    precision: str,
    before: bool | None = None,
    steps: int = _PAYS_AFTER,
) -> bool:
    """Settles "auto": on where XLA can, is faster on this device and pays; says why.

    It measures a stage of a decoder, forth and back, once; that takes seconds.

    Args:
      xla: "auto", "true" or "false".
      recipe: what is to be trained.
      replicas: of the whole job.
      precision: settled, see `precisions.settle`.
      before: what it was for a run that goes on: a step that is compiled otherwise
        rounds otherwise. None: a new run.
      steps: of the whole training.
    """
    if xla != "auto":
        return xla == "true"
    if problem := obstacle(recipe, replicas, precision):
        log.info("XLA: off; %s", problem.partition(";")[0])
        return False
    if before is not None:
        log.info("XLA: %s, as this run began", "on" if before else "off")
        return before
    if steps < _PAYS_AFTER:
        log.info(
            "XLA: off; compiling takes a minute that %d steps do not win back (%d may)",
            *(steps, _PAYS_AFTER),
        )
        return False
    ratio = speed(precision)
    chosen = ratio >= _FASTER
    log.info(
        "XLA: %s, since a stage compiled by it is %.2f times as fast on this device",
        "on" if chosen else "off",
        ratio,
    )
    return chosen


def obstacle(recipe: Recipe, replicas: int, precision: str) -> str | None:
    """Why XLA cannot compile the step, and what would do; None where it can."""
    if replicas > 1:
        return (
            f"XLA compiles the step of one device, and {replicas} replicas have one "
            "each; give --xla=false or --strategy=one_device"
        )
    # Its gradients of 1x1 convolutions behind a ReLU stay float32: "mixed precision is
    # disallowed" (TensorFlow 2.21). The decoder pix2pix has none.
    low = precision in ("bfloat16", "float16") and recipe.decoder == "lateral"
    if low and not tf.config.list_physical_devices("GPU"):
        return (
            f"on a CPU, XLA cannot compile --precision={precision} with "
            "--decoder=lateral; give --xla=false or --precision=float32"
        )
    return None


def speed(precision: str) -> float:
    """How many times as fast a stage of a decoder is when XLA compiles it.

    The fastest of some turns each, taken in turns, so that other work beside it
    matters little.
    """
    dtype = tf.as_dtype(precision)
    steps = [_stage(dtype, compiled) for compiled in (False, True)]
    for step in steps:
        step().numpy()
    turns = [[_seconds(step) for step in steps] for _ in range(_TURNS)]
    plain, compiled = (min(column) for column in zip(*turns, strict=True))
    return plain / compiled


def _stage(dtype: tf.DType, compiled: bool) -> Callable[[], tf.Tensor]:
    """Convolution, batch norm, ReLU and logits, as in an upper stage of a decoder."""
    images = tf.ones((8, 64, 64, 64), dtype)
    kernels = [tf.ones((3, 3, 64, 64), dtype), tf.ones((1, 1, 64, 59), dtype)]
    scale, offset = tf.ones(64), tf.zeros(64)

    @tf.function(jit_compile=compiled)
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(kernels)
            x = tf.cast(tf.nn.conv2d(images, kernels[0], 1, "SAME"), tf.float32)
            x, _, _ = tf.compat.v1.nn.fused_batch_norm(x, scale, offset)
            x = tf.cast(tf.nn.relu(x), dtype)
            logits = tf.cast(tf.nn.conv2d(x, kernels[1], 1, "SAME"), tf.float32)
            loss = tf.reduce_mean(tf.nn.log_softmax(logits)[..., 0])
        gradients = tape.gradient(loss, kernels)
        return tf.add_n([tf.reduce_max(tf.cast(x, tf.float32)) for x in gradients])

    return step


def _seconds(step: Callable[[], tf.Tensor]) -> float:
    begun = time.perf_counter()
    step().numpy()
    return time.perf_counter() - begun
