"""Looking into a run: the batch that a step sees, and what its model predicts."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from trainer import dataset, label_groups, limits, recipes, storage
from trainer.data import augment, examples, grouping, inputs
from trainer.data.card import Card, read_card
from trainer.data.inputs import Stream
from trainer.data.reader import Reader
from trainer.engine import evaluation, runs, state
from trainer.errors import SeamlineError
from trainer.label_groups import LabelGroups
from trainer.recipes import Recipe
from trainer.results import kept
from trainer.results.preview import batch_sheet
from trainer.storage import tf_files

log = logging.getLogger("seamline")


def preview(
    *,
    run_dir: str | None,
    recipe_name: str,
    overrides: dict[str, Any],
    data: dict[str, Any] | None,
    stage_dir: str | None,
    seed: int | None,
    step: int,
    output: str,
    groups: str | None = None,
) -> None:
    """Draws the batch of a step; reads no more records than it holds.

    Args:
      run_dir: a run to look into: its records, recipe and seed are the defaults; None:
        a training that is yet to come.
      recipe_name, overrides: see `recipes.resolve`; for a run the overrides alone.
      data: keyword arguments of `dataset.prepare`; None: the records of the run, which
        must be those that it was trained on.
      stage_dir: local folder to copy records to before they are read, or None.
      seed: of order and augmentation; None: the run's, or 0.
      step: from 0.
      output: PNG file to write, local or remote.
      groups: see `label_groups.read`; None: the run's, or none.

    Raises:
      SeamlineError: a value, file or folder that only the user can mend.
    """
    if run_dir:
        tf_files.check(run_dir)
        identity = runs.read_config(run_dir)["identity"]
        overrides = {**_recipe_values(identity), **_given(overrides)}
        seed = identity["seed"] if seed is None else seed
    recipe = recipes.resolve(recipe_name, overrides)
    recipe = dataclasses.replace(recipe, augment=augment.canonical(recipe.augment))
    records_dir, card = _records(run_dir, data)
    merged = _groups(run_dir, groups, card)
    local, size = dataset.stage(records_dir, stage_dir), recipe.image_size
    found = examples.streamed(local, card, "train", image_size=size)
    card = grouping.group_card(card, merged)
    stream = inputs.build_stream(
        grouping.group_examples(found, merged),
        policy=recipe.augment,
        repeat_threshold=recipe.repeat_threshold,
        batch_size=recipe.batch_size,
        seed=seed or 0,
        limits=limits.settle(),
    )
    title = _title(step, recipe.steps_per_epoch or stream.steps)
    note = f"augment {recipe.augment} · batch {recipe.batch_size} · seed {seed or 0}"
    picture = _draw(stream, step, card, title=title, note=note)
    storage.write_bytes(output, picture)
    log.info("%s: %s", title, output)


def keep_examples(run_dir: str) -> None:
    """Predicts validation examples by a run's best model, for its report to show.

    Raises:
      SeamlineError: not a run directory, or its records are gone or others.
    """
    tf_files.check(run_dir)
    model, spec = state.load_model(run_dir)
    records_dir, card = _records_of_run(run_dir)
    groups, size = _groups(run_dir, None, card), spec.image_size
    val, train = (
        (
            grouping.group_examples(
                examples.streamed(records_dir, card, split, image_size=size), groups
            ),
            Reader(records_dir, card, split).stream,
        )
        for split in ("val", "train")
    )
    collection = kept.collect(
        evaluation.compile_predictor(model),
        val,
        train,
        label_names=spec.label_names,
        card=grouping.group_contents(records_dir, card, groups),
    )
    kept.write(run_dir, collection)
    log.info("Predicted: %d examples -> %s", len(collection.val), run_dir)


def _recipe_values(identity: dict[str, Any]) -> dict[str, Any]:
    return {knob.name: identity[knob.name] for knob in dataclasses.fields(Recipe)}


def _given(overrides: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in overrides.items() if value is not None}


def _groups(run_dir: str | None, groups: str | None, card: Card) -> LabelGroups | None:
    """The groups asked for, or those that the run was trained on."""
    if groups is not None or not run_dir:
        return label_groups.read_if_given(groups, card.label_names)
    config = runs.read_config(run_dir)
    return runs.trained_groups(config, card.label_names, run_dir)


def _records(run_dir: str | None, data: dict[str, Any] | None) -> tuple[str, Card]:
    if data is None:
        assert run_dir, "without a run the flags say which records"
        return _records_of_run(run_dir)
    prepared = dataset.prepare(**data)
    assert prepared.card is not None, "one host alone always seals"
    return prepared.records_dir, prepared.card


def _records_of_run(run_dir: str) -> tuple[str, Card]:
    config = runs.read_config(run_dir)
    records_dir = config["records_dir"]
    card = read_card(records_dir)
    if card.fingerprint != config["identity"]["records_fingerprint"]:
        raise SeamlineError(
            f"{records_dir}: not the records that {run_dir} was trained on "
            "(fingerprint differs); to look at others, say which by --records_dir"
        )
    return records_dir, card


def _title(step: int, steps: int) -> str:
    return (
        f"Step {step:,} · epoch {step // steps + 1:,}, {step % steps + 1} of {steps:,}"
    )


def _draw(stream: Stream, step: int, card: Card, *, title: str, note: str) -> bytes:
    numbers, copies = stream.where(step)
    with stream.examples.explained():
        [(images, masks)] = stream.batches(step, step + 1).as_numpy_iterator()
    return batch_sheet(
        images,
        masks,
        [stream.examples.ids[number] for number in numbers],
        copies.tolist(),
        card.label_names,
        title=title,
        note=note,
    )
