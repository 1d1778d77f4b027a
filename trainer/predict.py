"""Predict: photos -> label pictures and overlays.

    python -m trainer.predict --model=runs/first --input=photos --output_dir=predictions

`--model` is a run directory or an exported SavedModel.
"""

from __future__ import annotations

from absl import flags

from trainer import flags as shared

_MODEL = flags.DEFINE_string(
    "model", None, "a run directory, or a SavedModel (its export/)", required=True
)
_INPUT = flags.DEFINE_string(
    "input", None, "a photo or a folder of photos", required=True
)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir",
    None,
    "folder for NAME.labels.png, NAME.overlay.png and NAME.json of each photo",
    required=True,
)


def main(argv: list[str]) -> int:
    """Flags, then one call."""
    shared.refuse_positional(argv)
    with shared.quiet_imports():
        from trainer.results import prediction
    return prediction.predict_photos(
        model=_MODEL.value, source=_INPUT.value, output_dir=_OUTPUT_DIR.value
    )


if __name__ == "__main__":
    shared.run(main)
