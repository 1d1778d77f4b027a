"""How fast work goes: by the clock, and by the processor time that it takes."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence

from trainer.benchmarks.measurements import Measurement
from trainer.limits import Limits

LONG = 4
"""What is timed is so many times as long as what a pipeline makes ahead."""


@dataclasses.dataclass(frozen=True)
class Rate:
    """Work of some length.

    Attributes:
      images: how many were done.
      seconds: by the clock.
      cpu_seconds: of all threads together.
    """

    images: int
    seconds: float
    cpu_seconds: float

    @property
    def per_second(self) -> float:
        """Images a second by the clock."""
        return self.images / self.seconds

    @property
    def per_core(self) -> float:
        """Images a second of processor time: what one core alone would do."""
        return self.images / self.cpu_seconds


def made_ahead(limits: Limits, replicas: int = 0) -> int:
    """How many batches a pipeline makes at most before they are asked for.

    So many wait, or are under way, when nobody takes any. What is timed must neither
    begin with them nor be short beside them.

    Args:
      limits: of the pipeline.
      replicas: that a strategy hands parts of batches to, two ahead for each; 0: none,
        whole batches are taken from the pipeline itself.
    """
    parts = max(replicas, 1)
    held = limits.prefetch * parts + limits.input_threads + 2 * replicas
    return -(-held // parts)


def measure(
    work: Callable[[], int], *, seconds: float, calls: int = 1, untimed: int = 0
) -> Rate:
    """Repeats `work`, which returns a number of images.

    Args:
      work: what is measured.
      seconds, calls: it goes on for so long, and at least so often.
      untimed: calls before the clock starts.
    """
    for _ in range(untimed):
        work()
    images, cpu = 0, time.process_time()
    start = now = time.perf_counter()
    while now < start + seconds or calls > 0:
        images += work()
        calls -= 1
        now = time.perf_counter()
    return Rate(images, now - start, time.process_time() - cpu)


def row(name: str, rates: Sequence[Rate], what: str) -> Measurement:
    """The median rate by the clock; the detail has that of a core."""
    core = statistics.median(rate.per_core for rate in rates)
    return Measurement(
        name,
        statistics.median(rate.per_second for rate in rates),
        "images/s",
        f"{what}; {core:,.0f} images/s a core",
    )


def ratio(
    name: str, upper: Sequence[Rate], lower: Sequence[Rate], what: str
) -> Measurement:
    """Ratios of rates a core, measured in turns; the median counts."""
    found = [
        one.per_core / other.per_core for one, other in zip(upper, lower, strict=True)
    ]
    return Measurement(
        name,
        statistics.median(found),
        "",
        f"{what}; median of {len(found)} in turns, {min(found):.2f} to "
        f"{max(found):.2f}",
    )
