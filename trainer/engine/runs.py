"""The directory of a run: whose it is, and what its `config.json` says."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

import trainer
from trainer import label_groups, provenance, recipes, storage
from trainer.data.card import Card
from trainer.engine import state
from trainer.errors import SeamlineError
from trainer.label_groups import LabelGroups
from trainer.recipes import Recipe

log = logging.getLogger("seamline")

FOLDER = "runs"
"""Where runs go that are given no place of their own."""


def identify(
    recipe: Recipe,
    seed: int,
    precision: str,
    card: Card,
    groups: LabelGroups | None = None,
) -> dict[str, Any]:
    """All that shapes the result: a run may go on only where all of it is the same."""
    return {
        **dataclasses.asdict(recipe),
        "seed": seed,
        "precision": precision,
        "records_fingerprint": card.fingerprint,
        **({"label_groups": groups.digest} if groups else {}),
    }


def trained_groups(
    config: dict[str, Any], label_names: Sequence[str], where: str
) -> LabelGroups | None:
    """The groups of classes that a run was trained on; None: the classes themselves.

    Args:
      config: contents of its `config.json`.
      label_names: classes of the records.
      where: the run directory.

    Raises:
      SeamlineError: groups of other classes.
    """
    content = config.get("groups")
    if content is None:
        return None
    return label_groups.from_dict(
        content, label_names, storage.join(where, "config.json")
    )


def default_run_dir(card: Card, recipe_name: str, identity: dict[str, Any]) -> str:
    """A folder of `runs/` that runs of other values do not share."""
    # Of a release that had fewer knobs, the same command finds its run.
    told = {x: y for x, y in identity.items() if y != recipes.BEFORE.get(x)}
    text = json.dumps(told, sort_keys=True)
    short = hashlib.sha256(text.encode()).hexdigest()[:8]
    parts = (card.source["name"], identity["encoder"], recipe_name, short)
    return os.path.join(FOLDER, "-".join(parts).replace(" ", "-"))


def open_run(run_dir: str, identity: dict[str, Any], resume: str) -> None:
    """Refuses a run directory that holds another run.

    Raises:
      SeamlineError: what differs; or `resume` forbids what would happen.
    """
    # Before its first checkpoint a run has nothing to lose.
    there = state.has_begun(run_dir)
    if there and resume == "never":
        raise SeamlineError(
            f"--resume=never: {run_dir} holds a run; choose another --run_dir"
        )
    if not there and resume == "must":
        raise SeamlineError(f"--resume=must: {run_dir} holds no run to go on with")
    if not there:
        return
    before = read_config(run_dir)["identity"]
    names = sorted({*before, *identity})
    differing = [
        f"{name}: {before.get(name)} there, {identity.get(name)} now"
        for name in names
        if before.get(name) != identity.get(name)
    ]
    if differing:
        raise SeamlineError(
            f"--run_dir={run_dir}: holds another run ({'; '.join(differing)}); "
            "choose another --run_dir or give the same values"
        )


def read_config(run_dir: str) -> dict[str, Any]:
    """What `config.json` of a run says.

    Its `identity` has the knobs, too, that the release of that run did not have.

    Raises:
      SeamlineError: not a run directory.
    """
    path = storage.join(run_dir, "config.json")
    if not storage.exists(path):
        raise SeamlineError(
            f"{path}: not there, so {run_dir} is not a run directory; give the "
            "--run_dir of a training"
        )
    try:
        config = json.loads(storage.read_text(path))
    except ValueError as error:
        raise SeamlineError(
            f"{path}: not JSON, so it was altered; put it back or choose another folder"
        ) from error
    config["identity"] = {**recipes.BEFORE, **config["identity"]}
    return config


def describe(
    run_dir: str,
    recipe_name: str,
    recipe: Recipe,
    identity: dict[str, Any],
    records_dir: str,
    devices: tf.distribute.Strategy,
    xla: bool,
    notices: list[str],
    groups: LabelGroups | None = None,
) -> dict[str, Any]:
    """Contents of `config.json`: every value, versions, commit and devices."""
    return {
        "recipe": recipe_name,
        **identity,
        "recipe_values": dataclasses.asdict(recipes.RECIPES[recipe_name]),
        "identity": identity,
        "run_dir": run_dir,
        "records_dir": records_dir,
        "command": " ".join(["python -m trainer.task", *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat("T", "seconds"),
        "xla": xla,
        "device": f"{type(devices).__name__} on {devices.num_replicas_in_sync}",
        "cpus": os.cpu_count(),
        "gpus": provenance.gpus(),
        "seamline_version": trainer.__version__,
        "tensorflow_version": tf.__version__,
        "keras_version": keras.__version__,
        "commit": provenance.commit(),
        "notices": notices,
        "groups": groups.to_dict() if groups else None,
    }


def write_config(run_dir: str, config: dict[str, Any]) -> None:
    """Writes `config.json`, see `describe`."""
    storage.make_folder(run_dir)
    storage.write_text(
        storage.join(run_dir, "config.json"), json.dumps(config, indent=1) + "\n"
    )
    log.info("Run: %s", run_dir)
