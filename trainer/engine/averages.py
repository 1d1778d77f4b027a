"""Exponential moving averages of the weights: steadier than the weights themselves."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import keras
import tensorflow as tf


class Averages(tf.Module):
    """Averages of a model's trainable weights; batch norm averages its own statistics.

    After step t, from 0, each average a of a weight w becomes `d a + (1 - d) w` with
    `d = min(decay, (1 + t) / (10 + t))`, as `tf.train.ExponentialMovingAverage` with
    `num_updates` has it. So the first averages are of few steps: the random start is
    forgotten at once, and no bias is left to correct. Averaging is Polyak's (Polyak,
    Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992).

    Args:
      model: built in the strategy's scope.
      decay: the highest share of the old average that a step keeps, in (0, 1).
      strategy: the devices.
    """

    def __init__(
        self, model: keras.Model, decay: float, strategy: tf.distribute.Strategy
    ) -> None:
        super().__init__(name="averages")
        self._decay, self._strategy = decay, strategy
        self._weights = [x.value for x in model.trainable_variables]
        with strategy.scope():
            self.averages = [tf.Variable(x, trainable=False) for x in self._weights]

    def update(self, step: tf.Tensor) -> None:
        """Moves the averages after step `step`, an integer scalar; between replicas."""
        done = tf.cast(step, tf.float32)
        keep = tf.minimum(self._decay, (1 + done) / (10 + done))

        def move(average: tf.Variable, weight: tf.Variable, keep: tf.Tensor) -> None:
            average.assign_sub((1 - keep) * (average - weight))

        self._for_each(move, keep)

    def replace_weights(self) -> None:
        """The model holds the averages from now on; its own weights are lost."""
        for average, weight in zip(self.averages, self._weights, strict=True):
            weight.assign(average)

    @contextlib.contextmanager
    def in_model(self) -> Iterator[None]:
        """The model holds the averages meanwhile, and its own weights again after."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @tf.function
    def _exchange(self) -> None:
        def swap(average: tf.Variable, weight: tf.Variable) -> None:
            kept = tf.identity(weight.read_value())
            weight.assign(average.read_value())
            average.assign(kept)

        self._for_each(swap)

    def _for_each(self, change: Callable[..., None], *values: tf.Tensor) -> None:
        for average, weight in zip(self.averages, self._weights, strict=True):
            self._strategy.extended.update(
                average, change, args=(weight, *values), group=False
            )
