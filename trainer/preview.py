"""Preview: a picture of exactly the batch that a step of a training sees.

    python -m trainer.preview --dataset=/data/clothing-co-parsing --step=0
    python -m trainer.preview --run_dir=runs/first --step=1200 --output=batch.png

Takes the flags of `trainer.task` that shape its input. With --run_dir, records, recipe
and seed are those of that run; flags that are given override them.
"""

from __future__ import annotations

from absl import flags

from trainer import flags as shared

shared.define_records_flags()
shared.define_recipe_flags()
shared.define_stage_flag()
flags.adopt_module_key_flags(shared)

_RUN_DIR = flags.DEFINE_string("run_dir", None, "a run to look into (default: none)")
_SEED = flags.DEFINE_integer(
    "seed", None, "seed of order and augmentation (default: the run's, or 0)", 0
)
_STEP = flags.DEFINE_integer("step", 0, "step of the training, from 0", lower_bound=0)
_OUTPUT = flags.DEFINE_string("output", "batch.png", "PNG file to write")


def main(argv: list[str]) -> None:
    """Flags, then one call."""
    shared.refuse_positional(argv)
    with shared.quiet_imports():
        from trainer import inspection
    inspection.preview(
        run_dir=_RUN_DIR.value,
        recipe_name=flags.FLAGS.recipe,
        overrides=shared.recipe_overrides(),
        data=shared.records_arguments(),
        stage_dir=flags.FLAGS.stage_dir,
        seed=_SEED.value,
        step=_STEP.value,
        output=_OUTPUT.value,
    )


if __name__ == "__main__":
    shared.run(main)
