"""Flags that several commands share, and how every command runs. No TensorFlow here."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from absl import app, flags
from absl import logging as absl_logging

from trainer import endings
from trainer.errors import EXIT_USER_ERROR, SeamlineError, Stopped
from trainer.label_groups import SHIPPED
from trainer.layout import Layout
from trainer.limits import Limits
from trainer.quiet import quiet_imports as quiet_imports
from trainer.recipes import RECIPES, Recipe

_DEFINE: dict[str, Callable[..., Any]] = {
    "int": flags.DEFINE_integer,
    "float": flags.DEFINE_float,
    "str": flags.DEFINE_string,
    "bool": flags.DEFINE_bool,
}


def define_recipe_flags() -> None:
    """One flag for every field of `Recipe`, and `--recipe` itself."""
    flags.DEFINE_string(
        "recipe", "default", f"bundle of defaults: {', '.join(RECIPES)}"
    )
    for knob in dataclasses.fields(Recipe):
        values = ", ".join(
            f"{name}: {getattr(recipe, knob.name)}" for name, recipe in RECIPES.items()
        )
        text = f"{knob.metadata['help']} ({values})"
        _DEFINE[str(knob.type)](knob.name, None, text)


def recipe_overrides() -> dict[str, Any]:
    """Values of the recipe's flags; None where a flag was not given."""
    return {knob.name: flags.FLAGS[knob.name].value for knob in _recipe_fields()}


def _recipe_fields() -> tuple[dataclasses.Field, ...]:
    return dataclasses.fields(Recipe)


def define_records_flags() -> None:
    """Where photos come from and records go."""
    flags.DEFINE_string(
        "dataset",
        "auto",
        "a folder in the layout of Clothing Co-Parsing (CCP); ccp: download that "
        "dataset; sample: the embedded drawn figures; auto: CCP if it is in "
        "data/clothing-co-parsing or can be downloaded, else the sample",
    )
    flags.DEFINE_string(
        "records_dir",
        None,
        "folder of the TFRecords; made from --dataset unless it holds a valid card "
        "(default: a folder under records/ named after the dataset)",
    )
    flags.DEFINE_integer(
        "record_size",
        None,
        "short side of stored photos in pixels, never enlarged; 0: as they are "
        "(new records: 256)",
        lower_bound=0,
    )
    flags.DEFINE_float(
        "split_fraction",
        None,
        "share of examples held out for validation (new records: 0.2)",
        lower_bound=0.0,
        upper_bound=1.0,
    )
    flags.DEFINE_integer(
        "split_seed",
        None,
        "seed of the split (new records: 0)",
        lower_bound=0,
        upper_bound=2**32 - 1,
    )
    flags.DEFINE_bool(
        "skip_bad", False, "leave bad pairs out (the card lists them), do not refuse"
    )
    flags.DEFINE_integer(
        "workers", 0, "parallel readers at conversion; 0: one a core", lower_bound=0
    )
    for place in dataclasses.fields(Layout):
        text = place.metadata["help"]
        if place.default not in (dataclasses.MISSING, None, ""):
            shown = place.default
            shown = ",".join(map(str, shown)) if isinstance(shown, tuple) else shown
            text = f"{text} ({shown})"
        flags.DEFINE_string(place.name, None, text)


def define_stage_flag() -> None:
    """Whether records are copied before they are read."""
    flags.DEFINE_string(
        "stage_dir",
        None,
        "local folder to copy records to before they are read, every byte checked; "
        "shards that are there are used again (default: read them where they are)",
    )


def define_label_groups_flag(purpose: str) -> None:
    """Which classes are merged, for some purpose."""
    flags.DEFINE_string(
        "label_groups",
        None,
        f"merge classes by name, {purpose}: {', '.join(SHIPPED)}, or a JSON file "
        '{"group": ["class", …], …} with each class in one group or under "ignore" '
        "(default: classes as they are)",
    )


def define_score_size_flag() -> None:
    """At which size the scores are taken."""
    flags.DEFINE_integer(
        "score_size",
        0,
        "height and width at which predictions and truth are scored, so that models "
        "of several input sizes can be compared; 0: the model's own",
        lower_bound=0,
        upper_bound=2048,
    )


def define_logit_adjustment_flag() -> None:
    """How much a finished run's model lifts rare classes."""
    flags.DEFINE_float(
        "logit_adjustment",
        None,
        "lift the logits of each class by so many times -log of its share of the "
        "pixels trained on; 0: not at all (default: as the run's own)",
        lower_bound=0.0,
    )


def define_input_flags() -> None:
    """What the input may use of the machine."""
    for knob in dataclasses.fields(Limits):
        flags.DEFINE_integer(knob.name, 0, knob.metadata["help"], lower_bound=0)


def input_arguments() -> dict[str, Any]:
    """The values of `define_input_flags` as keyword arguments."""
    fields = dataclasses.fields(Limits)
    return {knob.name: flags.FLAGS[knob.name].value for knob in fields}


