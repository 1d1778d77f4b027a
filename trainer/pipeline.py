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

from trainer import dataset, limits, storage
from trainer.data import augment, examples, inputs, records
from trainer.data.card import Card, has_card, read_card
from trainer.data.examples import Examples
from trainer.data.inputs import Stream
from trainer.data.preparation import Prepared
from trainer.engine import announcing, evaluation, loop, options, runs, state, workers
from trainer.engine.job import Job, build_job, build_spec
from trainer.engine.strategy import build_strategy, log_batches
from trainer.errors import SeamlineError
from trainer.model import encoders, losses
from trainer.model.unet import ModelSpec, build_model
from trainer.recipes import Recipe
from trainer.results.export import export_model
from trainer.results.publish import publish, shown_examples
from trainer.storage import locks, tf_files

log = logging.getLogger("seamline")

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
    xla: bool,
    strategy: str,
    num_virtual_devices: int,
    resume: str,
    minutes: dict[str, Any],
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
      precision: see `options.settle_precision`; weights and logits are float32 always.
      xla: whether XLA compiles the training step.
      strategy, num_virtual_devices: see `build_strategy`.
      resume: "auto", "never" or "must".
      minutes: `save_minutes` and `max_minutes` of `loop.Training`.

    Raises:
      SeamlineError: a value, file or folder that only the user can mend.
      Stopped: by a signal, after saving.
      Unavailable: another process works in `run_dir`, or another worker was lost or
        not started.
    """
    losses.check_name(recipe.loss)
    policy = augment.canonical(recipe.augment)
    recipe, fallback = settle(dataclasses.replace(recipe, augment=policy))
    # First of all: TensorFlow splits no device that it has used, to read records say.
    devices = build_strategy(strategy, num_virtual_devices=num_virtual_devices)
    options.check(recipe, xla=xla, replicas=devices.num_replicas_in_sync)
    precision = options.settle_precision(precision)
    prepared = _prepare(devices, data)
    card = prepared.card
    assert card is not None, "one host alone always seals"
    notices = [text for text in (fallback, prepared.notice) if text]
    log_batches(devices, recipe.batch_size)
    identity = runs.identify(recipe, seed, precision, card)
    workers.refuse_difference(devices, identity)
    run_dir = run_dir or runs.default_run_dir(card, recipe_name, identity)
    with _open_run(devices, run_dir, identity, resume) as (run_dir, calls):
        records_dir = dataset.stage(prepared.records_dir, stage_dir)
        stream, val = open_input(recipe, records_dir, card, seed, input_limits)
        spec = build_spec(recipe, card, precision)
        job = build_job(run_dir, spec, recipe, card, seed, devices, stream, val, xla)
        training = loop.Training(job, patience=recipe.patience, **calls, **minutes)
        values = (recipe_name, recipe, identity, prepared.records_dir)
        runs.write_config(run_dir, *values, devices, notices)
        storage.write_text(storage.join(run_dir, "model.json"), spec.to_json() + "\n")
        training.run()
        if workers.is_chief(devices):
            _conclude(job, spec, recipe, card, records_dir, notices)
        # Were one to leave before, a chief that is started again would miss it.
        workers.wait_for_all(devices)


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
) -> tuple[Stream, Examples]:
    """The training examples as a stream of batches, and those to validate on.

    Args:
      recipe: image size, batch size, order and augmentation.
      records_dir, card: the dataset.
      seed: of order and augmentation.
      input_limits: keyword arguments of `limits.settle`.

    Raises:
      SeamlineError: no such policy, or a damaged record.
    """
    use = limits.settle(**input_limits)
    val, train = examples.open_splits(
        records_dir, card, ("val", "train"), image_size=recipe.image_size, limits=use
    )
    stream = inputs.build_stream(
        train,
        card,
        policy=recipe.augment,
        repeat_threshold=recipe.repeat_threshold,
        batch_size=recipe.batch_size,
        seed=seed,
        # Training and validation have a pipeline each.
        limits=use.left(val.held + train.held, parts=2),
    )
    return stream, val


def _conclude(
    job: Job,
    spec: ModelSpec,
    recipe: Recipe,
    card: Card,
    records_dir: str,
    notices: list[str],
) -> None:
    """Scores, export, pictures and report of the best model."""
    run_dir, val = job.run_dir, job.val
    keras.utils.set_random_seed(job.stream.seed)
    model = build_model(spec, encoder_weights=recipe.encoder_weights)
    shown, _ = val.fetch(shown_examples(len(val)))
    untrained = evaluation.compile_predictor(model)(shown)
    state.load_best(run_dir, model)
    predict = evaluation.compile_predictor(model)
    truths = records.native_masks(records_dir, card, "val")
    scores = evaluation.evaluate(predict, val, truths, label_names=card.label_names)
    storage.write_text(storage.join(run_dir, "scores.json"), json.dumps(scores) + "\n")
    export_model(model, spec, storage.join(run_dir, "export"))
    publish(
        run_dir,
        model=model,
        spec=spec,
        records_dir=records_dir,
        card=card,
        scores=scores,
        train=job.stream.examples,
        val=val,
        predict=predict,
        untrained=untrained,
        trained=predict(shown),
        notices=notices,
    )
    log_scores(scores, split="val")
    log.info("Done: open %s", storage.join(run_dir, "report.html"))
    for notice in notices:
        log.info("Note: %s", notice)


def evaluate_run(
    *,
    run_dir: str,
    records_dir: str | None,
    stage_dir: str | None,
    input_limits: dict[str, int],
    split: str,
    output: str | None,
) -> dict[str, Any]:
    """Scores the best model of a run on a split of records; prints two lines.

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
    """Two lines: the model and, beside it, background predicted everywhere."""
    for name, row in (
        ("model", scores),
        ("all background", scores["background_baseline"]),
    ):
        log.info(
            "Scores on %d %s examples, %s: accuracy %.3f, foreground %.3f, mean IoU "
            "%.3f, mean recall %.3f",
            scores["examples"],
            split,
            name,
            *(
                row[key]
                for key in (
                    "pixel_accuracy",
                    "foreground_accuracy",
                    "mean_iou",
                    "mean_recall",
                )
            ),
        )
