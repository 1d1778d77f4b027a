"""Scores of a finished run on any records and split, and how scores are told."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from trainer import dataset, label_groups, limits, storage
from trainer.data import examples, grouping, records
from trainer.data.card import Card, read_card
from trainer.data.examples import Examples
from trainer.engine import evaluation, runs, state, views
from trainer.engine.evaluation import Labels
from trainer.errors import SeamlineError
from trainer.label_groups import LabelGroups
from trainer.labels import IGNORE_LABEL
from trainer.model.unet import ModelSpec
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
    groups: str | None = None,
    flip: bool = False,
    scales: str = "1",
    score_size: int = 0,
    logit_adjustment: float | None = None,
    checkpoint: str = "best",
) -> dict[str, Any]:
    """Scores a model of a run on a split of records; prints them.

    Args:
      run_dir: of the run.
      records_dir: None: those it was trained on.
      stage_dir: local folder to copy records to before they are read, or None.
      input_limits: keyword arguments of `limits.settle`.
      split: "train" or "val"; original-size masks are stored for "val" only, so
        `native` scores of "train" are at the record size.
      output: JSON file for what `scores.json` holds, or None.
      groups: see `label_groups.read`; None: what the model was trained on.
      flip, scales: see `views`.
      score_size: see `score`.
      logit_adjustment: in place of the run's own.
      checkpoint: "best", of the epoch with the highest mean IoU on validation photos,
        or "last", the newest.

    Returns:
      The scores; `label_groups`, `test_time` and `checkpoint` beside them.

    Raises:
      SeamlineError: no such run, records, groups or scales, or records of other
        classes.
    """
    model, spec, config = _load(run_dir, checkpoint, logit_adjustment)
    records_dir = records_dir or config["records_dir"]
    card = read_card(records_dir)
    trained = _trained_groups(config, card, spec, run_dir, records_dir)
    asked = label_groups.read_if_given(groups, card.label_names)
    answers = _answers(asked, trained, groups)
    sizes = views.view_sizes(scales, spec.seen_size)
    records_dir = dataset.stage(records_dir, stage_dir)
    [found] = examples.open_splits(
        records_dir,
        card,
        [split],
        image_size=spec.image_size,
        limits=limits.settle(**input_limits),
    )
    scored = asked or trained
    _log_choices(scored, sizes, flip)
    scores = score(
        build_predictor(model, spec, score_size, answers, sizes, flip),
        grouping.group_examples(found, scored),
        (records_dir, card, split),
        groups=scored,
        score_size=score_size,
    )
    scores["label_groups"] = scored.to_dict() if scored else None
    scores["test_time"] = {"flip": flip, "image_sizes": sizes}
    scores["checkpoint"] = checkpoint
    if output:
        storage.write_text(output, json.dumps(scores) + "\n")
    log_scores(scores, split=split)
    return scores


def _load(
    run_dir: str, checkpoint: str, logit_adjustment: float | None
) -> tuple[keras.Model, ModelSpec, dict[str, Any]]:
    """A run's model with the weights asked for, and its `config.json`."""
    tf_files.check(run_dir)
    model, spec = state.load_model(run_dir, logit_adjustment=logit_adjustment)
    config = runs.read_config(run_dir)
    if checkpoint == "last":
        state.load_last(run_dir, model, averaged=config["ema"] > 0)
    return model, spec, config


def _trained_groups(
    config: dict[str, Any], card: Card, spec: ModelSpec, run_dir: str, records_dir: str
) -> LabelGroups | None:
    """The groups that a run was trained on, checked to be of these records."""
    others = SeamlineError(
        f"--records_dir={records_dir}: its {len(card.label_names)} classes are not "
        f"those that the model in {run_dir} was trained on"
    )
    try:
        groups = runs.trained_groups(config, card.label_names, run_dir)
    except SeamlineError as error:
        raise others from error
    if (groups.names if groups else card.label_names) != spec.label_names:
        raise others
    return groups


def _answers(
    asked: LabelGroups | None, trained: LabelGroups | None, where: str | None
) -> np.ndarray | None:
    """What each label of the model counts as: uint8; None: as what it is.

    `IGNORE_LABEL` for one that the model must not answer, as no truth has it: its next
    best answer counts then. Were it left out, a wrong answer would not count.

    Args:
      asked: the groups to score.
      trained: those whose labels the model gives; None: the classes themselves.
      where: as which `asked` was given.
    """
    if asked is None:
        return None
    if trained is None:
        return asked.table[: len(asked.label_names)]
    return asked.coarsen(trained, where or "")


def build_predictor(
    model: keras.Model,
    spec: ModelSpec,
    score_size: int = 0,
    answers: np.ndarray | None = None,
    sizes: Sequence[int] = (),
    flip: bool = False,
) -> Callable[[np.ndarray], Labels]:
    """uint8 images `[N, S, S, 3]` -> labels at the model's size and as they are scored.

    Args:
      model: of `spec`.
      spec: what `model` was built from.
      score_size: see `score`.
      answers: what each label counts as, or `IGNORE_LABEL`; None: as what it is.
      sizes, flip: see `views.compile_views`.
    """
    barred = None if answers is None else answers == IGNORE_LABEL
    own, seen = spec.image_size, spec.seen_size
    plainly = {*sizes, seen} == {seen} and score_size in (0, own)
    if flip or not plainly or np.any(barred):
        predict = views.compile_views(
            model, spec, flip=flip, sizes=sizes, barred=barred, score_size=score_size
        )
    else:
        plain = evaluation.compile_predictor(model)

        def predict(photos: np.ndarray) -> Labels:
            labels = plain(photos)
            return labels, labels

    if answers is None:
        return predict

    def answered(photos: np.ndarray) -> Labels:
        labels, sized = predict(photos)
        return answers[labels], answers[sized]

    return answered


def score(
    predict: Callable[[np.ndarray], Labels],
    found: Examples,
    place: tuple[str, Card, str],
    *,
    groups: LabelGroups | None = None,
    score_size: int = 0,
) -> dict[str, Any]:
    """What `scores.json` holds of a split.

    Args:
      predict: of `build_predictor`.
      found: the examples as the model sees them, with masks of `groups`.
      place: folder of the records, their card, name of the split.
      groups: None: the classes of the records.
      score_size: height and width at which labels and truth are compared, so that
        models of several sizes are scored on one truth; 0: the model's own.
    """
    records_dir, card, split = place
    truths = None
    if score_size not in (0, found.image_size):
        log.info(
            "Scores: at %d², the model's size is %d²", score_size, found.image_size
        )
        # The very masks that a model of this size would be scored on.
        truths = grouping.group_examples(
            examples.streamed(records_dir, card, split, image_size=score_size), groups
        )
    return evaluation.evaluate(
        predict,
        found,
        grouping.group_masks(records.native_masks(records_dir, card, split), groups),
        label_names=groups.names if groups else card.label_names,
        truths=truths,
    )


def _log_choices(groups: LabelGroups | None, sizes: list[int], flip: bool) -> None:
    """Says what is scored, where it is not the model's own classes in one view."""
    if groups:
        log.info("Groups: %s", ", ".join(groups.names))
    count = len(sizes) * (1 + flip)
    if count > 1:
        log.info(
            "Views: %d of each image, at %s%s",
            count,
            ", ".join(f"{size}²" for size in sizes),
            ", each mirrored too" if flip else "",
        )


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
