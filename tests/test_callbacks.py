"""A process that ends while its input is under way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import numbered
from tests.conftest import ROOT

PROGRAM = """
import sys
from trainer.data import card as cards, examples, inputs
from trainer.limits import Limits

card = cards.read_card(sys.argv[1])
use = Limits(input_memory_mb=600, input_threads=2, prefetch=4)
found = examples.streamed(sys.argv[1], card, "train", image_size=256)
stream = inputs.build_stream(
    found, policy="random", repeat_threshold=0, batch_size=64, seed=0, limits=use
)
batches = iter(stream.batches(0, 1 << 20))
next(batches)
"""


@pytest.mark.parametrize(
    ("end", "code"), [("", 0), ("sys.exit(42)", 42), ("raise RuntimeError", 1)]
)
def test_a_process_ends_though_batches_are_being_made(
    end: str, code: int, tmp_path: Path
) -> None:
    """The global iterator lives on while the interpreter ends, and is far from full."""
    numbered.write(tmp_path, 100, shards=1)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + end, tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
