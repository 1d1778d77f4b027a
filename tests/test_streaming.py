"""Sets larger than the memory they may use, read from their records again and again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import tensorflow as tf

from tests import numbered
from tests.cgroups import memory_group
from tests.conftest import ROOT, SMALL, run_command
from trainer.data.order import Order

STREAMED = "--input_memory_mb=1"
"""Less than 250 examples of 32² take."""

STREAM_ALL = """
import sys
from trainer.data import card as cards, examples, inputs
from trainer.limits import Limits

folder, budget = sys.argv[1], int(sys.argv[2])
card = cards.read_card(folder)
use = Limits(input_memory_mb=budget, input_threads=2, prefetch=2)
[found] = examples.open_splits(folder, card, ["train"], image_size=128, limits=use)
stream = inputs.build_stream(
    found, card, policy="random", repeat_threshold=0, batch_size=64, seed=0, limits=use
)
seen = set()
for step, _ in enumerate(stream.batches(0, stream.steps)):
    seen.update(stream.where(step)[0].tolist())
print(len(seen), "examples seen")
"""


def test_a_set_ten_times_the_budget_is_streamed_within_it_and_500_mb(
    tmp_path: Path,
) -> None:
    """The kernel kills what takes more; files it cached count, but it can drop them."""
    budget, count = 32, 32 * 10 * 16
    numbered.write(tmp_path, count, shards=4)
    held = 128 * 128 * 4 * count / 2**20
    assert held == 10 * budget
    with memory_group((budget + 500) << 20) as group:
        done = subprocess.run(
            [*group.prefix, sys.executable, "-c", STREAM_ALL, tmp_path, str(budget)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{count} examples seen\n"
        assert group.peak_memory() <= (budget + 500) << 20


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
    content[
        sum(row["lengths"][:number]) + 16 * number + row["lengths"][number] // 2
    ] ^= 4
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
