"""Logits that make up for how rare a class is, where a network does not learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np


def rarity_offsets(shares: Sequence[float], strength: float) -> list[float]:
    """`-strength * log(share)` of each class, 0 where a class never occurs.

    Logit adjustment after training (Menon et al., "Long-tail learning via logit
    adjustment", ICLR 2021): a softmax learns how often classes occur along with what
    they look like, and takes a rare one for a frequent one where it is in doubt. What
    is found oftener is also found wrongly oftener; docs/recipe.md has the exchange.

    Args:
      shares: share of pixels of each of C classes, among those trained on.
      strength: 0 leaves logits as they are; at 1 those of a network trained on plain
        cross-entropy hold all classes to be equally likely.

    Returns:
      C numbers to add to the logits.
    """
    values = np.asarray(shares, np.float64)
    present = values > 0
    offsets = np.zeros(values.shape)
    offsets[present] = -strength * np.log(values[present])
    return [float(x) for x in offsets]


class LogitAdjustment(keras.layers.Layer):
    """Adds an offset to the logits of each class, outside of training."""

    def __init__(self, offsets: Sequence[float], **kwargs: Any) -> None:
        """As `keras.layers.Layer`.

        Args:
          offsets: one of each class.
        """
        super().__init__(**kwargs)
        self.offsets = [float(x) for x in offsets]

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """`[..., C]` -> the same, as they are if `training`, else with the offsets."""
        if training:
            return inputs
        return inputs + keras.ops.convert_to_tensor(self.offsets, inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        """What the layer is built again from."""
        return {**super().get_config(), "offsets": self.offsets}
