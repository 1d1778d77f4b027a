"""Train: photos and masks in, a trained, scored and exported model out.

    python -m trainer.task --epochs=5
    python -m trainer.task --dataset=/data/clothing-co-parsing --run_dir=runs/first

The same command goes on with a run that was stopped. Exit codes: 0 done; 42 something
only you can mend; 143 stopped by SIGTERM after saving; 75 what may pass by itself, such
as a worker or a server that was lost.
"""

from __future__ import annotations

from absl import flags

from trainer import flags as shared
from trainer import recipes, training_flags

flags.adopt_module_key_flags(shared)
flags.adopt_module_key_flags(training_flags)


def main(argv: list[str]) -> None:
    """Flags, then one call."""
    shared.refuse_positional(argv)
    recipe = recipes.resolve(flags.FLAGS.recipe, shared.recipe_overrides())
    with shared.quiet_imports():
        from trainer import pipeline
    pipeline.run(
        recipe_name=flags.FLAGS.recipe,
        recipe=recipe,
        data=shared.records_arguments(),
        stage_dir=flags.FLAGS.stage_dir,
        input_limits=shared.input_arguments(),
        score_size=flags.FLAGS.score_size,
        training=training_flags.training(),
        **training_flags.values(),
    )


if __name__ == "__main__":
    shared.run(main)
