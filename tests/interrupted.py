"""A conversion that kills itself before call number COUNT of a step.

    python -m tests.interrupted FIGURES PLACE SHARD_BYTES WORKERS STEP COUNT

Worker processes import this module as well, so it imports nothing slow at its head.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any


def main(
    figures: str, place: str, shard_bytes: str, workers: str, step: str, count: str
) -> None:
    """Converts; `step` is a function of the storage, or one of two others."""
    from trainer.data import conversion, parts, preparation, records, sources

    owners = {"write": (records, "serialize"), "put": (parts.Parts, "put")}
    owner, name = owners.get(step, (parts.storage, step))
    real, left = getattr(owner, name), [int(count)]

    def killed(*values: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*values, **named)

    setattr(owner, name, killed)
    source = sources.open_folder(figures, name="drawn")
    sizes = {"record_size": 0, "shard_bytes": int(shard_bytes)}
    values = {**preparation.NEW_RECORDS, **sizes, "worker_count": int(workers)}
    conversion.convert(source, place, **values)


if __name__ == "__main__":
    main(*sys.argv[1:])