def records_arguments() -> dict[str, Any]:
    """The values of `define_records_flags` as keyword arguments.

    Raises:
      SeamlineError: flags of a layout that do not go together.
    """
    names = ("dataset", "records_dir", "record_size", "split_fraction", "split_seed")
    values = {name: flags.FLAGS[name].value for name in (*names, "skip_bad", "workers")}
    return {**values, "layout": _layout()}


def _layout() -> Layout | None:
    """The layout that flags describe; None where none of them was given."""
    fields = dataclasses.fields(Layout)
    values = {place.name: flags.FLAGS[place.name].value for place in fields}
    given: dict[str, Any] = {k: v for k, v in values.items() if v is not None}
    if not given:
        return None
    for place in fields:
        name, text = place.name, place.metadata["help"]
        if given.get(name) == "" and place.default in (dataclasses.MISSING, None):
            raise SeamlineError(f"--{name}=: is empty; give it a value ({text})")
        if name not in given and place.default is dataclasses.MISSING:
            other, value = next(iter(given.items()))
            raise SeamlineError(
                f"--{other}={value}: goes with --{name}; give that too ({text})"
            )
    _refuse_beside("images_dir", given, "dataset")
    for name in ("train_ids", "val_ids"):
        _refuse_beside(name, given, "split_fraction", "split_seed")
    if "ignore_ids" in given:
        given["ignore_ids"] = _integers("ignore_ids", given["ignore_ids"])
    return Layout(**given)


def _refuse_beside(name: str, given: dict[str, Any], *others: str) -> None:
    """Refuses flags that say the same as `name` in another way."""
    for other in others:
        if name in given and flags.FLAGS[other].present:
            raise SeamlineError(
                f"--{name}={given[name]}: --{other}={flags.FLAGS[other].value} says "
                "something else; give one of the two"
            )


def _integers(name: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",")) if text.strip() else ()
    except ValueError as error:
        raise SeamlineError(
            f"--{name}={text}: not integers joined by commas, such as 0,255"
        ) from error


def run(main: Callable[[list[str]], int | None]) -> NoReturn:
    """Runs a command: plain log lines, user errors as one line and exit code 42.

    `main` gets the positional arguments and returns the exit code (None: 0).
    """

    def guarded(argv: list[str]) -> None:
        _log_plainly()
        # As process 1 of a container Python would ignore SIGTERM. The training loop
        # has a handler of its own, which saves first.
        signal.signal(signal.SIGTERM, _stop)
        try:
            code = main(argv[1:])
        except Stopped as stop:
            print(stop, file=sys.stderr, flush=True)
            code = stop.exit_code
        except KeyboardInterrupt:
            print("stopped by SIGINT", file=sys.stderr, flush=True)
            code = 128 + signal.SIGINT
        except Exception as error:
            ending = endings.explain(error)
            if ending is None:
                raise
            line, code = ending
            print(f"error: {line}", file=sys.stderr, flush=True)
        sys.exit(code or 0)

    app.run(guarded, flags_parser=_parse)
    raise AssertionError("app.run does not return")


def _parse(argv: list[str]) -> list[str]:
    """Sets the flags; what is left. A flag that cannot be ends the command here."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        print(f"error: {_explain_flag(error)}", file=sys.stderr, flush=True)
        sys.exit(EXIT_USER_ERROR)


def _explain_flag(error: flags.Error) -> str:
    """One line in our words for what absl finds wrong with a flag."""
    text = " ".join(str(error).split())
    if isinstance(error, flags.UnrecognizedFlagError):
        *_, alike = text.removesuffix(" ?").rpartition("Did you mean: ")
        known = ", ".join(f"--{name}" for name in alike.split(", "))
        meant = f"did you mean {known}? " if "Did you mean: " in text else ""
        return f"--{error.flagname}: no such flag; {meant}--help lists all"
    missing = re.findall(r"Flag (--\w+) must have a value other than None", text)
    if missing:
        return f"{' and '.join(missing)}: not given; --help says what it takes"
    # Of a boolean flag absl shows a tuple.
    text = re.sub(r"\('Non-boolean .*\)$", "not true or false", text)
    return f"{text.removeprefix('flag ')}; --help says what it takes"


def _stop(number: int, frame: FrameType | None) -> None:
    # A second one must not turn the way out into a traceback.
    signal.signal(number, lambda *_: os._exit(128 + number))
    raise Stopped(number, "stopped by SIGTERM; the same command starts again")


def _log_plainly() -> None:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("seamline")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    # TensorFlow's Python side notes every file it saves at info level.
    absl_logging.set_verbosity(absl_logging.WARNING)


def refuse_positional(argv: list[str]) -> None:
    """Refuses arguments that are not flags, so that none is lost in silence.

    Raises:
      SeamlineError: names the first one.
    """
    if argv:
        raise SeamlineError(f"{argv[0]}: not a flag; values are given as --flag=value")
