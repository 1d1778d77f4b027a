"""The road: dataset -> records -> training -> scores, pictures, report, export."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from trainer import dataset, label_groups, limits, scoring, storage
from trainer.data import augment, examples, grouping, inputs
from trainer.data.card import Card, has_card, read_card
from trainer.data.examples import Examples
from trainer.data.inputs import Stream
from trainer.data.preparation import Prepared
from trainer.engine import (
    announcing,
    compilation,
    evaluation,
    loop,
    options,
    precisions,
    runs,
    state,
    steps,
    workers,
)
from trainer.engine.job import Job, build_job, build_spec
from trainer.engine.strategy import build_strategy, log_batches
from trainer.errors import SeamlineError
from trainer.label_groups import LabelGroups
from trainer.model import encoders, losses
from trainer.model.unet import ModelSpec, build_model
from trainer.recipes import Recipe
from trainer.results import agreement, board
from trainer.results.export import export_model
from trainer.results.publish import publish, shown_examples
from trainer.storage import locks, tf_files

log = logging.getLogger("seamline")

CONCLUSION = "Best model"
"""How the line begins that says training has ended; a benchmark measures by it."""

_UNTRAINED_NOTICE = (
    "no ImageNet weights could be had; the encoder started from random weights and "
    "learned in full"
)


@workers.lost_worker_explained()
def run(
    *,
    recipe_name: str,
    recipe: Recipe,
    data: dict[str, Any],
    stage_dir: str | None,
    input_limits: dict[str, int],
    run_dir: str | None,
    seed: int,
    precision: str,
    xla: str,
    strategy: str,
    num_virtual_devices: int,
    groups: str | None = None,
    resume: str,
    score_size: int = 0,
    training: dict[str, Any],
) -> None:
    """Trains, evaluates, reports and exports; goes on with a run that was stopped.

    Args:
      recipe_name: what `config.json` calls the recipe.
      recipe: all that shapes the training, checked.
      data: keyword arguments of `dataset.prepare`.
      stage_dir: local folder to copy records to before they are read, or None.
      input_limits: keyword arguments of `limits.settle`.
      run_dir: where results go; None: a folder under `runs/` named after all that
        shapes the result, so that the same command finds its run again.
      seed: of initial weights, order and augmentation.
      precision: see `precisions.settle`; weights and logits are float32 always.
      xla, strategy, num_virtual_devices: see `compilation.settle`, `build_strategy`.
      groups: see `label_groups.read`; None: the model knows the records' classes.
      resume: "auto", "never" or "must".
      score_size: of `scores.json`, see `scoring.score`.
      training: `save_minutes`, `max_minutes`, `profile_steps` of `loop.Training`.

    Raises:
      SeamlineError: a value, file or folder that only the user can mend.
      Stopped: by a signal, after saving.
      Unavailable: another process has `run_dir`, or a worker was lost or not started.
    """
    losses.read_terms(recipe.loss)
    policy = augment.canonical(recipe.augment)
    recipe, fallback = settle(dataclasses.replace(recipe, augment=policy))
    # First of all: TensorFlow splits no device that it has used, to read records say.
    devices = build_strategy(strategy, num_virtual_devices=num_virtual_devices)
    precision = precisions.settle(precision)
    options.check(recipe, xla == "true", devices.num_replicas_in_sync, precision)
    prepared, card, merged = _open_data(devices, data, groups)
    notices = [text for text in (fallback, prepared.notice) if text]
    log_batches(devices, recipe.batch_size)
    identity = runs.identify(recipe, seed, precision, card, merged)
    workers.refuse_difference(devices, identity)
    run_dir = run_dir or runs.default_run_dir(card, recipe_name, identity)
    with _open_run(devices, run_dir, identity, resume) as (run_dir, calls):
        place = (dataset.stage(prepared.records_dir, stage_dir), card)
        stream, val = open_input(recipe, *place, seed, input_limits, merged)
        compiled = _settle_xla(run_dir, xla, recipe, devices, precision, stream)
        seen = _see(recipe, *place, merged)
        shares = seen.frequencies("train")
        spec = build_spec(recipe, seen.label_names, precision, shares)
        terms = (run_dir, spec, recipe, seen, seed, devices, stream, val)
        job = build_job(*terms, compiled)
        values = (recipe_name, recipe, identity, prepared.records_dir)
        config = runs.describe(run_dir, *values, devices, compiled, notices, merged)
        _train(job, spec, config, patience=recipe.patience, **calls, **training)
        if workers.is_chief(devices):
            _conclude(job, spec, recipe, place, notices, merged, score_size)
        # Were one to leave before, a chief that is started again would miss it.
        workers.wait_for_all(devices)


def _settle_xla(
    run_dir: str,
    xla: str,
    recipe: Recipe,
    devices: tf.distribute.Strategy,
    precision: str,
    stream: Stream,
) -> bool:
    """As the run began, where it goes on: see `compilation.settle`."""
    begun = state.has_begun(run_dir)
    before = runs.read_config(run_dir).get("xla") if begun else None
    replicas = devices.num_replicas_in_sync
    steps = recipe.epochs * (recipe.steps_per_epoch or stream.steps)
    return compilation.settle(xla, recipe, replicas, precision, before, steps)


def _see(
    recipe: Recipe, records_dir: str, card: Card, merged: LabelGroups | None
) -> Card:
    """The card with the classes that the model knows."""
    counted = records_dir if options.needs_image_counts(recipe) else None
    return grouping.group_card(card, merged, counted)


def _open_data(
    devices: tf.distribute.Strategy, data: dict[str, Any], groups: str | None
) -> tuple[Prepared, Card, LabelGroups | None]:
    """Records, their card, and groups of their classes if those were asked for."""
    prepared = _prepare(devices, data)
    card = prepared.card
    assert card is not None, "one host alone always seals"
    merged = label_groups.read_if_given(groups, card.label_names)
    if merged:
        log.info("Groups: %s", ", ".join(merged.names))
    return prepared, card, merged


def _prepare(devices: tf.distribute.Strategy, data: dict[str, Any]) -> Prepared:
    """The chief finds or makes records; the other workers wait and read them."""
    if workers.is_chief(devices):
        prepared = dataset.prepare(**data)
        workers.from_chief(devices, prepared.records_dir)
        return prepared
    place = workers.from_chief(devices, "")
    if not has_card(place):
        raise SeamlineError(
            f"--records_dir={place}: worker {workers.index(devices)} finds no records "
            "there; give a folder that all workers share"
        )
    return Prepared(place, read_card(place), notice="", made=False)


@contextlib.contextmanager
def _open_run(
    devices: tf.distribute.Strategy,
    run_dir: str,
    identity: dict[str, Any],
    resume: str,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The run directory, see `_place`, and what `loop.Training` calls meanwhile."""
    place = _place(devices, run_dir, identity, resume)
    with announcing.on_the_job(devices) as report, place as (run_dir, still_ours):
        yield run_dir, {"still_ours": still_ours, "report": report}


