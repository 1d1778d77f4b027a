"""Evaluate: scores of a finished run on any records and split.

python -m trainer.evaluate --run_dir=runs/first --split=val
"""

from __future__ import annotations

from absl import flags

from trainer import flags as shared

_RUN_DIR = flags.DEFINE_string("run_dir", None, "directory of the run", required=True)
_RECORDS_DIR = flags.DEFINE_string(
    "records_dir", None, "records to score on (default: those it was trained on)"
)
shared.define_stage_flag()
shared.define_input_flags()
flags.adopt_module_key_flags(shared)
_SPLIT = flags.DEFINE_enum("split", "val", ["train", "val"], "part of the records")
_OUTPUT = flags.DEFINE_string(
    "output", None, "JSON file for all scores (default: none)"
)


def main(argv: list[str]) -> None:
    """Flags, then one call."""
    shared.refuse_positional(argv)
    with shared.quiet_imports():
        from trainer import scoring
    scoring.evaluate_run(
        run_dir=_RUN_DIR.value,
        records_dir=_RECORDS_DIR.value,
        stage_dir=flags.FLAGS.stage_dir,
        input_limits=shared.input_arguments(),
        split=_SPLIT.value,
        output=_OUTPUT.value,
    )


if __name__ == "__main__":
    shared.run(main)
