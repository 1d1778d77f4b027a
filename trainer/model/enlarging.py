"""A network that sees larger, outside of training, what it learned from crops."""

from __future__ import annotations

from typing import Any

import keras


class Enlarging(keras.Model):
    """A functional network of S x S that enlarges its input where it does not learn.

    A crop that is enlarged to S shows things larger than a whole photo does; a network
    trained on such crops finds them better when photos are enlarged as much ("Fixing
    the train-test resolution discrepancy", Touvron et al., 2019). Logits come back at
    S. docs/recipe.md has what it gains.
    """

    def __init__(self, *args: Any, seen_size: int, **kwargs: Any) -> None:
        """As `keras.Model(inputs, outputs)`.

        Args:
          seen_size: height and width that the input gets where `training` is false; a
            multiple of the strides. All layers must take any size.
        """
        super().__init__(*args, **kwargs)
        self.seen_size = seen_size

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """`[B, S, S, C]` -> what the network gives, at S."""
        own, seen = inputs.shape[1:3], (self.seen_size, self.seen_size)
        if training or own == seen:
            return super().call(inputs, training=training, mask=mask)
        larger = keras.ops.image.resize(inputs, seen)
        return keras.ops.image.resize(super().call(larger, training=training), own)
