"""Evaluate: scores of a finished run on any records and split.

    python -m trainer.evaluate --run_dir=runs/first --split=val
    python -m trainer.evaluate --run_dir=runs/first --label_groups=ccp9 --flip
    python -m trainer.evaluate --run_dir=runs/at256 --score_size=128 --checkpoint=last

docs/scores.md tells what each score means.
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
shared.define_label_groups_flag("truth and predictions alike")
shared.define_score_size_flag()
shared.define_logit_adjustment_flag()
flags.adopt_module_key_flags(shared)
_SPLIT = flags.DEFINE_enum("split", "val", ["train", "val"], "part of the records")
_CHECKPOINT = flags.DEFINE_enum(
    "checkpoint",
    "best",
    ["best", "last"],
    "the model of the epoch with the highest mean IoU, which validation photos chose, "
    "or the newest one, which nothing chose",
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "JSON file for all scores (default: none)"
)
_FLIP = flags.DEFINE_bool(
    "flip", False, "average probabilities with those of the mirrored image"
)
_SCALES = flags.DEFINE_string(
    "scales",
    "1",
    "average probabilities over sizes of the image, joined by commas, such as "
    "0.75,1,1.25: each times the model's size, as a multiple of 32",
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
        groups=flags.FLAGS.label_groups,
        flip=_FLIP.value,
        scales=_SCALES.value,
        score_size=flags.FLAGS.score_size,
        logit_adjustment=flags.FLAGS.logit_adjustment,
        checkpoint=_CHECKPOINT.value,
    )


if __name__ == "__main__":
    shared.run(main)
