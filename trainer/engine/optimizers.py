"""The optimizers of Keras, with a rate for every variable.

They take gradients that are added over replicas already: Keras adds them itself, but
too late for what needs the sum, such as the norm that clipping limits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Rates:
    """How fast each variable learns, in the order of the variables.

    Attributes:
      factors: of the learning rate, weight decay's too. An update is scaled, not a
        gradient: adaptive optimizers do not see the scale of that.
      late: whether the variable begins to learn some steps after the others. Its
        moments are corrected for their start by its own steps.
    """

    factors: tuple[float, ...]
    late: tuple[bool, ...]


class _PerVariable(keras.optimizers.Optimizer):
    """What all optimizers here add to those of Keras.

    Attributes:
      rates: to be set before `build`; None: all variables learn alike.
    """

    rates: Rates | None = None
    _is_late = False

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Makes the optimizer's own variables, those of late variables too."""
        super().build(variables)
        if self.rates and any(self.rates.late):
            self._late_iterations = self.add_variable(
                shape=(),
                dtype="int",
                aggregation="only_first_replica",
                name="late_iteration",
            )

    @property
    def iterations(self) -> keras.Variable:
        """Steps done, by the variable that is being updated if there is one."""
        return self._late_iterations if self._is_late else self._iterations

    def apply(
        self,
        grads: Sequence[tf.Tensor],
        trainable_variables: Sequence[keras.Variable],
    ) -> None:
        """Moves these variables; called by every replica."""
        super().apply(grads, trainable_variables)
        late = self.rates.late if self.rates else ()
        if any(late) and any(late[self._index(x)] for x in trainable_variables):
            self._late_iterations.assign_add(1)

    def update_step(
        self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: Any
    ) -> None:
        """Decays and moves one variable at its own rate."""
        late = False
        if self.rates:
            index = self._index(variable)
            late = self.rates.late[index]
            if self.rates.factors[index] != 1:
                learning_rate = learning_rate * self.rates.factors[index]
        decay = self.weight_decay
        if decay is not None and self._use_weight_decay(variable):
            rate = tf.cast(learning_rate, variable.dtype)
            variable.assign_sub(variable * tf.cast(decay, variable.dtype) * rate)
        # Keras asks for the count while it builds the graph of this variable.
        self._is_late = late
        try:
            super().update_step(gradient, variable, learning_rate)
        finally:
            self._is_late = False

    def _index(self, variable: keras.Variable | tf.Variable) -> int:
        return self._get_variable_index(variable)

    def _apply_weight_decay(self, variables: Sequence[keras.Variable]) -> None:
        """Nothing: `update_step` does, at the rate of each variable."""

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
        return grads_and_vars


class RMSprop(_PerVariable, keras.optimizers.RMSprop):
    """See `keras.optimizers.RMSprop`."""


class Adam(_PerVariable, keras.optimizers.Adam):
    """See `keras.optimizers.Adam`."""


class AdamW(_PerVariable, keras.optimizers.AdamW):
    """See `keras.optimizers.AdamW`."""


class SGD(_PerVariable, keras.optimizers.SGD):
    """See `keras.optimizers.SGD`."""
