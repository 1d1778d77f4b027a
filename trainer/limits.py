"""What the input may use of the machine: memory, threads, batches made ahead."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from trainer import machine
from trainer.errors import SeamlineError

log = logging.getLogger("seamline")

_SHARE = 4
_AHEAD = 2
_MOST = 1024


def _knob(text: str) -> Any:
    return dataclasses.field(metadata={"help": text})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of the input. 0 in a flag stands for what the machine suggests."""

    input_memory_mb: int = _knob(
        "memory for examples and batches of the input; examples that do not fit are "
        "read from the records again and again; 0: a quarter of what this process may "
        "use, by its container or the machine"
    )
    input_threads: int = _knob(
        "threads that make batches; 0: one for each processor this process may use"
    )
    prefetch: int = _knob("batches made ahead of the step, for each replica; 0: 2")

    @property
    def memory(self) -> int:
        """Bytes."""
        return self.input_memory_mb << 20

    def left(self, held: int, parts: int = 1) -> Limits:
        """What remains for each of `parts` pipelines beside `held` bytes."""
        free = max(self.memory - held, 0) // parts
        return dataclasses.replace(self, input_memory_mb=free >> 20)


def settle(
    *, input_memory_mb: int = 0, input_threads: int = 0, prefetch: int = 0
) -> Limits:
    """Limits as given, or else by what this process may use; says so and why.

    Raises:
      SeamlineError: more than there is.
    """
    allowed = machine.memory_limit() >> 20
    if input_memory_mb > allowed:
        raise SeamlineError(
            f"--input_memory_mb={input_memory_mb}: this process may use {allowed} MB "
            f"({machine.memory_source()}); give less"
        )
    for name, value in (("input_threads", input_threads), ("prefetch", prefetch)):
        if value > _MOST:
            raise SeamlineError(f"--{name}={value}: give at most {_MOST}")
    share = allowed // _SHARE
    limits = Limits(
        input_memory_mb=input_memory_mb or max(share, 1),
        input_threads=input_threads or machine.cpu_limit(),
        prefetch=prefetch or _AHEAD,
    )
    memory = "--input_memory_mb" if input_memory_mb else f"1/{_SHARE} of the memory"
    threads = "--input_threads" if input_threads else "processors"
    log.info(
        "Input: %d MB (%s), %d threads (%s), %d batches ahead; this process may use "
        "%d MB (%s) and %d processors (%s)",
        limits.input_memory_mb,
        memory,
        limits.input_threads,
        threads,
        limits.prefetch,
        allowed,
        machine.memory_source(),
        machine.cpu_limit(),
        machine.cpu_source(),
    )
    return limits
