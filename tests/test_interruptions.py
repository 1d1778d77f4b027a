"""Conversions that are really killed, again and again, in every step."""

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT, run_command
from trainer.data import card as cards
from trainer.data import verification
from trainer.errors import SeamlineError


def run(drawn: Path, place: Path, step: str, count: int) -> int:
    """A conversion that kills itself before call number `count` of a step."""
    values = map(str, (drawn, place, 20_000, 2, step, count))
    return run_command("tests.interrupted", *values, cwd=ROOT).returncode


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_killed_again_and_again_it_ends_with_the_bytes_of_a_quiet_run(
    drawn: Path, tmp_path: Path
) -> None:
    assert run(drawn, tmp_path / "whole", "put", 1000) == 0
    whole = content(tmp_path / "whole")
    assert len(whole) > 8
    place = tmp_path / "killed"
    rng = np.random.default_rng(0)
    for step, most in (("write", 7), ("put", 5), ("create", 5), ("write", 3)):
        assert run(drawn, place, step, int(rng.integers(1, most))) == -9
        with pytest.raises(SeamlineError, match="not a complete dataset"):
            cards.read_card(str(place))
    for step in ("move", "remove_folder"):
        assert run(drawn, place, step, 1) == -9
        if (place / "card.json").exists():
            verification.verify(str(place))
    assert (place / "card.json").exists()
    assert run(drawn, place, "put", 1000) == 0
    assert content(place) == whole
