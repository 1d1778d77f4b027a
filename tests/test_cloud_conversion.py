"""Conversion from and to buckets, with the very bytes of a local one."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from tests.forks import COMMON, ROOT, Command
from tests.gcs import Cloud
from tests.gcs_gate import Request
from trainer import storage
from trainer.data import card as cards
from trainer.data import conversion, sources, staging, verification
from trainer.data.preparation import NEW_RECORDS
from trainer.errors import SeamlineError

SHARDED = {**NEW_RECORDS, "record_size": 0, "shard_bytes": 80_000}
"""Values that make four shards of the drawn figures."""


def convert(source: str, place: str, **values: object) -> cards.Card | None:
    opened = sources.open_folder(source, name="drawn")
    return conversion.convert(opened, place, **{**SHARDED, **values})


def content(place: str) -> dict[str, bytes]:
    return {
        name: storage.read_bytes(storage.join(place, name))
        for name in storage.list_files(place)
    }


@pytest.fixture(scope="module")
def local(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a local conversion."""
    place = str(tmp_path_factory.mktemp("local") / "records")
    convert(str(drawn), place)
    return content(place)


@pytest.fixture
def photos(bucket: str, drawn: Path) -> str:
    """The drawn figures in a bucket."""
    for name in storage.list_files(str(drawn)):
        storage.create(f"{bucket}/figures/{name}", (drawn / name).read_bytes())
    return f"{bucket}/figures"


