"""Benchmark: how fast the parts of Seamline are on this machine, as ratios of one run.

python -m trainer.benchmark --what=convert --dataset=/data/clothing-co-parsing
python -m trainer.benchmark --what=input --batch_size=64 --json=input.json
python -m trainer.benchmark --what=train --encoder=mobilenetv2
python -m trainer.benchmark --what=step --batch_size=16
python -m trainer.benchmark --what=predict --model=runs/first --batch_size=16
python -m trainer.benchmark --what=scale --shards=100000
python -m trainer.benchmark --what=tutorial --dataset=FOLDER --epochs=10 --repeats=3
python -m trainer.benchmark --what=all --json=new.json --compare=old.json
"""

from __future__ import annotations

from absl import flags

from trainer import flags as shared
from trainer import recipes

shared.define_records_flags()
shared.define_recipe_flags()
shared.define_input_flags()
flags.adopt_module_key_flags(shared)

_PARTS = (
    *("convert", "input", "train", "step", "predict", "export", "checkpoint"),
    *("startup", "scale"),
)
_TUTORIAL = "tutorial"
"""Takes as long as several whole trainings: no part of "all"."""
_WHAT = flags.DEFINE_enum(
    "what",
    "all",
    [*_PARTS, "all", _TUTORIAL],
    "what to measure; convert: conversion beside reading photos and masks alone; "
    "train: training steps on real input beside steps on one batch repeated; input: "
    "decoding and augmentation beside a bare warp, and then what train measures; step: "
    "the loop of trainer.task beside a bare one, for two models; predict: photos to "
    "written labels and overlays beside the bare model; export: the SavedModel beside "
    "Keras's own; checkpoint: one of each of the two models; startup: the time to the "
    "first step beside bare TensorFlow's; scale: the start on records of very many "
    "shards; all: all of these; tutorial, which takes "
    "long: trainer.task with the article's recipe beside the article's own script, "
    "from raw files to a trained model",
)
_MODEL = flags.DEFINE_string(
    "model",
    None,
    "predict: a run directory or an export (default: the recipe's model with random "
    "weights)",
)
_JSON = flags.DEFINE_string("json", None, "file for the measurements (default: none)")
_COMPARE = flags.DEFINE_string(
    "compare",
    None,
    "file that --json wrote earlier: print its values and the ratios to them too "
    "(default: none)",
)
_REPEATS = flags.DEFINE_integer(
    "repeats", 5, "how often each is run, in turns; medians count", lower_bound=1
)
_SHARDS = flags.DEFINE_integer(
    "shards",
    100_000,
    "scale: shards of a thousand examples each, made in a temporary folder",
    lower_bound=1,
)
_PRECISION = flags.DEFINE_enum(
    "precision",
    "float32",
    ["float32", "bfloat16", "float16", "auto"],
    "what trainer.task computes in, for train, input and tutorial; step is measured in "
    "float32, and in bfloat16 where that is faster",
)
_XLA = flags.DEFINE_enum(
    "xla",
    "false",
    ["false", "true", "auto"],
    "whether XLA compiles the steps of train, input and step; auto: where it is faster",
)
_SEED = flags.DEFINE_integer(
    "seed",
    0,
    "seed of weights, order and augmentation",
    lower_bound=0,
    upper_bound=2**32 - 1,
)


def main(argv: list[str]) -> None:
    """Flags, then one call."""
    shared.refuse_positional(argv)
    name = flags.FLAGS.recipe
    if _WHAT.value == _TUTORIAL and not flags.FLAGS["recipe"].present:
        name = "tutorial"
    recipe = recipes.resolve(name, shared.recipe_overrides())
    with shared.quiet_imports():
        from trainer.benchmarks import suite
        from trainer.benchmarks.settings import Settings
    settings = Settings(
        recipe=recipe,
        data=shared.records_arguments(),
        input_limits=shared.input_arguments(),
        seed=_SEED.value,
        repeats=_REPEATS.value,
        model=_MODEL.value,
        shards=_SHARDS.value,
        precision=_PRECISION.value,
        xla=_XLA.value,
    )
    parts = _PARTS if _WHAT.value == "all" else [_WHAT.value]
    suite.run(parts, settings, path=_JSON.value, compare=_COMPARE.value)


if __name__ == "__main__":
    shared.run(main)