@contextlib.contextmanager
def _place(
    devices: tf.distribute.Strategy,
    run_dir: str,
    identity: dict[str, Any],
    resume: str,
) -> Iterator[tuple[str, Callable[[], None]]]:
    """The run directory, held against other processes; a scratch folder elsewhere.

    The chief alone reads and writes the run directory.
    """
    if not workers.is_chief(devices):
        yield workers.scratch_folder(), lambda: None
        return
    tf_files.check(run_dir)
    runs.open_run(run_dir, identity, resume)
    with locks.exclusive(run_dir) as still_ours:
        # Another process may have begun meanwhile.
        runs.open_run(run_dir, identity, resume)
        yield run_dir, still_ours


def _train(job: Job, spec: ModelSpec, config: dict[str, Any], **values: Any) -> None:
    """Trains to the end; of several workers the chief alone draws for TensorBoard."""
    run_dir = job.run_dir
    if workers.is_chief(job.strategy):
        begun = state.has_begun(run_dir)
        before = runs.read_config(run_dir) if begun else None
        values["about"] = board.about(config, before)
        shown = steps.watched(job)
        values["paint"] = board.Painter(job.val, shown, spec.label_names)
    training = loop.Training(job, **values)
    runs.write_config(run_dir, config)
    storage.write_text(storage.join(run_dir, "model.json"), spec.to_json() + "\n")
    training.run()


