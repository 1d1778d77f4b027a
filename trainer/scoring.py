"""Scores of a finished run on any records and split, and how scores are told."""

from __future__ import annotations

import json
import logging
from typing import Any

from trainer import dataset, limits, storage
from trainer.data import examples, records
from trainer.data.card import read_card
from trainer.engine import evaluation, runs, state
from trainer.errors import SeamlineError
from trainer.storage import tf_files

log = logging.getLogger("seamline")

_HEADLINES = {
    "pixel_accuracy": "accuracy",
    "foreground_accuracy": "foreground",
    "mean_iou": "mean IoU",
    "mean_recall": "mean recall",
}
_FURTHER = {
    "mean_precision": "mean precision",
    "mean_f1": "mean F1",
    "frequency_weighted_iou": "frequency-weighted IoU",
    "boundary_f1": "boundary F1",
}


def evaluate_run(
    *,
    run_dir: str,
    records_dir: str | None,
    stage_dir: str | None,
    input_limits: dict[str, int],
    split: str,
    output: str | None,
) -> dict[str, Any]:
    """Scores the best model of a run on a split of records; prints them.

    Args:
      run_dir: of the run.
      records_dir: None: those it was trained on.
      stage_dir: local folder to copy records to before they are read, or None.
      input_limits: keyword arguments of `limits.settle`.
      split: "train" or "val"; original-size masks are stored for "val" only, so
        `native` scores of "train" are at the record size.
      output: JSON file for what `scores.json` holds, or None.

    Returns:
      The scores.

    Raises:
      SeamlineError: no such run or records, or records of other classes.
    """
    tf_files.check(run_dir)
    model, spec = state.load_model(run_dir)
    config = runs.read_config(run_dir)
    records_dir = records_dir or config["records_dir"]
    card = read_card(records_dir)
    if card.label_names != spec.label_names:
        raise SeamlineError(
            f"--records_dir={records_dir}: its {len(card.label_names)} classes are not "
            f"the {spec.classes} of the model in {run_dir}"
        )
    records_dir = dataset.stage(records_dir, stage_dir)
    [found] = examples.open_splits(
        records_dir,
        card,
        [split],
        image_size=spec.image_size,
        limits=limits.settle(**input_limits),
    )
    scores = evaluation.evaluate(
        evaluation.compile_predictor(model),
        found,
        records.native_masks(records_dir, card, split),
        label_names=card.label_names,
    )
    if output:
        storage.write_text(output, json.dumps(scores) + "\n")
    log_scores(scores, split=split)
    return scores


def log_scores(scores: dict[str, Any], *, split: str) -> None:
    """Four lines: the model, beside it background predicted everywhere, and more.

    In brackets stand 95 % intervals over images.
    """
    for name, row, shown in (
        ("model", scores, _HEADLINES),
        ("all background", scores["background_baseline"], _HEADLINES),
        ("model, further", scores, _FURTHER),
        ("model at original size", scores["native"], _HEADLINES),
    ):
        ends = row.get("interval", {})
        told = [
            f"{text} {row[key]:.3f}{_told(ends.get(key))}"
            for key, text in shown.items()
        ]
        log.info(
            "Scores on %d %s examples, %s: %s",
            *(scores["examples"], split, name, ", ".join(told)),
        )


def _told(ends: list[float] | None) -> str:
    return f" [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else ""
