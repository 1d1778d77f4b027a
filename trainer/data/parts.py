"""The shards of a conversion under way, and the step that makes them a dataset.

While a conversion runs, all it wrote lies in `.parts/<digest of the plan>/` of the
records directory: finished shards and, beside each, its index and a report of what it
holds. The same on disks and in buckets, for one host or many; nothing needs a lock:

1. A shard, its index and then its report appear whole, under names that only this plan
   uses.
2. `.parts/seal.json`, which holds the card, is created; where one exists that fails, so
   of several conversions exactly one is decided to be the dataset.
3. Shards and indexes move to their final names, then `card.json` is created.
4. `.parts` is removed.

Killed after step 2, whoever comes next finishes steps 3 and 4. So a valid card never
stands beside records that do not match it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import secrets
from typing import Any

from trainer import storage
from trainer.data import card as cards
from trainer.data import records
from trainer.data.card import Card
from trainer.data.plan import Plan, Shard
from trainer.data.verification import check_shard
from trainer.errors import SeamlineError, Unavailable

log = logging.getLogger("seamline")

FOLDER = ".parts"
_SEAL = "seal.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What a finished shard holds.

    Attributes:
      row: of the shard in the card.
      images, pixels: per class: examples that hold it, pixels as stored.
      sizes: `"HxW"` of the photos -> how many.
      rejected: pairs left out: `file` and `problem`.
    """

    row: dict[str, Any]
    images: list[int]
    pixels: list[int]
    sizes: dict[str, int]
    rejected: list[dict[str, str]]

    def to_bytes(self) -> bytes:
        """JSON and a checksum over it; in order, since the row goes into the card."""
        text = json.dumps(dataclasses.asdict(self))
        check = hashlib.sha256(text.encode()).hexdigest()
        return json.dumps({"report": text, "sha256": check}).encode()


