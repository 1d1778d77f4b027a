"""The flags of a training. Importing this defines them."""

from __future__ import annotations

import re
from typing import Any

from absl import flags

from trainer import flags as shared

shared.define_records_flags()
shared.define_recipe_flags()
shared.define_stage_flag()
shared.define_input_flags()
shared.define_label_groups_flag("so that the model knows the groups alone")
shared.define_score_size_flag()
flags.adopt_module_key_flags(shared)

_RUN_DIR = flags.DEFINE_string(
    "run_dir",
    None,
    "folder of the results, local or gs:// (default: a folder under runs/ named after "
    "dataset, encoder, recipe and a digest of all values)",
)
_SEED = flags.DEFINE_integer(
    "seed",
    0,
    "seed of initial weights, order and augmentation",
    lower_bound=0,
    upper_bound=2**32 - 1,
)
_PRECISION = flags.DEFINE_enum(
    "precision",
    "float32",
    ["float32", "bfloat16", "float16", "auto"],
    "numbers to compute in; weights, losses and logits are float32 always, and float16 "
    "scales the loss; auto: bfloat16 on devices made for it, else float32",
)
_XLA = flags.DEFINE_enum(
    "xla",
    "false",
    ["false", "true", "auto"],
    "whether XLA compiles the training step, of one device only; auto: where it is "
    "faster, which is measured at the start",
)
_STRATEGY = flags.DEFINE_enum(
    "strategy",
    "auto",
    ["auto", "one_device", "mirrored", "multi_worker"],
    "devices: multi_worker: those of all workers that TF_CONFIG or a Kubernetes Job's "
    "environment names (docs/training.md); mirrored: all of this machine; auto: "
    "multi_worker where several workers are named, else all GPUs of this machine, else "
    "its CPU",
)
_VIRTUAL = flags.DEFINE_integer(
    "num_virtual_devices",
    0,
    "split each worker's CPU into so many devices, to try several without GPUs",
    lower_bound=0,
)
_RESUME = flags.DEFINE_enum(
    "resume",
    "auto",
    ["auto", "never", "must"],
    "whether to go on with a run that is in --run_dir",
)
_SAVE_MINUTES = flags.DEFINE_float(
    "save_minutes",
    5.0,
    "time between checkpoints within an epoch; 0: save at its end alone",
    lower_bound=0.0,
)
_MAX_MINUTES = flags.DEFINE_float(
    "max_minutes",
    0.0,
    "end after so much training, counted over all restarts: evaluate and export then; "
    "0: no limit",
    lower_bound=0.0,
)


class _StepsParser(flags.ArgumentParser):
    """FIRST,LAST -> (FIRST, LAST)."""

    syntactic_help = "two steps: FIRST,LAST"

    def parse(self, argument: str | tuple[int, int]) -> tuple[int, int]:
        """Raises ValueError for what is no such pair."""
        if isinstance(argument, tuple):
            return argument
        found = re.fullmatch(r"(\d+),(\d+)", argument)
        if not found or int(found[1]) > int(found[2]):
            raise ValueError(
                "give the first and the last step, counted from 0, such as 10,20"
            )
        return int(found[1]), int(found[2])


_PROFILE_STEPS = flags.DEFINE(
    _StepsParser(),
    "profile_steps",
    None,
    "FIRST,LAST: steps, counted from 0 over the whole run, to write a TensorFlow "
    "profile of, each in a host call of its own; see docs/tensorboard.md (default: no "
    "profile)",
    serializer=flags.CsvListSerializer(","),
)


def values() -> dict[str, Any]:
    """Where, from which seed and on which devices, as keyword arguments."""
    return {
        "run_dir": _RUN_DIR.value,
        "seed": _SEED.value,
        "precision": _PRECISION.value,
        "xla": _XLA.value,
        "strategy": _STRATEGY.value,
        "num_virtual_devices": _VIRTUAL.value,
        "groups": flags.FLAGS.label_groups,
        "resume": _RESUME.value,
    }


def training() -> dict[str, Any]:
    """`save_minutes`, `max_minutes` and `profile_steps` of `loop.Training`."""
    return {
        "save_minutes": _SAVE_MINUTES.value,
        "max_minutes": _MAX_MINUTES.value,
        "profile_steps": _PROFILE_STEPS.value,
    }
