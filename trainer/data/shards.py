"""Writing shards: pairs go through worker processes and arrive in order."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
import os
import secrets
import tempfile
from collections.abc import Iterator

from trainer import progress, storage
from trainer.data import card as cards
from trainer.data import encoding, records, workers
from trainer.data.encoding import Encoded
from trainer.data.pairs import BadSample
from trainer.data.parts import Parts, Report
from trainer.data.plan import Plan, Shard
from trainer.data.sources import Source
from trainer.data.verification import Count

_SLICE_PAIRS, _SLICE_BYTES = 16, 16 << 20
_UPLOADS = 4


def make_shards(
    source: Source, plan: Plan, done: Parts, todo: list[Shard], *, worker_count: int
) -> dict[str, Report]:
    """Writes shards, all workers busy from the first pair to the last.

    Args:
      source: where pairs come from.
      plan: which the shards belong to.
      done: takes each shard that is finished.
      todo: shards to write, in this order.
      worker_count: processes that read and encode; 0: one a processor.

    Returns:
      Name of each shard -> what it holds.

    Raises:
      SeamlineError: no space, or another conversion was first.
    """
    parts = {shard.name: slices(source, shard) for shard in todo}
    tasks = [
        (part, shard.split == "val") for shard in todo for part in parts[shard.name]
    ]
    count = min(worker_count or workers.default_workers(), max(len(tasks), 1))
    made = {}
    bar = progress.Bar(
        "converting", total=sum(len(shard.ids) for shard in todo), unit="pairs"
    )
    with (
        workers.start(count, preload=encoding.__name__) as pool,
        _scratch(done.folder) as scratch,
        # Uploads go on while the next shards are made, a few at a time.
        concurrent.futures.ThreadPoolExecutor(_UPLOADS) as uploader,
    ):
        results = pool.map(
            functools.partial(encoding.encode_task, plan.record_size), tasks
        )
        uploads: collections.deque[concurrent.futures.Future] = collections.deque()
        for shard in todo:
            done.refuse_if_overtaken()
            chunks = itertools.islice(results, len(parts[shard.name]))
            files, report = _write_shard(source, shard, chunks, scratch, bar)
            made[shard.name] = report
            uploads.append(uploader.submit(done.put, shard, files, report))
            if len(uploads) >= _UPLOADS:
                uploads.popleft().result()
        for upload in uploads:
            upload.result()
    bar.close()
    return made


def slices(source: Source, shard: Shard) -> list[Source]:
    """The pairs of a shard in slices of some 16, small enough to wait in memory."""
    cut: list[dict[str, tuple[str, str]]] = [{}]
    weight = 0
    for image_id in shard.ids:
        photo, _ = source.files[image_id]
        full = len(cut[-1]) == _SLICE_PAIRS or weight > _SLICE_BYTES
        if full:
            cut.append({})
            weight = 0
        cut[-1][image_id] = source.files[image_id]
        weight += source.infos[photo].size
    return [
        dataclasses.replace(source, files=files, infos={}, orphans=(), split=None)
        for files in cut
    ]


@contextlib.contextmanager
def _scratch(folder: str) -> Iterator[str]:
    """Where shards grow: beside their place, or on the local disk before an upload."""
    if not storage.is_remote(folder):
        storage.make_folder(folder)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="seamline-") as temporary:
        yield temporary


def _write_shard(
    source: Source,
    shard: Shard,
    chunks: Iterator[list[Encoded | BadSample]],
    scratch: str,
    bar: progress.Bar,
) -> tuple[tuple[str, str], Report]:
    """Writes one shard and its index to local files; those and what they hold."""
    count = Count.of_nothing(len(source.labels.names))
    sizes: collections.Counter[str] = collections.Counter()
    rejected: list[dict[str, str]] = []

    def examples() -> Iterator[bytes]:
        for chunk in chunks:
            bar.update(len(chunk))
            for pair in chunk:
                if isinstance(pair, BadSample):
                    rejected.append({"file": pair.file, "problem": pair.problem})
                    continue
                serialized = records.serialize(pair)
                count.add(pair.image_id, pair.pixels, len(serialized))
                sizes[f"{pair.height}x{pair.width}"] += 1
                yield serialized

    # A name of its own: two conversions of the same plan may be under way at once.
    path = os.path.join(scratch, f"{shard.name}.{secrets.token_hex(6)}.partial")
    index_path = f"{path}.index"
    try:
        records.write_shard(path, examples())
        storage.write_bytes(index_path, count.index.to_bytes())
    except BaseException:
        for name in (path, index_path):
            with contextlib.suppress(FileNotFoundError):
                os.remove(name)
        raise
    row = {
        "name": shard.name,
        "examples": len(count.index.ids),
        "longest": max(count.index.lengths, default=0),
        **cards.digest(path),
        "index": cards.digest(index_path),
    }
    report = Report(
        row=row,
        images=count.images.tolist(),
        pixels=count.pixels.tolist(),
        sizes=dict(sorted(sizes.items())),
        rejected=rejected,
    )
    return (path, index_path), report
