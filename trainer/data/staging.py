"""Copying records to a local disk before training reads them, every byte checked."""

from __future__ import annotations

import concurrent.futures
import logging
import os
from typing import Any

from trainer import progress, storage
from trainer.data import card as cards
from trainer.data.card import Card
from trainer.errors import SeamlineError

log = logging.getLogger("seamline")

_PARALLEL = 8


def stage(records_dir: str, card: Card, stage_dir: str) -> str:
    """Brings shards and indexes to a local folder; what is there is used again.

    Args:
      records_dir: where the dataset is, local or remote.
      card: of it.
      stage_dir: local folder; the dataset gets a folder of its own in it.

    Returns:
      The folder of the local copy.

    Raises:
      SeamlineError: a file that does not have the card's checksum after the transfer,
        or a remote `stage_dir`.
    """
    check_place(stage_dir)
    folder = folder_of(stage_dir, card)
    storage.make_folder(folder)
    every = [
        (name, checks) for row in card.shards for _, name, checks in cards.files(row)
    ]
    missing = [one for one in every if not _sound(folder, *one)]
    bar = progress.Bar("staging", total=len(missing), unit="files")
    with concurrent.futures.ThreadPoolExecutor(_PARALLEL) as pool:
        jobs = [pool.submit(_fetch, records_dir, folder, *one) for one in missing]
        for job in concurrent.futures.as_completed(jobs):
            job.result()
            bar.update(1)
    bar.close()
    content = card.to_text().encode()
    storage.write_bytes(os.path.join(folder, cards.CARD_NAME), content)
    log.info(
        "Staged: %s: %d files fetched, %d were there",
        folder,
        len(missing),
        len(every) - len(missing),
    )
    return folder


def check_place(stage_dir: str) -> None:
    """Refuses a remote folder.

    Raises:
      SeamlineError: it is one.
    """
    if storage.is_remote(stage_dir):
        raise SeamlineError(
            f"--stage_dir={stage_dir}: must be a folder on a local disk"
        )


def folder_of(stage_dir: str, card: Card) -> str:
    """Where in `stage_dir` the copy of a dataset lies."""
    return os.path.join(stage_dir, card.fingerprint[:16])


def _sound(folder: str, name: str, checks: dict[str, Any]) -> bool:
    path = os.path.join(folder, name)
    return os.path.isfile(path) and cards.digest(path)["sha256"] == checks["sha256"]


def _fetch(records_dir: str, folder: str, name: str, checks: dict[str, Any]) -> None:
    remote = storage.join(records_dir, name)
    storage.download(remote, os.path.join(folder, name))
    if not _sound(folder, name, checks):
        os.remove(os.path.join(folder, name))
        raise SeamlineError(
            f"{remote}: contents differ from the card's checksum; convert again"
        )
