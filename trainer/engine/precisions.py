"""Which numbers a device computes in fastest."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable

import tensorflow as tf

log = logging.getLogger("seamline")

# NVIDIA's tensor cores multiply bfloat16 since Ampere.
_BFLOAT16_SINCE = (8, 0)
# A CPU with AVX512_BF16 has 1.7 to 1.8, so noise settles nothing.
_FASTER = 1.25
_TURNS = 8


def settle(precision: str) -> str:
    """Settles "auto": bfloat16 if all GPUs multiply it, else float32; says why.

    Without a GPU, bfloat16 if a convolution is faster in it; measured, which takes a
    second.

    bfloat16 has the range of float32, so no loss needs scaling (Kalamkar et al., "A
    Study of BFLOAT16 for Deep Learning Training", 2019).

    Args:
      precision: "auto", "float32", "bfloat16" or "float16".
    """
    if precision != "auto":
        return precision
    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    found = [x.get("compute_capability", (0, 0)) for x in details]
    if not gpus:
        ratio = bfloat16_speed()
        chosen = "bfloat16" if ratio >= _FASTER else "float32"
        reason = f"this CPU convolves {ratio:.1f} times as fast in bfloat16"
    elif all(capability >= _BFLOAT16_SINCE for capability in found):
        chosen, reason = "bfloat16", "all GPUs have compute capability 8.0 or more"
    else:
        version = ".".join(map(str, min(found)))
        chosen, reason = "float32", f"a GPU has compute capability {version}, below 8.0"
    log.info("Precision: %s, since %s", chosen, reason)
    return chosen


@functools.cache
def bfloat16_speed() -> float:
    """How many times as fast as in float32 this CPU convolves, forth and back.

    By processor time, so that other work beside it does not matter.

    Returns:
      0 where it cannot at all.
    """
    steps = [_convolution(dtype) for dtype in (tf.float32, tf.bfloat16)]
    try:
        turns = [[_processor_seconds(x) for x in steps] for _ in range(_TURNS)]
    except tf.errors.OpError:
        # oneDNN has no such convolution without AVX-512.
        return 0.0
    exact, low = (min(column) for column in zip(*turns, strict=True))
    return exact / low


def _convolution(dtype: tf.DType) -> Callable[[], tf.Tensor]:
    """As in the upper stages of the decoder lateral."""
    images = tf.ones((4, 64, 64, 64), dtype)
    kernel = tf.ones((3, 3, 64, 64), dtype)

    @tf.function
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch([images, kernel])
            found = tf.nn.conv2d(images, kernel, 1, "SAME")
        gradients = tape.gradient(found, [images, kernel])
        return tf.add_n([tf.reduce_max(x) for x in gradients])

    return step


def _processor_seconds(step: Callable[[], tf.Tensor]) -> float:
    begun = time.process_time()
    step().numpy()
    return time.process_time() - begun
