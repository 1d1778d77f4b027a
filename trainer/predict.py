"""Predict: photos -> label pictures, overlays and areas.

    python -m trainer.predict --model=runs/first --input=photos --output_dir=predictions

`--model` is a run directory or an exported SavedModel; `docs/predict.md` has the rest.
"""

from __future__ import annotations

from absl import flags

from trainer import flags as shared

_MODEL = flags.DEFINE_string(
    "model", None, "a run directory, or a SavedModel (its export/)", required=True
)
_INPUT = flags.DEFINE_string(
    "input",
    None,
    "a photo, or a folder of photos with its subfolders; local or gs://",
    required=True,
)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir",
    None,
    "folder for NAME.labels.png, NAME.overlay.jpg and NAME.json of each photo; local "
    "or gs://",
    required=True,
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 16, "photos that the model gets at once", lower_bound=1
)
_OVERLAYS = flags.DEFINE_enum(
    "overlays",
    "jpg",
    ["jpg", "png", "none"],
    "kind of the overlays; png has no loss, is larger and takes longer to write",
)


def main(argv: list[str]) -> int:
    """Flags, then one call."""
    shared.refuse_positional(argv)
    with shared.quiet_imports():
        from trainer.results import prediction
    return prediction.predict_photos(
        model=_MODEL.value,
        source=_INPUT.value,
        output_dir=_OUTPUT_DIR.value,
        batch_size=_BATCH_SIZE.value,
        overlays=_OVERLAYS.value,
    )


if __name__ == "__main__":
    shared.run(main)