def start(cloud: Cloud, cwd: Path, *arguments: str) -> subprocess.Popen[str]:
    """`python -m trainer.convert` with access to the server."""
    return Command(
        *("trainer.convert", *arguments),
        cwd=cwd,
        env={**os.environ, **COMMON, **cloud.env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_a_bucket_gets_the_bytes_of_a_local_conversion(
    bucket: str, drawn: Path, local: dict[str, bytes]
) -> None:
    convert(str(drawn), f"{bucket}/records")
    assert content(f"{bucket}/records") == local


def test_photos_of_a_bucket_give_the_bytes_of_local_ones(
    photos: str, bucket: str, local: dict[str, bytes]
) -> None:
    convert(photos, f"{bucket}/records")
    assert content(f"{bucket}/records") == local


def test_worker_processes_read_photos_of_a_bucket(
    photos: str, bucket: str, local: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.data.shards._SLICE_PAIRS", 2)
    convert(photos, f"{bucket}/records", worker_count=2)
    assert content(f"{bucket}/records") == local


def test_503_on_a_third_of_the_requests_changes_nothing(
    cloud: Cloud, photos: str, bucket: str, local: dict[str, bytes]
) -> None:
    with cloud.failing(1 / 3):
        convert(photos, f"{bucket}/records")
        verification.verify(f"{bucket}/records")
    assert content(f"{bucket}/records") == local


def test_nothing_in_the_bucket_is_replaced_and_the_card_is_made_last(
    cloud: Cloud, bucket: str, drawn: Path
) -> None:
    with cloud.watching() as seen:
        convert(str(drawn), f"{bucket}/records")
    uploads = [x for x in seen if x.method == "POST" and "/upload/" in x.path]
    shards = [x for x in uploads if x.makes(r'"records/\.parts/[^"]*\.tfrecord"')]
    assert len(shards) == 4
    assert all("ifGenerationMatch=0" in x.path for x in uploads)
    names = r"rewriteTo/.*\.(tfrecord|index\.json)"
    moves = [n for n, x in enumerate(seen) if x.makes(names)]
    [card] = [n for n, x in enumerate(seen) if x.makes(r'"records/card\.json"')]
    assert len(moves) == 8
    assert card > max(moves)


def test_bad_pairs_leave_nothing_in_the_bucket(
    cloud: Cloud, photos: str, bucket: str
) -> None:
    storage.remove_file(f"{photos}/photos/0003.jpg")
    before = storage.list_files(bucket)
    with pytest.raises(SeamlineError, match=r"0003\.mat: has no photo"):
        convert(photos, f"{bucket}/records")
    assert storage.list_files(bucket) == before


@pytest.mark.parametrize(
    "moment",
    [
        r'/upload/.*train-00001-of-00003\.tfrecord"',
        r"/upload/.*seal\.json",
        r"rewriteTo/.*train-00001-of-00003\.tfrecord",
        r'/upload/.*"records/card\.json"',
    ],
    ids=["upload of a shard", "seal", "move of a shard", "card"],
)
def test_killed_in_a_request_it_leaves_no_card_and_a_second_run_the_same_bytes(
    cloud: Cloud,
    bucket: str,
    drawn: Path,
    local: dict[str, bytes],
    moment: str,
) -> None:
    started = threading.Event()

    def kill(request: Request) -> int | None:
        if not request.makes(moment):
            return None
        started.wait()
        process.kill()
        process.wait()
        return 503

    with cloud.watching(kill):
        process = Command(
            *("tests.interrupted", str(drawn), f"{bucket}/records", "80000", "0"),
            *("put", "0"),
            cwd=ROOT,
            stderr=subprocess.PIPE,
        )
        started.set()
        _, err = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, err
    assert not cards.has_card(f"{bucket}/records")
    # Once it is sealed all is decided, and any reader finishes it.
    conversion.parts.finish(f"{bucket}/records")
    assert cards.has_card(f"{bucket}/records") == (
        "rewrite" in moment or "card" in moment
    )
    if not cards.has_card(f"{bucket}/records"):
        convert(str(drawn), f"{bucket}/records")
    assert content(f"{bucket}/records") == local


def test_of_two_conversions_at_once_one_wins_and_the_other_says_so(
    cloud: Cloud, bucket: str, drawn: Path, tmp_path: Path
) -> None:
    both = threading.Barrier(2)
    reached = []

    def together(request: Request) -> int | None:
        # Each has all its shards in the bucket before either may seal.
        if request.makes(r"seal\.json"):
            reached.append(request)
            both.wait(timeout=120)
        return None

    with cloud.watching(together):
        running = [
            start(
                cloud,
                tmp_path,
                f"--dataset={drawn}",
                f"--records_dir={bucket}/records",
                f"--record_size={size}",
            )
            for size in (64, 96)
        ]
        ended = [process.communicate(timeout=120) for process in running]
    codes = [process.returncode for process in running]
    assert sorted(codes) == [0, 42], ended
    assert len(reached) == 2
    said = ended[codes.index(42)][1]
    assert "another conversion was first" in said
    assert said.count("\n") == 1
    card = verification.verify(f"{bucket}/records")
    assert card.record_size == (64, 96)[codes.index(0)]
    assert sorted(storage.list_files(f"{bucket}/records")) == [
        "card.json",
        "classes.png",
        "overlays.png",
        "train-00000-of-00001.index.json",
        "train-00000-of-00001.tfrecord",
        "val-00000-of-00001.index.json",
        "val-00000-of-00001.tfrecord",
    ]


def test_hosts_share_a_conversion_in_a_bucket(
    photos: str, bucket: str, local: dict[str, bytes]
) -> None:
    place = f"{bucket}/records"
    assert convert(photos, place, num_hosts=2, shard_index=1) is None
    assert not cards.has_card(place)
    assert convert(photos, place, num_hosts=2, shard_index=0) is not None
    assert content(place) == local


def test_a_changed_object_is_found_and_named(bucket: str, drawn: Path) -> None:
    place = f"{bucket}/records"
    convert(str(drawn), place)
    name = f"{place}/val-00000-of-00001.tfrecord"
    changed = bytearray(storage.read_bytes(name))
    changed[99] ^= 1
    storage.remove_file(name)
    storage.create(name, bytes(changed))
    with pytest.raises(SeamlineError, match=f"{name}: contents differ"):
        verification.verify(place)


def test_records_of_a_bucket_are_staged_in_parallel_and_used_again(
    cloud: Cloud, bucket: str, drawn: Path, tmp_path: Path, local: dict[str, bytes]
) -> None:
    place = f"{bucket}/records"
    convert(str(drawn), place)
    card = cards.read_card(place)
    with cloud.failing(1 / 3):
        folder = staging.stage(place, card, str(tmp_path))
    assert content(folder) == local
    with cloud.watching() as seen:
        assert staging.stage(place, card, str(tmp_path)) == folder
    assert seen == []
