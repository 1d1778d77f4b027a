"""Preflight: what would stop a training, found before it starts.

    python -m trainer.preflight --records_dir=records/ccp --run_dir=runs/first --gpus=4

Takes the flags of `trainer.task`. Trains, converts and fetches nothing, and leaves
nothing behind. Exit codes: 0 nothing was found that would stop it; 42 it will not work;
75 a network or a server did not answer.
"""

from __future__ import annotations

import logging

from absl import flags

from trainer import flags as shared
from trainer import recipes, training_flags
from trainer.checks import versions
from trainer.checks.table import Table

flags.adopt_module_key_flags(shared)
flags.adopt_module_key_flags(training_flags)

_GPUS = flags.DEFINE_integer(
    "gpus",
    None,
    "how many GPUs this process should see (default: however many it does)",
    lower_bound=0,
)


def main(argv: list[str]) -> int:
    """Flags, then all checks; the packages first, since the others need them."""
    shared.refuse_positional(argv)
    # What the checks say while they work stands in their rows.
    logging.getLogger("seamline").setLevel(logging.WARNING)
    table = Table()
    versions.check_versions(table)
    versions.check_keras(table)
    if not table.exit_code:
        _check_training(table)
    print("\n".join(table.lines()))
    return table.exit_code


def _check_training(table: Table) -> None:
    with shared.quiet_imports():
        from trainer.checks import suite
    name = flags.FLAGS.recipe
    asked = suite.Asked(
        gpus=_GPUS.value,
        recipe_name=name,
        recipe=lambda: recipes.resolve(name, shared.recipe_overrides()),
        data=shared.records_arguments,
        stage_dir=flags.FLAGS.stage_dir,
        input_limits=shared.input_arguments(),
        **training_flags.values(),
    )
    suite.check(table, asked)


if __name__ == "__main__":
    shared.run(main)
