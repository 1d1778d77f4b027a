"""Sets larger than the memory they may use, read from their records again and again."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests import numbered
from tests.cgroups import memory_group
from tests.conftest import ROOT, SMALL, run_command
from trainer.data import images
from trainer.data.order import Order

STREAMED = "--input_memory_mb=1"
"""Less than 250 examples of 32² take."""

STREAM_ALL = """
import sys
from trainer.data import card as cards, examples, inputs
from trainer.limits import Limits

folder, (budget, batch_size, threads) = sys.argv[1], map(int, sys.argv[2:])
card = cards.read_card(folder)
use = Limits(input_memory_mb=budget, input_threads=threads, prefetch=2)
[found] = examples.open_splits(folder, card, ["train"], image_size=128, limits=use)
stream = inputs.build_stream(
    found, policy="random", repeat_threshold=0, batch_size=batch_size, seed=0,
    limits=use.left(found.held),
)
seen = set()
for step, _ in enumerate(stream.batches(0, stream.steps)):
    seen.update(stream.where(step)[0].tolist())
print(len(seen), "examples seen")
"""

GROWTH = """
import os, sys
import numpy as np
from trainer.benchmarks.memory import peak_kb
from trainer.data import augment, inputs
from trainer.data.examples import in_memory
from trainer.data.order import Order
from trainer.limits import Limits

CALLS, AHEAD, POLICY = 4, 1, augment.find(sys.argv[1])

def peak():
    # Not that of getrusage: it begins with the peak of the process that started it.
    return peak_kb(os.getpid()) << 10

def grow(size):
    random = np.random.default_rng(0)
    held = in_memory(
        [str(index) for index in range(64)],
        random.integers(0, 256, (64, size, size, 3), np.uint8),
        random.integers(0, 9, (64, size, size), np.uint8),
    )
    stream = inputs.Stream(
        examples=held, order=Order(64, copies=POLICY.copies, seed=0), policy=POLICY,
        batch_size=64, seed=0,
        limits=Limits(input_memory_mb=1 << 20, input_threads=CALLS, prefetch=AHEAD),
    )
    before = peak()
    for batch in stream.batches(0, 12):
        del batch
    return peak() - before, inputs.cost(held, 64, POLICY)

grow(32)
grown, cost = grow(384)
# One more is in the hands of the loop.
print(grown, CALLS * cost.making + (AHEAD + 1) * cost.waiting)
"""


def test_a_set_ten_times_the_budget_is_streamed_within_it_and_500_mb(
    tmp_path: Path,
) -> None:
    """The kernel kills what takes more; files it cached count, but it can drop them."""
    budget, count = 32, 32 * 10 * 16
    numbered.write(tmp_path, count, shards=4)
    held = 128 * 128 * 4 * count / 2**20
    assert held == 10 * budget
    stream_all(tmp_path, count, budget=budget, batch_size=64, threads=2)


def test_large_photos_are_streamed_within_the_budget_and_500_mb_by_many_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch as a whole would be 160 MB encoded and 580 MB decoded, eight times."""
    noise = np.random.default_rng(0).integers(0, 256, (3000, 4000, 3), np.uint8)
    photo = images.encode_image(noise)
    assert len(photo) > 8 << 20
    pair = (photo, images.encode_mask(np.zeros((3000, 4000), np.uint8)))
    monkeypatch.setattr(numbered, "_pictures", lambda label: pair)
    card = numbered.write(tmp_path, 32, shards=2)
    card = dataclasses.replace(card, sizes={"3000x4000": 32}, record_size=0)
    (tmp_path / "card.json").write_text(card.to_text())
    stream_all(tmp_path, 32, budget=128, batch_size=16, threads=8)


def stream_all(
    folder: Path, count: int, *, budget: int, batch_size: int, threads: int
) -> None:
    """Sees all examples, in a group of the budget and 500 MB."""
    with memory_group((budget + 500) << 20) as group:
        values = map(str, (folder, budget, batch_size, threads))
        done = subprocess.run(
            [*group.prefix, sys.executable, "-c", STREAM_ALL, *values],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{count} examples seen\n"
        assert group.peak_memory() <= (budget + 500) << 20


@pytest.mark.parametrize("policy", ["none", "random", "tutorial"])
def test_batches_take_no_more_memory_than_was_reckoned(policy: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, policy],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    grown, reckoned = map(int, done.stdout.split())
    assert 0 < grown < reckoned


def train(work: Path, *extra: str) -> subprocess.CompletedProcess[str]:
    arguments = ("--records_dir=records", *SMALL, "--epochs=1", *extra)
    return run_command("trainer.task", *arguments, STREAMED, cwd=work)


def test_a_shard_damaged_after_conversion_stops_the_training_that_meets_it(
    tmp_path: Path,
) -> None:
    """Once a step needs the record, and never before; it is not left out in silence."""
    card = numbered.write(tmp_path / "records", 250, shards=2, held_out=6)
    order = Order(250, copies=1, seed=0)
    [second] = order.locate(tf.constant([5], tf.int64))[0].numpy()
    row = card.splits["train"]["shards"][second // 125]
    path, number = tmp_path / "records" / row["name"], second % 125
    content = bytearray(path.read_bytes())
    # In the middle of the record, after those before it with their 16 bytes more each.
    lengths = numbered.index_of(tmp_path / "records", row).lengths
    content[sum(lengths[:number]) + 16 * number + lengths[number] // 2] ^= 4
    path.write_bytes(content)

    unaware = train(tmp_path, "--run_dir=unaware", "--steps_per_epoch=1")
    assert unaware.returncode == 0, unaware.stdout + unaware.stderr
    assert "250 train examples at 32², 0 MB: read from the records" in unaware.stdout
    assert "6 val examples at 32², 0 MB: held in memory" in unaware.stdout

    stopped = train(tmp_path, "--run_dir=stopped", "--steps_per_epoch=2")
    assert stopped.returncode == 42, stopped.stdout + stopped.stderr
    [line] = stopped.stderr.splitlines()
    place = f"error: records/{row['name']}: damaged at record {number} ('{second:04d}')"
    assert line.startswith(place)
    assert "Compiling the training step" in stopped.stdout
    assert not (tmp_path / "stopped" / "report.html").exists()
