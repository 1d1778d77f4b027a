"""How a training starts on given records, without a model: card, order, batches.

python -m trainer.benchmarks.scale_start '{"records_dir": …, "seed": 0, …}'
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from trainer import pipeline, recipes, storage
from trainer.benchmarks.scale import LOCATED
from trainer.data.card import read_card

_STEPS = (0, 10**9)


def main(
    *,
    records_dir: str,
    recipe: dict[str, Any],
    seed: int,
    input_limits: dict[str, int],
    times: str,
) -> None:
    """Opens records as `trainer.task` does, and makes two batches of them.

    Args:
      records_dir: of the records.
      recipe: values that differ from the default recipe's.
      seed, input_limits: see `pipeline.open_input`.
      times: JSON file to write: seconds.
    """
    began = time.perf_counter()
    card = read_card(records_dir)
    read = time.perf_counter()
    settled = recipes.resolve("default", {**recipe, "encoder_weights": "none"})
    stream, _ = pipeline.open_input(settled, records_dir, card, seed, input_limits)
    opened = time.perf_counter()
    where = [stream.where(step)[0].tolist() for step in _STEPS]
    located = time.perf_counter()
    print(f"{LOCATED}: {where[0][0]}, …, {where[-1][-1]}", flush=True)
    for step in _STEPS:
        list(stream.batches(step, step + 1))
    done = time.perf_counter()
    found = {
        "card": read - began,
        "open": opened - read,
        "order": located - opened,
        "batches": done - located,
    }
    storage.write_text(times, json.dumps(found))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
