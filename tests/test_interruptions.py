"""Conversions that are really killed, at random moments."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT
from trainer.data import card as cards
from trainer.data import verification
from trainer.errors import SeamlineError

CONVERT = """
import sys
from trainer.data import conversion, preparation, sources
if __name__ == "__main__":
    source = sources.open_folder(sys.argv[1], name="drawn")
    values = {**preparation.NEW_RECORDS, "record_size": 0, "shard_bytes": 20_000}
    print("ready", flush=True)
    conversion.convert(source, sys.argv[2], **values, worker_count=int(sys.argv[3]))
    print("done", flush=True)
"""


def begin(script: Path, *arguments: object) -> subprocess.Popen[str]:
    """A conversion that has imported all and starts right now."""
    process = subprocess.Popen(
        [sys.executable, str(script), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_killed_at_random_moments_and_run_again_the_bytes_are_the_same(
    drawn: Path, tmp_path: Path
) -> None:
    script = tmp_path / "convert.py"
    script.write_text(CONVERT)
    assert begin(script, drawn, tmp_path / "whole", 1).wait(timeout=120) == 0
    whole = content(tmp_path / "whole")
    rng = np.random.default_rng(0)
    place = tmp_path / "killed"
    killed = 0
    for workers in (1, 2, 1, 2, 1, 2):
        process = begin(script, drawn, place, workers)
        try:
            process.wait(timeout=rng.uniform(0, 0.3))
        except subprocess.TimeoutExpired:
            process.kill()
            killed += process.wait() == -9
        if (place / "card.json").exists():
            # Sound, or nothing at all: never in between.
            verification.verify(str(place))
            break
        with pytest.raises(SeamlineError, match="not a complete dataset"):
            cards.read_card(str(place))
    assert killed > 0
    if not (place / "card.json").exists():
        assert begin(script, drawn, place, 2).wait(timeout=120) == 0
    assert content(place) == whole
