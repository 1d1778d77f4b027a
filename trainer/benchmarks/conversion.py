"""Conversion beside its floor: decoding every photo and mask at full size, no more."""

from __future__ import annotations

import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable

from trainer import storage
from trainer.benchmarks import floor, memory
from trainer.benchmarks.measurements import Measurement
from trainer.data import conversion, encoding, shards, sources, workers
from trainer.data.plan import Shard
from trainer.data.preparation import NEW_RECORDS
from trainer.data.sources import Source
from trainer.errors import SeamlineError
from trainer.layout import Layout
from trainer.results import sheets

_COPIES = 10


def measure(
    *,
    dataset: str,
    layout: Layout | None,
    record_size: int | None,
    worker_count: int,
    repeats: int,
) -> list[Measurement]:
    """Measures speed and peak memory of a conversion.

    Args:
      dataset, layout: see `sources.find`; local.
      record_size: None: as new records are made.
      worker_count: 0: one a processor.
      repeats: conversions and floors timed, in turns.

    Raises:
      SeamlineError: no such dataset, or a remote one.
    """
    source = sources.find(dataset, layout)
    if storage.is_remote(source.folder):
        raise SeamlineError(f"{source.folder}: give a local dataset to measure")
    values = dict(NEW_RECORDS)
    if record_size is not None:
        values["record_size"] = record_size
    return [
        *_measure_speed(source, values, worker_count, repeats),
        *_measure_memory(source, values, worker_count),
    ]


def _measure_speed(
    source: Source, values: dict, worker_count: int, repeats: int
) -> list[Measurement]:
    count = worker_count or workers.default_workers()
    ids = sorted(source.files)
    slices = shards.slices(source, Shard("", "", ids))

    def decode(folder: str) -> None:
        with workers.start(count, preload=encoding.__name__) as pool:
            for _ in pool.map(floor.decode_all, slices):
                pass

    def convert(folder: str) -> None:
        # A new one each time: a source remembers the digest of its files.
        fresh = dataclasses.replace(source)
        conversion.convert(fresh, folder, **values, worker_count=count)

    def draw(folder: str) -> None:
        card = conversion.convert(source, folder, **values, worker_count=count)
        assert card is not None
        started = time.perf_counter()
        sheets.draw_sheets(folder, card)
        drawn.append(time.perf_counter() - started)

    drawn: list[float] = []
    # Once before: imports, page cache, and the server that worker processes come from.
    _seconds(decode)
    _seconds(draw)
    times = [(_seconds(convert), _seconds(decode)) for _ in range(repeats)]
    converting, decoding = (
        statistics.median(column) for column in zip(*times, strict=True)
    )
    ratios = [done / least for done, least in times]
    what = f"{len(ids)} pairs, record size {values['record_size']}, {count} workers"
    return [
        Measurement("convert.seconds", converting, "s", what),
        Measurement(
            "convert.decode_floor_seconds",
            decoding,
            "s",
            "cv2.imread at full size and loadmat of every pair, the same workers",
        ),
        Measurement(
            "convert.vs_decode_floor",
            statistics.median(ratios),
            "",
            f"median of {repeats} in turns, {min(ratios):.2f} to {max(ratios):.2f}",
        ),
        Measurement(
            "convert.pictures_seconds",
            drawn[0],
            "s",
            "overlays.png and classes.png, drawn once after the card; not in the ratio",
        ),
    ]


def _seconds(work: Callable[[str], None]) -> float:
    """Wall time of `work` on a new folder."""
    with tempfile.TemporaryDirectory(prefix="seamline-") as folder:
        started = time.perf_counter()
        work(os.path.join(folder, "records"))
        return time.perf_counter() - started


def _measure_memory(
    source: Source, values: dict, worker_count: int
) -> list[Measurement]:
    """Peak memory for the dataset and for one ten times as large."""
    with tempfile.TemporaryDirectory(prefix="seamline-") as folder:
        peaks = []
        for copies in (1, _COPIES):
            large = os.path.join(folder, f"copies-{copies}")
            _copy(source, large, copies)
            arguments = [
                "trainer.convert",
                f"--images_dir={large}/photos",
                f"--masks_dir={large}/masks",
                f"--label_names={large}/names.txt",
                f"--mask_variable={source.labels.variable}",
                f"--records_dir={large}/records",
                f"--record_size={values['record_size']}",
                f"--workers={worker_count}",
            ]
            peaks.append(memory.peak_memory_mb(arguments))
    once, often = peaks
    pairs = len(source.files)
    return [
        Measurement(
            "convert.peak_memory_mb", once, "MB", f"{pairs} pairs, all processes"
        ),
        Measurement(
            "convert.peak_memory_tenfold_mb",
            often,
            "MB",
            f"{_COPIES * pairs} pairs, {100 * (often / once - 1):+.1f} %",
        ),
    ]


def _copy(source: Source, folder: str, copies: int) -> None:
    """A dataset with each pair several times, each photo with other bytes.

    A JPEG comment tells the copies apart: a repeated photo would be refused.
    """
    for part in ("photos", "masks"):
        os.makedirs(os.path.join(folder, part))
    lines = [
        f"{value} {name}"
        for value, name in zip(source.labels.ids, source.labels.names, strict=True)
    ]
    storage.write_text(os.path.join(folder, "names.txt"), "\n".join(lines) + "\n")
    for number, (photo, mask) in enumerate(source.files.values()):
        content = storage.read_bytes(os.path.join(source.folder, photo))
        for copy in range(copies):
            stem = f"{number:06d}-{copy}"
            target = os.path.join(folder, "photos", stem + os.path.splitext(photo)[1])
            note = stem.encode()
            comment = b"\xff\xfe" + (2 + len(note)).to_bytes(2, "big") + note
            with open(target, "wb") as file:
                file.write(content[:2] + comment + content[2:])
            ending = os.path.splitext(mask)[1]
            os.symlink(
                os.path.abspath(os.path.join(source.folder, mask)),
                os.path.join(folder, "masks", stem + ending),
            )