def _read_report(content: bytes) -> Report | None:
    try:
        outer = json.loads(content)
        text = outer["report"]
        if hashlib.sha256(text.encode()).hexdigest() != outer["sha256"]:
            return None
        return Report(**json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


class Parts:
    """The parts of one plan in a records directory."""

    def __init__(self, records_dir: str, plan: Plan) -> None:
        self._plan = plan
        self._records_dir = records_dir
        self.folder = storage.join(records_dir, FOLDER, plan.digest[:16])

    def path(self, shard: Shard) -> str:
        """Where a finished shard lies until the seal."""
        return storage.join(self.folder, shard.name)

    def put(self, shard: Shard, local_files: tuple[str, str], report: Report) -> None:
        """Takes finished local files in: shard and index, and then their report."""
        storage.upload(local_files[0], self.path(shard))
        storage.upload(local_files[1], self._index_path(shard))
        storage.create(self._report_path(shard), report.to_bytes())

    def begun(self) -> set[str]:
        """Names of shards of which something is there, found by one listing."""
        return {name.removesuffix(".json") for name in storage.list_files(self.folder)}

    def other_plans(self) -> list[str]:
        """Parts of conversions of other plans that lie in the same place."""
        place = storage.join(self._records_dir, FOLDER)
        tops = {name.partition("/")[0] for name in storage.list_files(place)}
        return sorted(tops - {self._plan.digest[:16], _SEAL})

    def report(self, shard: Shard) -> Report | None:
        """What a shard's report says, None when there is none for all its pairs."""
        path = self._report_path(shard)
        if storage.info(path) is None:
            return None
        report = _read_report(storage.read_bytes(path))
        if report is None or report.row["name"] != shard.name:
            return None
        counted = report.row["examples"] + len(report.rejected)
        return report if counted == len(shard.ids) else None

    def verified(self, shard: Shard, classes: int) -> Report | None:
        """The report of a shard that is done, every byte and record of it re-read.

        A shard that fails is removed, to be made again.
        """
        report = self.report(shard)
        if report is None:
            self.discard(shard)
            return None
        try:
            count = check_shard(self.folder, report.row, classes=classes)
        except Unavailable:
            raise
        except SeamlineError as problem:
            log.info("Made again, since it is not sound: %s", problem)
            self.discard(shard)
            return None
        counted = [count.images.tolist(), count.pixels.tolist()]
        others = set(count.index.ids) - set(shard.ids)
        if others or counted != [report.images, report.pixels]:
            log.info("Made again, since its labels differ: %s", self.path(shard))
            self.discard(shard)
            return None
        return report

    def discard(self, shard: Shard) -> None:
        """Removes a shard, its index and its report; missing ones are fine."""
        storage.remove_file(self._report_path(shard))
        storage.remove_file(self._index_path(shard))
        storage.remove_file(self.path(shard))

    def refuse_if_overtaken(self) -> None:
        """Ends a conversion that another one was faster than.

        Raises:
          Overtaken: the place holds a dataset by now; our parts are removed.
        """
        if _card_there(self._records_dir):
            self.clear()
            raise taken(self._records_dir)

    def clear(self) -> None:
        """Removes all parts of this plan, and folders that are empty then."""
        storage.remove_folder(self.folder)
        storage.remove_empty_folders([storage.join(self._records_dir, FOLDER)])

    def _index_path(self, shard: Shard) -> str:
        return storage.join(self.folder, cards.index_name(shard.name))

    def _report_path(self, shard: Shard) -> str:
        return f"{self.path(shard)}.json"


class Overtaken(SeamlineError):
    """Another conversion made the dataset of this place."""


def taken(records_dir: str) -> Overtaken:
    """What to say where another conversion was first."""
    return Overtaken(
        f"--records_dir={records_dir}: another conversion was first; its records are "
        "complete: use them, or choose another folder for these"
    )


def seal(records_dir: str, card: Card, plan: Plan) -> bool:
    """Makes the finished parts of `plan` the dataset.

    Returns:
      False when another conversion was first; nothing of it is touched.
    """
    path = storage.join(records_dir, FOLDER, _SEAL)
    # The token tells two conversions of the same plan apart.
    content = {
        "parts": plan.digest[:16],
        "card": card.to_text(),
        "token": secrets.token_hex(8),
    }
    if not storage.create(path, json.dumps(content).encode()):
        return False
    # A seal that was gone because its conversion is complete is no right to another.
    if _card_there(records_dir):
        storage.remove_file(path)
        return False
    finish(records_dir)
    return True


def finish(records_dir: str) -> None:
    """Does what remains of a seal, and removes what conversions left behind.

    Raises:
      SeamlineError: a shard was lost or changed since; the seal is taken back, so that
        a new conversion starts afresh.
    """
    folder = storage.join(records_dir, FOLDER)
    path = storage.join(folder, _SEAL)
    if not _card_there(records_dir):
        try:
            sealed = storage.read_bytes(path)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            content = json.loads(sealed)
            card = cards.parse(content["card"].encode(), path)
            _move(records_dir, card, content["parts"])
        except (FileNotFoundError, ValueError, _Changed):
            # Another process may have finished the same seal meanwhile.
            if not _card_there(records_dir):
                storage.remove_file(path)
                raise SeamlineError(
                    f"{records_dir}: shards of an interrupted conversion were lost or "
                    "changed; run the same command again to make them anew"
                ) from None
        card_path = storage.join(records_dir, cards.CARD_NAME)
        storage.create(card_path, card.to_text().encode())
    storage.remove_folder(folder)


class _Changed(Exception):
    """A shard that is not what was written."""


def _card_there(records_dir: str) -> bool:
    return storage.info(storage.join(records_dir, cards.CARD_NAME)) is not None


def _move(records_dir: str, card: Card, folder: str) -> None:
    there = {
        name: checks for row in card.shards for _, name, checks in cards.files(row)
    }
    for name in storage.list_files(records_dir):
        # Of a dataset whose card was deleted by hand.
        if name not in there and records.FILE_NAME.fullmatch(name):
            storage.remove_file(storage.join(records_dir, name))
    for name, checks in there.items():
        target = storage.join(records_dir, name)
        storage.move(storage.join(records_dir, FOLDER, folder, name), target)
        found = storage.info(target)
        wanted = (checks["bytes"], checks["crc32c"])
        if found is None or (found.size, found.crc32c) != wanted:
            raise _Changed(target)
