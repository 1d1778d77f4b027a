"""Export: the best model of a run for other runtimes, checked on validation photos.

    python -m trainer.export --run_dir=runs/first --format=tflite

docs/export.md shows how to use what it writes.
"""

from __future__ import annotations

from absl import flags

from trainer import flags as shared

_RUN_DIR = flags.DEFINE_string("run_dir", None, "directory of the run", required=True)
_FORMAT = flags.DEFINE_enum(
    "format",
    "saved_model",
    ["saved_model", "tflite", "tflite_int8", "onnx"],
    "saved_model: export/, as a training leaves it; tflite: weights in float16; "
    "tflite_int8: integers throughout; onnx: needs pip install -e '.[onnx]'. Folders "
    "of the run directory: export_tflite/ and so on",
)
_RECORDS_DIR = flags.DEFINE_string(
    "records_dir",
    None,
    "records whose validation photos check the result and whose training photos set "
    "the ranges of int8 (default: those it was trained on)",
)
shared.define_logit_adjustment_flag()
flags.adopt_module_key_flags(shared)


def main(argv: list[str]) -> None:
    """Flags, then one call."""
    shared.refuse_positional(argv)
    with shared.quiet_imports():
        from trainer.results import formats
    formats.export_run(
        run_dir=_RUN_DIR.value,
        records_dir=_RECORDS_DIR.value,
        name=_FORMAT.value,
        logit_adjustment=flags.FLAGS.logit_adjustment,
    )


if __name__ == "__main__":
    shared.run(main)
