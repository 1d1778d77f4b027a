"""The first stretch of the road: a dataset -> records, a card and pictures of both."""

from __future__ import annotations

from typing import Any

from trainer import storage
from trainer.data import preparation, staging
from trainer.data.card import read_card
from trainer.data.preparation import Prepared
from trainer.results import sheets


def prepare(*, draw: bool = False, **records: Any) -> Prepared:
    """Finds or makes records; new ones get pictures beside their card.

    Args:
      draw: give older records pictures too, where they lack them.
      **records: see `preparation.prepare`.

    Raises:
      SeamlineError: see there.
    """
    prepared = preparation.prepare(**records)
    wanted = prepared.made or (draw and not _has_pictures(prepared.records_dir))
    if prepared.card is not None and wanted:
        sheets.draw_sheets(prepared.records_dir, prepared.card)
    return prepared


def stage(records_dir: str, stage_dir: str | None) -> str:
    """Where to read records from: a checked local copy if one is asked for.

    Args:
      records_dir: of the records.
      stage_dir: local folder for the copy; None or "": none, read them where they are.

    Raises:
      SeamlineError: no valid records, or a copy that fails its checksum.
    """
    if not stage_dir:
        return records_dir
    return staging.stage(records_dir, read_card(records_dir), stage_dir)


def _has_pictures(records_dir: str) -> bool:
    return storage.exists(storage.join(records_dir, "overlays.png"))
