"""`trainer.task --recipe=tutorial` beside the article's script, both from raw files."""

from __future__ import annotations

import dataclasses
import logging
import os
import statistics
import tempfile
from collections.abc import Sequence

import numpy as np

from trainer import pipeline, recipes, storage
from trainer.benchmarks import article, children
from trainer.benchmarks.children import Moment
from trainer.benchmarks.measurements import Measurement
from trainer.benchmarks.settings import Settings
from trainer.data import examples, sources
from trainer.data.card import read_card
from trainer.data.preparation import NEW_RECORDS
from trainer.data.sources import Source
from trainer.engine import state
from trainer.engine.tally import Tally
from trainer.errors import SeamlineError
from trainer.model import encoders
from trainer.recipes import Recipe

log = logging.getLogger("seamline")

_TERMS = (
    *("encoder", "encoder_weights", "image_size", "batch_size"),
    *("steps_per_epoch", "epochs"),
)
"""What both are told alike; all else stands as in the article."""

_UNFIT = {
    "layout": "--images_dir, --masks_dir and --label_names",
    "records_dir": "--records_dir",
    "skip_bad": "--skip_bad",
}
_SCORES = {
    "pixel_accuracy": "val_accuracy",
    "foreground_accuracy": "val_foreground_accuracy",
    "mean_iou": "val_mean_iou",
}
"""Names of scores, and what `history.jsonl` calls them."""


@dataclasses.dataclass(frozen=True)
class Turn:
    """One training of each.

    Attributes:
      trained, done: of `trainer.task`: when its training had ended, and when scores,
        report and export were written too.
      script: when the article's model was trained.
      scores, script_scores: on the same validation photos, by name.
    """

    trained: Moment
    done: Moment
    script: Moment
    scores: dict[str, float]
    script_scores: dict[str, float]


def measure(settings: Settings) -> list[Measurement]:
    """Measures time, memory and scores of both for as many steps, in turns.

    Both begin with photos and masks in a folder of CCP's layout, and with the same
    split, encoder, weights, image size and batch; see `article` for what is not equal.
    `trainer.task` checks and converts the dataset, and scores, reports and exports its
    best epoch, also at original size: all of that counts. Of the script
    only the time to the trained model does. Each turn has a seed of its own, so that
    what seeds make of scores is seen.

    Both models are scored after their last epoch by `Tally`, on masks resized by
    nearest neighbour; each sees the photos as its own training resized them.

    Raises:
      SeamlineError: a value, file or folder that only the user can mend.
    """
    source, recipe = _source(settings), _settle(settings.recipe)
    # So that neither finds the files in memory that the other had to read.
    for path in (path for pair in source.files.values() for path in pair):
        storage.read_bytes(os.path.join(source.folder, path))
    turns = []
    for number in range(1, settings.repeats + 1):
        seed = settings.seed + number - 1
        turns.append(_turn(source, recipe, settings, seed))
        log.info(
            "Turn %d of %d: %.1f s, the article's script %.1f s",
            *(number, settings.repeats),
            *(turns[-1].done.seconds, turns[-1].script.seconds),
        )
    what = (
        f"{recipe.encoder} ({os.path.basename(recipe.encoder_weights)}), "
        f"{recipe.epochs} epochs of {recipe.steps_per_epoch} steps of "
        f"{recipe.batch_size} at {recipe.image_size}², {len(source.files)} pairs, "
        f"{settings.precision} beside float32"
    )
    return _rows(turns, what)


def _source(settings: Settings) -> Source:
    for name, given in _UNFIT.items():
        if settings.data[name]:
            raise SeamlineError(
                f"{given}: --what=tutorial trains on raw files in CCP's own layout, "
                "photos/NAME.jpg and annotations/pixel-level/NAME.mat, all of them; "
                "give --dataset alone"
            )
    source = sources.find(settings.data["dataset"])
    if storage.is_remote(source.folder):
        raise SeamlineError(f"{source.folder}: give a local dataset to measure")
    return source


def _settle(recipe: Recipe) -> Recipe:
    """The article's recipe on the terms of this one, its weights settled."""
    terms = {name: getattr(recipe, name) for name in _TERMS}
    own = dataclasses.replace(recipes.RECIPES["tutorial"], **terms)
    changed = [
        knob.name
        for knob in dataclasses.fields(recipe)
        if getattr(recipe, knob.name) != getattr(own, knob.name)
    ]
    if changed:
        raise SeamlineError(
            "--what=tutorial compares --recipe=tutorial as it is, but here it has "
            f"other values of {', '.join(changed)}; besides --recipe=tutorial give "
            f"{', '.join(f'--{name}' for name in _TERMS)} alone"
        )
    if not own.steps_per_epoch:
        raise SeamlineError(
            "--steps_per_epoch=0: --what=tutorial needs a number, the article's is 12"
        )
    weights = encoders.resolve_weights(
        own.encoder, own.encoder_weights, image_size=own.image_size
    )
    return dataclasses.replace(own, encoder_weights=weights)


