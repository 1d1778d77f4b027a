"""Preview: a picture of exactly the batch that a step of a training sees.

    python -m trainer.preview --dataset=/data/clothing-co-parsing --step=0
    python -m trainer.preview --run_dir=runs/first --step=1200 --output=batch.png

Takes the flags of `trainer.task` that shape its input. With --run_dir, records, recipe
and seed are those of that run; flags of the recipe and --seed override single values,
and --dataset, --images_dir or --records_dir show other records.
"""

from __future__ import annotations

from typing import Any

from absl import flags

from trainer import flags as shared
from trainer.errors import SeamlineError

shared.define_records_flags()
shared.define_recipe_flags()
shared.define_stage_flag()
shared.define_label_groups_flag("as the training does; with --run_dir, as that run")
flags.adopt_module_key_flags(shared)

_RUN_DIR = flags.DEFINE_string("run_dir", None, "a run to look into (default: none)")
_SEED = flags.DEFINE_integer(
    "seed",
    None,
    "seed of order and augmentation (default: the run's, or 0)",
    lower_bound=0,
    upper_bound=2**32 - 1,
)
# Positions in the stream, step * batch and more, are int64.
_STEP = flags.DEFINE_integer(
    "step", 0, "step of the training, from 0", lower_bound=0, upper_bound=2**40
)
_OUTPUT = flags.DEFINE_string("output", "batch.png", "PNG file to write")

_WHICH_RECORDS = ("dataset", "images_dir", "records_dir")
_HOW_RECORDS = ("record_size", "split_fraction", "split_seed", "skip_bad", "workers")


def main(argv: list[str]) -> None:
    """Flags, then one call."""
    shared.refuse_positional(argv)
    if not _OUTPUT.value.lower().endswith(".png"):
        raise SeamlineError(
            f"--output={_OUTPUT.value}: the picture is a PNG; give a name that ends "
            "in .png"
        )
    data = _data()
    with shared.quiet_imports():
        from trainer import inspection
    inspection.preview(
        run_dir=_RUN_DIR.value,
        recipe_name=flags.FLAGS.recipe,
        overrides=shared.recipe_overrides(),
        data=data,
        stage_dir=flags.FLAGS.stage_dir,
        seed=_SEED.value,
        step=_STEP.value,
        output=_OUTPUT.value,
        groups=flags.FLAGS.label_groups,
    )


def _data() -> dict[str, Any] | None:
    """What `dataset.prepare` takes; None for the records of the run.

    Raises:
      SeamlineError: a flag that says what the run says already.
    """
    data = shared.records_arguments()
    if not _RUN_DIR.value:
        return data
    _refuse_beside_run("recipe", "which recipe; give single flags to change it")
    if any(flags.FLAGS[name].value for name in _WHICH_RECORDS if _given(name)):
        return data
    for name in _HOW_RECORDS:
        _refuse_beside_run(
            name, "which records; to look at others, give --dataset or --records_dir"
        )
    return None


def _given(name: str) -> bool:
    return bool(flags.FLAGS[name].present)


def _refuse_beside_run(name: str, what: str) -> None:
    if _given(name):
        raise SeamlineError(
            f"--{name}={flags.FLAGS[name].value}: --run_dir={_RUN_DIR.value} says "
            f"{what}"
        )


if __name__ == "__main__":
    shared.run(main)
