"""Puts ImageNet weights of encoders into a folder: python bake_weights.py FOLDER NAME…

Used while the image is built, where there is a network; a pod then needs none:
`--encoder_weights=imagenet` looks in the folder `$SEAMLINE_WEIGHTS` first. The registry
is all of Seamline that is needed, so that other changes do not fetch weights again.
"""

from __future__ import annotations

import sys
from pathlib import Path

from trainer.model.registry import ENCODERS


def bake(folder: str, names: list[str], weights: str | None = "imagenet") -> None:
    """Writes NAME.weights.h5 for each name."""
    if unknown := [name for name in names if name not in ENCODERS]:
        sys.exit(f"error: {unknown[0]}: choose from {', '.join(ENCODERS)}")
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        model = ENCODERS[name].constructor(
            include_top=False, weights=weights, input_shape=(224, 224, 3)
        )
        model.save_weights(f"{folder}/{name}.weights.h5")


if __name__ == "__main__":
    bake(sys.argv[1], sys.argv[2:])