def _turn(source: Source, recipe: Recipe, settings: Settings, seed: int) -> Turn:
    terms = [f"--{name}={getattr(recipe, name)}" for name in _TERMS]
    given = {x: value for x, value in settings.data.items() if value is not None}
    values = {name: given.get(name, new) for name, new in NEW_RECORDS.items()}
    record_size, workers = values.pop("record_size"), settings.data["workers"]
    shared = [
        f"--dataset={source.folder}",
        *(f"--{name}={value}" for name, value in values.items()),
        f"--seed={seed}",
        *terms,
    ]
    with tempfile.TemporaryDirectory(prefix="seamline-") as folder:
        run_dir, records_dir, output = (
            os.path.join(folder, name) for name in ("run", "records", "article")
        )
        trained, done = children.follow(
            [
                *("trainer.task", "--recipe=tutorial", *shared),
                *(f"--records_dir={records_dir}", f"--run_dir={run_dir}"),
                *(f"--record_size={record_size}", f"--workers={workers}"),
                f"--precision={settings.precision}",
            ],
            pipeline.CONCLUSION,
        )
        script, _ = children.follow(
            ["trainer.benchmarks.article", *shared, f"--output={output}"],
            article.TRAINED,
        )
        last = state.read_history(run_dir)[-1]
        file = os.path.join(output, article.LABELS_FILE)
        theirs = score_labels(file, records_dir, recipe.image_size)
    ours = {name: last[key] for name, key in _SCORES.items()}
    return Turn(trained, done, script, ours, theirs)


def score_labels(path: str, records_dir: str, image_size: int) -> dict[str, float]:
    """Scores of labels in a file, see `article.LABELS_FILE`, on validation records."""
    card = read_card(records_dir)
    val = examples.streamed(records_dir, card, "val", image_size=image_size)
    with np.load(path) as content:
        predicted = dict(zip(content["ids"].tolist(), content["labels"], strict=True))
    assert set(predicted) == set(val.ids), "both have the same split"
    tally = Tally(card.label_names)
    for number, name in enumerate(val.ids):
        _, [truth] = val.fetch([number])
        tally.add(truth, predicted[name])
    summary = tally.summary()
    return {name: summary[name] for name in _SCORES}


def _rows(turns: Sequence[Turn], what: str) -> list[Measurement]:
    done, trained, script = (
        [getattr(turn, name) for turn in turns]
        for name in ("done", "trained", "script")
    )
    whole = "from raw files to scores, report and export"
    rows = [
        _ratio("wall_ratio", "seconds", done, script, f"{whole} / the script's"),
        _ratio(
            *("wall_ratio_training", "seconds", trained, script),
            "from raw files to the end of training / the script's",
        ),
        _ratio(
            *("memory_ratio", "megabytes", done, script),
            "greatest memory of all processes of the command / the script's",
        ),
        _median("seconds", "s", [x.seconds for x in done], f"{whole}; {what}"),
        _median(
            *("training_seconds", "s", [x.seconds for x in trained]),
            "from raw files to the end of training",
        ),
        _median(
            *("script_seconds", "s", [x.seconds for x in script]),
            "from raw files to a trained model",
        ),
        _median(
            *("peak_memory_mb", "MB", [x.megabytes for x in done]),
            "the most at one time, all processes",
        ),
        _median("script_peak_memory_mb", "MB", [x.megabytes for x in script], what),
    ]
    for name in _SCORES:
        ours = [turn.scores[name] for turn in turns]
        theirs = [turn.script_scores[name] for turn in turns]
        rows += [
            _median(name, "", ours, f"validation, last epoch; {_span(ours)}"),
            _median(f"script_{name}", "", theirs, f"the script's; {_span(theirs)}"),
        ]
    return rows


def _ratio(
    name: str, of: str, ours: Sequence[Moment], theirs: Sequence[Moment], what: str
) -> Measurement:
    found = [
        getattr(own, of) / getattr(other, of)
        for own, other in zip(ours, theirs, strict=True)
    ]
    return _median(name, "", found, f"{what}; {_span(found)}")


def _span(values: Sequence[float]) -> str:
    return f"{len(values)} turns, {min(values):.3f} to {max(values):.3f}"


def _median(name: str, unit: str, values: Sequence[float], what: str) -> Measurement:
    return Measurement(f"tutorial.{name}", statistics.median(values), unit, what)
