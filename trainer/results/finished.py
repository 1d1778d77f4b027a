"""A finished run, read from its files. No TensorFlow here."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from trainer import storage
from trainer.data import card as cards
from trainer.errors import SeamlineError
from trainer.results import kept
from trainer.results.kept import Collection

_FIGURES = ("model", "predictions", "samples")


@dataclasses.dataclass(frozen=True)
class Run:
    """What a report is drawn from.

    Attributes:
      run_dir: of the run.
      config, scores: contents of `config.json` and `scores.json`.
      history: lines of `history.jsonl`.
      card: contents of the dataset card; empty where it is out of reach.
      kept: contents of `examples.zip`, None in runs of releases that kept none.
      figures: PNG bytes of `figures/`: those that the page cannot draw itself.
    """

    run_dir: str
    config: dict[str, Any]
    history: list[dict[str, Any]]
    scores: dict[str, Any]
    card: dict[str, Any]
    kept: Collection | None
    figures: dict[str, bytes]

    @property
    def name(self) -> str:
        """The last part of the directory."""
        return self.run_dir.rstrip("/").rpartition("/")[2] or self.run_dir


def read_run(run_dir: str) -> Run:
    """Reads a finished run.

    Raises:
      SeamlineError: not a run directory, one that is not finished, or a damaged file.
    """
    config = _json(run_dir, "config.json", "is not a run directory")
    scores = _json(run_dir, "scores.json", "is not finished; run its command again")
    collection = kept.read(run_dir)
    return Run(
        run_dir=run_dir,
        config=config,
        history=_history(run_dir),
        scores=scores,
        card=collection.card if collection else _card(config),
        kept=collection,
        figures=_figures(run_dir),
    )


def _json(run_dir: str, name: str, problem: str) -> dict[str, Any]:
    path = storage.join(run_dir, name)
    if not storage.exists(path):
        raise SeamlineError(f"{path}: not there, so {run_dir} {problem}")
    return _parsed(path, storage.read_text(path))


def _parsed(path: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise SeamlineError(f"{path}: not JSON; run the training again") from error
    if not isinstance(value, dict):
        raise SeamlineError(f"{path}: not a JSON object; run the training again")
    return value


def _history(run_dir: str) -> list[dict[str, Any]]:
    path = storage.join(run_dir, "history.jsonl")
    if not storage.exists(path):
        return []
    return [_parsed(path, line) for line in storage.read_text(path).splitlines()]


def _card(config: dict[str, Any]) -> dict[str, Any]:
    """The card beside the records, where both are still as they were."""
    records_dir = config.get("records_dir")
    if not records_dir or not cards.has_card(records_dir):
        return {}
    found = cards.read_card_alone(records_dir)
    same = found.fingerprint == config.get("records_fingerprint")
    return kept.shorten_card(found.to_dict()) if same else {}


def _figures(run_dir: str) -> dict[str, bytes]:
    paths = {x: storage.join(run_dir, "figures", f"{x}.png") for x in _FIGURES}
    return {x: storage.read_bytes(p) for x, p in paths.items() if storage.exists(p)}
