"""Conversions that are really killed, again and again, in every step."""

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
import os, signal, sys
from trainer.data import conversion, parts, preparation, records, sources

place, name = {"write": (records, "serialize"), "put": (parts.Parts, "put")}.get(
    sys.argv[3], (parts.storage, sys.argv[3])
)
real, left = getattr(place, name), [int(sys.argv[4])]

def killed(*values, **named):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*values, **named)

if __name__ == "__main__":
    setattr(place, name, killed)
    source = sources.open_folder(sys.argv[1], name="drawn")
    values = {**preparation.NEW_RECORDS, "record_size": 0, "shard_bytes": 20_000}
    conversion.convert(source, sys.argv[2], **values, worker_count=2)
"""


def run(script: Path, drawn: Path, place: Path, step: str, count: int) -> int:
    """A conversion that kills itself before call number `count` of a step."""
    return subprocess.run(
        [sys.executable, *map(str, (script, drawn, place, step, count))],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
        timeout=120,
    ).returncode


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_killed_again_and_again_it_ends_with_the_bytes_of_a_quiet_run(
    drawn: Path, tmp_path: Path
) -> None:
    script = tmp_path / "convert.py"
    script.write_text(CONVERT)
    assert run(script, drawn, tmp_path / "whole", "put", 1000) == 0
    whole = content(tmp_path / "whole")
    assert len(whole) > 8
    place = tmp_path / "killed"
    rng = np.random.default_rng(0)
    for step, most in (("write", 7), ("put", 5), ("create", 5), ("write", 3)):
        assert run(script, drawn, place, step, int(rng.integers(1, most))) == -9
        with pytest.raises(SeamlineError, match="not a complete dataset"):
            cards.read_card(str(place))
    for step in ("move", "remove_folder"):
        assert run(script, drawn, place, step, 1) == -9
        if (place / "card.json").exists():
            verification.verify(str(place))
    assert (place / "card.json").exists()
    assert run(script, drawn, place, "put", 1000) == 0
    assert content(place) == whole
