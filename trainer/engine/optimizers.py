"""The optimizers of Keras, for gradients that are added over replicas already."""

from __future__ import annotations

from typing import Any

import keras


class _Whole:
    """Keras adds gradients over replicas itself, too late for what needs the sum."""

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
        return grads_and_vars


class RMSprop(_Whole, keras.optimizers.RMSprop):
    """See `keras.optimizers.RMSprop`."""


class Adam(_Whole, keras.optimizers.Adam):
    """See `keras.optimizers.Adam`."""


class AdamW(_Whole, keras.optimizers.AdamW):
    """See `keras.optimizers.AdamW`."""


class SGD(_Whole, keras.optimizers.SGD):
    """See `keras.optimizers.SGD`."""