def settle(recipe: Recipe) -> tuple[Recipe, str]:
    """Settles what the recipe leaves to the circumstances; says when it fell back."""
    weights = encoders.resolve_weights(
        recipe.encoder, recipe.encoder_weights, image_size=recipe.image_size
    )
    random = weights == "none"
    fell_back = random and recipe.encoder_weights == "auto"
    if fell_back:
        log.info("Encoder: %s", _UNTRAINED_NOTICE)
    training = recipe.encoder_training
    if training == "auto" or fell_back:
        training = "full" if random else "finetune"
    recipe = dataclasses.replace(
        recipe, encoder_weights=weights, encoder_training=training
    )
    return recipe, _UNTRAINED_NOTICE if fell_back else ""


def open_input(
    recipe: Recipe,
    records_dir: str,
    card: Card,
    seed: int,
    input_limits: dict[str, int],
    groups: LabelGroups | None = None,
) -> tuple[Stream, Examples]:
    """The training examples as a stream of batches, and those to validate on.

    Args:
      recipe: image size, batch size, order and augmentation.
      records_dir, card: the dataset.
      seed: of order and augmentation.
      input_limits: keyword arguments of `limits.settle`.
      groups: what masks tell; None: the classes of the records.

    Raises:
      SeamlineError: no such policy, or a damaged record.
    """
    use = limits.settle(**input_limits)
    val, train = examples.open_splits(
        records_dir, card, ("val", "train"), image_size=recipe.image_size, limits=use
    )
    stream = inputs.build_stream(
        grouping.group_examples(train, groups),
        policy=recipe.augment,
        repeat_threshold=recipe.repeat_threshold,
        batch_size=recipe.batch_size,
        seed=seed,
        # Training and validation have a pipeline each.
        limits=use.left(val.held + train.held, parts=2),
    )
    return stream, grouping.group_examples(val, groups)


def _conclude(
    job: Job,
    spec: ModelSpec,
    recipe: Recipe,
    place: tuple[str, Card],
    notices: list[str],
    groups: LabelGroups | None,
    score_size: int,
) -> None:
    """Scores, export, pictures and report of the best model."""
    run_dir, val, (records_dir, card) = job.run_dir, job.val, place
    log.info("%s: scores, pictures and export", CONCLUSION)
    keras.utils.set_random_seed(job.stream.seed)
    model = build_model(spec, encoder_weights=recipe.encoder_weights)
    shown, _ = val.fetch(shown_examples(len(val)))
    untrained = evaluation.compile_predictor(model)(shown)
    state.load_best(run_dir, model)
    predict = scoring.build_predictor(model, spec, score_size)
    scores = scoring.score(
        predict, val, (*place, "val"), groups=groups, score_size=score_size
    )
    storage.write_text(storage.join(run_dir, "scores.json"), json.dumps(scores) + "\n")
    photos = agreement.photos_of(records_dir, card)
    export_model(model, spec, storage.join(run_dir, "export"), photos)
    publish(
        run_dir,
        model=model,
        spec=spec,
        records_dir=records_dir,
        card=card,
        contents=grouping.group_contents(records_dir, card, groups),
        scores=scores,
        train=job.stream.examples,
        val=val,
        predict=lambda photos: predict(photos)[0],
        untrained=untrained,
        trained=predict(shown)[0],
        notices=notices,
    )
    scoring.log_scores(scores, split="val")
    log.info("Done: open %s", storage.join(run_dir, "report.html"))
    for notice in notices:
        log.info("Note: %s", notice)
