"""How much memory and how many threads the input takes."""

from __future__ import annotations

import dataclasses
import logging
import re
from pathlib import Path

import pytest

from tests import numbered
from trainer import limits
from trainer.data import examples, inputs
from trainer.data.inputs import Cost
from trainer.errors import SeamlineError
from trainer.limits import Limits


def test_memory_bounds_how_many_batches_are_made_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "seamline")
    use = Limits(input_memory_mb=100, input_threads=16, prefetch=2)
    assert inputs.parallel_calls(Cost(making=2 << 20, waiting=1 << 20), use) == 16
    assert not caplog.records
    # 80 MB are left beside two that wait.
    assert inputs.parallel_calls(Cost(making=30 << 20, waiting=10 << 20), use) == 2
    [record] = caplog.records
    assert record.getMessage() == (
        "Input: 2 batches at a time, not 16: each takes 30 MB, those made ahead 20 MB "
        "of 100 MB; --input_memory_mb gives more"
    )
    assert inputs.parallel_calls(Cost(making=90 << 20, waiting=10 << 20), use) == 1
    assert inputs.parallel_calls(Cost(making=30 << 20, waiting=10 << 20), use, 3) == 1


def test_memory_that_examples_do_not_take_is_for_batches() -> None:
    use = Limits(input_memory_mb=100, input_threads=16, prefetch=2)
    assert use.left(40 << 20).input_memory_mb == 60
    assert use.left(40 << 20, parts=2).input_memory_mb == 30
    assert use.left(400 << 20).input_memory_mb == 0


def test_streamed_examples_say_what_reading_and_decoding_take(tmp_path: Path) -> None:
    card = numbered.write(tmp_path, 9, shards=1)
    large = dataclasses.replace(card, sizes={"4000x3000": 9}, record_size=0)
    small = dataclasses.replace(large, record_size=300)
    [row] = card.splits["train"]["shards"]
    longest = max(numbered.index_of(tmp_path, row).lengths)
    for found, pixels in ((large, 4000 * 3000), (small, 400 * 300)):
        read = examples.streamed(str(tmp_path), found, "train", image_size=32)
        assert read.held == 0
        assert read.working_memory(3) == 4 * 3 * longest + 10 * pixels


def test_limits_come_from_the_container_unless_they_are_given(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits.machine, "memory_limit", lambda: 3 << 30)
    monkeypatch.setattr(limits.machine, "cpu_limit", lambda: 5)
    caplog.set_level(logging.INFO, "seamline")
    found = limits.settle()
    assert (found.input_memory_mb, found.input_threads, found.prefetch) == (768, 5, 2)
    assert "768 MB (1/4 of the memory), 5 threads (processors)" in caplog.text
    given = limits.settle(input_memory_mb=10, input_threads=3, prefetch=7)
    assert given == Limits(input_memory_mb=10, input_threads=3, prefetch=7)
    assert "10 MB (--input_memory_mb), 3 threads (--input_threads)" in caplog.text


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("input_memory_mb", 3073, "may use 3072 MB (this machine); give less"),
        ("input_threads", 1025, "at most 1024"),
        ("prefetch", 1025, "at most 1024"),
    ],
)
def test_limits_beyond_the_machine_are_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: int, problem: str
) -> None:
    monkeypatch.setattr(limits.machine, "memory_limit", lambda: 3 << 30)
    monkeypatch.setattr(limits.machine, "memory_source", lambda: "this machine")
    with pytest.raises(
        SeamlineError, match=f"--{name}={value}: .*{re.escape(problem)}"
    ):
        limits.settle(**{name: value})
    limits.settle(**{name: value - 1})
