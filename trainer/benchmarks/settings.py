"""What is measured, and how often."""

from __future__ import annotations

import dataclasses
from typing import Any

from trainer.recipes import Recipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What all measurements of one call share.

    Attributes:
      recipe: image size, batch size, augmentation and model.
      data: keyword arguments of `dataset.prepare`.
      input_limits: keyword arguments of `limits.settle`.
      seed: of weights, order and augmentation.
      repeats: how often what is compared is measured, in turns.
      model: a run directory or an export that predicts; None: the recipe's model with
        random weights.
      precision: that "train" and "tutorial" have `trainer.task` compute in; "step" is
        measured in float32, and in bfloat16 where that is faster.
      xla: whether XLA compiles the steps of "train" and "step"; "auto": where that is
        faster.
      shards: of a thousand examples each, that "scale" starts on.
    """

    recipe: Recipe
    data: dict[str, Any]
    input_limits: dict[str, int]
    seed: int
    repeats: int
    model: str | None = None
    shards: int = 100_000
    precision: str = "float32"
    xla: str = "false"
