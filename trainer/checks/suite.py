"""All checks of a training, each of them made though another one failed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from trainer import label_groups, pipeline
from trainer.checks import data as data_checks
from trainer.checks import hardware, places
from trainer.checks.table import Table, Verdict
from trainer.data import augment, preparation
from trainer.data.card import Card
from trainer.data.inputs import Share
from trainer.data.preparation import Outlook
from trainer.engine import options, precisions, runs, state
from trainer.engine.strategy import find_workers, local_devices
from trainer.label_groups import LabelGroups
from trainer.model import encoders, losses
from trainer.recipes import Recipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """A training as its flags describe it: see `pipeline.run`.

    Attributes:
      gpus: how many there should be; None: however many there are.
      recipe, data: give the recipe and the keyword arguments of `dataset.prepare`, or
        raise what is wrong with their flags.
    """

    gpus: int | None
    recipe_name: str
    recipe: Callable[[], Recipe]
    data: Callable[[], dict[str, Any]]
    stage_dir: str | None
    input_limits: dict[str, int]
    run_dir: str | None
    seed: int
    precision: str
    xla: str
    strategy: str
    num_virtual_devices: int
    groups: str | None = None
    resume: str


def check(table: Table, asked: Asked) -> None:
    """Makes all checks; trains, converts and fetches nothing, leaves nothing behind.

    The devices come first: TensorFlow splits no device that it has used.
    """
    recipe = _check_recipe(table, asked)
    hardware.check_gpus(table, asked.gpus, asked.precision)
    hardware.check_driver(table, asked.gpus)
    hardware.check_libraries(table, asked.gpus)
    share = _check_devices(table, asked, recipe)
    outlook = _check_data(table, asked)
    groups = _check_groups(table, asked, outlook)
    if recipe and share:
        limits = asked.input_limits
        data_checks.check_memory(table, recipe, outlook, share, limits)
    else:
        table.add("memory", Verdict.UNCHECKED, "needs the rows recipe and devices")
    settled = _check_encoder(table, recipe)
    place = outlook.records_dir or preparation.FOLDER
    places.check_records_dir(table, place, outlook.card)
    if asked.stage_dir:
        places.check_stage_dir(table, asked.stage_dir, outlook.card)
    # Without the groups that were asked for, nobody knows which run it would be.
    unknown = asked.groups is not None and groups is None
    card = None if unknown else outlook.card
    _check_run(table, asked, settled, card, groups)


def _check_recipe(table: Table, asked: Asked) -> Recipe | None:
    """All values of the recipe, and names that something is registered under."""
    recipe = None
    with table.checking("recipe"):
        found = asked.recipe()
        losses.read_terms(found.loss)
        encoders.find(found.encoder)
        policy = augment.canonical(found.augment)
        recipe = dataclasses.replace(found, augment=policy)
        sizes = f"{recipe.encoder} at {recipe.image_size}²"
        told = f"{asked.recipe_name}: {sizes}, batches of {recipe.batch_size}"
        table.add("recipe", Verdict.OK, told)
    return recipe


def _check_devices(table: Table, asked: Asked, recipe: Recipe | None) -> Share | None:
    """Devices of the strategy, on which the recipe can work; the part of those here.

    Other workers are taken to have as many.
    """
    share = None
    with table.checking("devices"):
        count = asked.num_virtual_devices
        devices = local_devices(asked.strategy, num_virtual_devices=count)
        hardware.check_work(table, devices)
        used = devices[:1] if asked.strategy == "one_device" else devices
        found = find_workers(asked.strategy)
        workers = len(found.addresses) if found else 1
        if recipe is not None:
            options.check(
                recipe,
                xla=asked.xla == "true",
                replicas=len(used) * workers,
                precision=asked.precision,
            )
        share = Share(pieces=len(used) * workers, local=len(used))
        told = f"--strategy={asked.strategy}: {', '.join(used)}"
        if workers > 1:
            told += f"; {workers} workers, the others not looked at"
        idle = max(len(devices), len(hardware.seen())) > len(used)
        if idle:
            told += "; other devices stay idle"
        table.add("devices", Verdict.NOTE if idle else Verdict.OK, told)
    return share


def _check_data(table: Table, asked: Asked) -> Outlook:
    data = None
    with table.checking("dataset"):
        data = asked.data()
    if data is None:
        table.add("records", Verdict.UNCHECKED, "the row above comes first")
        return Outlook(None, None, None)
    return data_checks.check_data(table, data)


def _check_groups(table: Table, asked: Asked, outlook: Outlook) -> LabelGroups | None:
    """Groups of classes, where they were asked for: they fit those of the dataset."""
    if asked.groups is None:
        return None
    names = None
    if outlook.card is not None:
        names = outlook.card.label_names
    elif outlook.source is not None:
        names = outlook.source.label_names
    if names is None:
        table.add("label_groups", Verdict.UNCHECKED, "needs the classes of a dataset")
        return None
    groups = None
    with table.checking("label_groups"):
        groups = label_groups.read(asked.groups, names)
        told = f"{len(names)} classes become {', '.join(groups.names)}"
        table.add("label_groups", Verdict.OK, told)
    return groups


def _check_encoder(table: Table, recipe: Recipe | None) -> Recipe | None:
    """Weights of the encoder can be had; the recipe as it would be trained."""
    if recipe is None:
        table.add("encoder", Verdict.UNCHECKED, "needs the row recipe")
        return None
    settled = None
    with table.checking("encoder"):
        settled, fallback = pipeline.settle(recipe)
        told = f"{settled.encoder}, weights: {settled.encoder_weights}"
        if fallback:
            told += "; ImageNet's cannot be had here, so it starts from random ones"
        table.add("encoder", Verdict.NOTE if fallback else Verdict.OK, told)
    return settled


def _check_run(
    table: Table,
    asked: Asked,
    recipe: Recipe | None,
    card: Card | None,
    groups: LabelGroups | None,
) -> None:
    """The run directory can be written, and holds no other run."""
    identity = None
    if recipe is not None and card is not None:
        precision = precisions.settle(asked.precision)
        identity = runs.identify(recipe, asked.seed, precision, card, groups)
    run_dir = asked.run_dir or runs.FOLDER
    if not asked.run_dir and identity and card:
        run_dir = runs.default_run_dir(card, asked.recipe_name, identity)
    places.check_run_dir(table, run_dir)
    if table.rows[-1].verdict is not Verdict.OK:
        table.add("run", Verdict.UNCHECKED, "needs the row run_dir")
    elif run_dir == runs.FOLDER:
        why = "its folder is named after records and encoder, which come first"
        table.add("run", Verdict.UNCHECKED, why)
    else:
        with table.checking("run"):
            table.add("run", *_look_into(run_dir, identity, asked.resume))


def _look_into(
    run_dir: str, identity: dict[str, Any] | None, resume: str
) -> tuple[Verdict, str]:
    """What a run directory holds, and whether the training may go on with it."""
    there = state.has_begun(run_dir)
    if there and identity is None and resume != "never":
        why = f"{run_dir} holds a run; whether it is this one depends on the rows above"
        return Verdict.UNCHECKED, why
    runs.open_run(run_dir, identity or {}, resume)
    told = "holds this run, which goes on" if there else "holds no run yet"
    return Verdict.OK, f"{run_dir}: {told}"
