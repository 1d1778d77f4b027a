"""What a conversion will write: which pairs go into which shard, known beforehand.

A plan follows from the source and the values alone, not from workers, hosts or what
was interrupted. So every host computes the same one, and a conversion that was killed
goes on with the shards that are done.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Sequence

import cv2
from numpy.random import RandomState

from trainer.data import encoding
from trainer.data.card import FORMAT_VERSION
from trainer.data.pairs import BadSample
from trainer.data.sources import Source
from trainer.errors import SeamlineError

SPLITS = ("train", "val")
SHARD_BYTES = 150 << 20
"""Bytes a shard aims at (TensorFlow's guide: 100 MB or more)."""

_PROBES = 16


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file to write.

    Attributes:
      split: "train" or "val".
      name: of the file.
      ids: of its pairs, in order.
    """

    split: str
    name: str
    ids: list[str]


@dataclasses.dataclass(frozen=True)
class Plan:
    """All files to write.

    Attributes:
      shards: those of the first split first.
      left_out: pairs known to be bad before any is read: masks without a photo,
        photos that repeat another.
      split: what the card says of the split.
      record_size: see `encoding`.
      digest: of all that shapes the files' bytes.
    """

    shards: list[Shard]
    left_out: list[BadSample]
    split: dict[str, object]
    record_size: int
    digest: str


def build_plan(
    source: Source,
    *,
    record_size: int,
    split_fraction: float,
    split_seed: int,
    skip_bad: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> Plan:
    """Splits the pairs of `source` and deals them out to shards.

    Raises:
      SeamlineError: a side of the split would be empty.
    """
    orphans = [
        BadSample(mask, "has no photo of the same name; add it or remove the mask")
        for mask in source.orphans
    ]
    repeated = source.duplicates()
    split: dict[str, object]
    if source.split:
        sides, split = source.split, {"given": True}
    else:
        sides = split_ids(source.files, fraction=split_fraction, seed=split_seed)
        split = {"seed": split_seed, "fraction": split_fraction}
    out = {problem.file for problem in repeated}
    shards = []
    for name, ids in zip(SPLITS, sides, strict=True):
        kept = [image_id for image_id in ids if source.files[image_id][0] not in out]
        shards += _deal(source, name, kept, record_size, shard_bytes)
    content = json.dumps(
        # Of two conversions one of which refuses bad pairs, neither clears the other's.
        [FORMAT_VERSION, cv2.__version__, skip_bad]
        + [source.listing(), record_size, split, source.orphans]
        + [[shard.name, shard.ids] for shard in shards]
    )
    digest = hashlib.sha256(content.encode()).hexdigest()
    return Plan(shards, orphans + repeated, split, record_size, digest)


def split_ids(
    ids: Iterable[str], *, fraction: float, seed: int
) -> tuple[list[str], list[str]]:
    """Splits ids into (train, val), each sorted.

    Exactly scikit-learn's `train_test_split(sorted(ids), test_size=fraction,
    random_state=seed)`: the first `ceil(fraction * n)` of a permutation are validation.

    Raises:
      SeamlineError: a side would be empty.
    """
    ordered = sorted(ids)
    if not 0 <= fraction <= 1:
        raise SeamlineError(f"--split_fraction={fraction}: must lie in 0..1")
    held_out = math.ceil(fraction * len(ordered))
    if not 0 < held_out < len(ordered):
        raise SeamlineError(
            f"--split_fraction={fraction}: {len(ordered)} examples give {held_out} for "
            "validation; both sides need at least one"
        )
    order = RandomState(seed).permutation(len(ordered))
    val = {ordered[index] for index in order[:held_out]}
    return [x for x in ordered if x not in val], [x for x in ordered if x in val]


def _deal(
    source: Source, split: str, ids: list[str], record_size: int, shard_bytes: int
) -> list[Shard]:
    count = min(
        max(1, round(_estimate(source, ids, record_size, shard_bytes) / shard_bytes)),
        max(1, len(ids)),
    )
    bounds = [index * len(ids) // count for index in range(count + 1)]
    return [
        Shard(split, f"{split}-{index:05d}-of-{count:05d}.tfrecord", ids[start:stop])
        for index, (start, stop) in enumerate(itertools.pairwise(bounds))
    ]


def _estimate(
    source: Source, ids: Sequence[str], record_size: int, enough: int
) -> float:
    """Bytes of the records of `ids`, about.

    Photos that are stored as they are have their own size. Smaller copies are guessed
    from a few that are encoded here, unless all together cannot fill a shard.
    """
    photos = sum(source.infos[source.files[image_id][0]].size for image_id in ids)
    if not record_size:
        return float(photos)
    # No JPEG of quality 95 and PNG of labels come to more than 2 bytes a pixel.
    most = min(2 * photos, len(ids) * 2 * record_size**2)
    if most <= enough:
        return float(most)
    probes = [ids[index * len(ids) // _PROBES] for index in range(_PROBES)]
    part = dataclasses.replace(
        source, files={image_id: source.files[image_id] for image_id in probes}
    )
    sizes = [
        len(done.image) + len(done.mask)
        for done in encoding.encode_chunk(
            part, record_size=record_size, keep_native=False
        )
        if not isinstance(done, BadSample)
    ]
    return len(ids) * sum(sizes) / len(sizes) if sizes else float(most)
