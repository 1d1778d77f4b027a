"""The layer that gives the logits, and the loss, for a few examples at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
import tensorflow as tf

from trainer.engine.updates import add_over_replicas, derivatives, hits, weighed
from trainer.model.losses import Sum
from trainer.model.stages import head_of

LOGITS_BYTES = 16 * 2**20
"""How much of the logits there is at once; of 128² and 59 classes 4 examples."""

_FLOAT_BYTES = 4


def count_parts(examples: int, model: keras.Model, limit: int) -> int:
    """The least number of equal parts that keeps a part's logits within a limit.

    Args:
      examples: of one replica.
      model: gives logits `[B, H, W, C]`.
      limit: bytes; an example alone may have more.
    """
    each = _FLOAT_BYTES * math.prod(model.output_shape[1:])
    fitting = [n for n in range(1, examples + 1) if examples % n == 0]
    return next((n for n in fitting if examples // n * each <= limit), examples)


_Sums = list[list[tf.Tensor]]


def _features_of(model: keras.Model) -> list[keras.KerasTensor]:
    """What the head takes; if joined before it, what is joined."""
    features = head_of(model).input
    before = features._keras_history.operation
    joined = isinstance(before, keras.layers.Concatenate)
    return list(before.input) if joined else [features]


def _depends(part: keras.Model, variables: Sequence[keras.Variable]) -> bool:
    return not {id(x) for x in part.variables}.isdisjoint(id(x) for x in variables)


class HeadInParts:
    """Loss and gradient of a replica's examples, whose logits never exist all at once.

    Logits are the widest a step has: in a batch of 64 at 128² with 59 classes 247 MB,
    and as much again their softmax, their gradient and what oneDNN lays out anew. Here
    all layers up to the last one that has weights take the examples at once. That layer
    and the loss take one part after the other, forwards and backwards, so that the
    logits of a part are gone before those of the next come. So is what is joined for
    that layer alone. Results are those of the whole but for rounding;
    docs/benchmarks.md has what it saves.

    Args:
      model, loss, optimizer: of the job; the loss does not need logits.
      variables: those that learn.
      parts: how many; divides the number of examples.
    """

    def __init__(
        self,
        model: keras.Model,
        loss: Sum,
        optimizer: keras.optimizers.Optimizer,
        *,
        variables: Sequence[keras.Variable],
        parts: int,
    ) -> None:
        assert not loss.needs_logits, "its derivatives come before the logits"
        self._loss, self._optimizer, self._parts = loss, optimizer, parts
        features = _features_of(model)
        self._body = keras.Model(model.inputs, features)
        self._head = keras.Model(features, model.outputs)
        own = {id(x) for x in self._head.variables}
        self._of_head = [x for x in variables if id(x) in own]
        self._of_body = [x for x in variables if id(x) not in own]
        self._variables = list(variables)
        self._learned = [
            number
            for number, feature in enumerate(features)
            if _depends(keras.Model(model.inputs, feature), self._of_body)
        ]

    def gradients(
        self, images: tf.Tensor, masks: tf.Tensor
    ) -> tuple[list[tf.Tensor], tf.Tensor, list[tf.Tensor]]:
        """This replica's gradient of the scaled loss; the loss; right and labelled.

        Args:
          images: float32 `[B, H, W, 3]`.
          masks: uint8 `[B, H, W]`.
        """
        totals = add_over_replicas(self._loss.sums_of_masks(masks))
        weights = derivatives(self._loss, self._optimizer, totals)
        with tf.GradientTape() as tape:
            features = tf.nest.flatten(self._body(images, training=True))
            learned = [features[number] for number in self._learned]
        above, of_head, sums, counts = self._all_parts(features, masks, weights)
        of_body = tape.gradient(learned, self._of_body, output_gradients=above)
        found = dict(zip(map(id, self._of_body), of_body, strict=True))
        found |= dict(zip(map(id, self._of_head), of_head, strict=True))
        loss = self._loss.value(add_over_replicas(sums))
        return [found[id(x)] for x in self._variables], loss, counts

    def _all_parts(
        self, features: list[tf.Tensor], masks: tf.Tensor, weights: _Sums
    ) -> tuple[list[tf.Tensor], list[tf.Tensor], _Sums, list[tf.Tensor]]:
        """Gradients of learned features and of the head; sums; counts."""
        cut_features, cut_masks = [self._cut(x) for x in features], self._cut(masks)
        learned = [cut_features[number] for number in self._learned]
        above = [
            tf.TensorArray(x.dtype, self._parts, element_shape=x.shape[1:])
            for x in learned
        ]
        of_head = [tf.zeros(x.shape) for x in self._of_head]
        sums = tf.nest.map_structure(tf.zeros_like, weights)
        counts = [tf.constant(0, tf.int64)] * 2
        for part in tf.range(self._parts):
            # Several at once would hold the logits of several.
            tf.autograph.experimental.set_loop_options(parallel_iterations=1)
            below = [tf.gather(x, part) for x in cut_features]
            found = self._one(below, tf.gather(cut_masks, part), weights)
            above = [a.write(part, x) for a, x in zip(above, found[0], strict=True)]
            of_head, sums, counts = tf.nest.map_structure(
                tf.add, (of_head, sums, counts), found[1:]
            )
        return [x.concat() for x in above], of_head, sums, counts

    def _one(
        self, features: list[tf.Tensor], masks: tf.Tensor, weights: _Sums
    ) -> tuple[list[tf.Tensor], list[tf.Tensor], _Sums, list[tf.Tensor]]:
        """As `_all_parts`, of one part."""
        learned = [features[number] for number in self._learned]
        with tf.GradientTape() as tape:
            tape.watch(learned)
            [logits] = tf.nest.flatten(self._head(features, training=True))
            sums = self._loss.sums(logits, masks)
            loss = weighed(sums, weights)
        above, of_head = tape.gradient(
            loss, (learned, [x.value for x in self._of_head])
        )
        return above, of_head, sums, hits(logits, masks)

    def _cut(self, values: tf.Tensor) -> tf.Tensor:
        """`[B, ...]` -> `[parts, B / parts, ...]`."""
        return tf.reshape(values, [self._parts, -1, *values.shape[1:]])
