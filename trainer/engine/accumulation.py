"""Gradients of a global batch whose parts go through the model one after the other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from trainer.engine.updates import (
    add_over_replicas,
    apply_gradients,
    derivatives,
    hits,
    weighed,
)
from trainer.model.losses import Sum
from trainer.model.unet import batch_norms


class Accumulation:
    """One training step in parts: the gradient of the whole batch, in less memory.

    A loss is a function of sums over the pixels of the global batch. Its derivatives by
    these sums are found first, see `derivatives`. Those of cross-entropy need the masks
    alone; those of Dice need all logits, so the parts go through the model twice.

    Batch norm sees one part at a time, of all replicas.

    Args:
      model, loss, optimizer, strategy: of the job.
      variables: those that learn.
      parts: into how many the examples of each replica are cut.
      clip_norm: see `apply_gradients`.
      compiled: makes the compiled form of what a replica computes; None: as it is.
    """

    def __init__(
        self,
        model: keras.Model,
        loss: Sum,
        optimizer: keras.optimizers.Optimizer,
        strategy: tf.distribute.Strategy,
        *,
        variables: Sequence[keras.Variable],
        parts: int,
        clip_norm: float,
        compiled: Callable[[Callable], Callable] | None = None,
    ) -> None:
        self._model, self._loss, self._optimizer = model, loss, optimizer
        self._strategy, self._variables = strategy, list(variables)
        self._parts, self._clip_norm = parts, clip_norm
        self._first_pass = compiled(self._sums_of) if compiled else self._sums_of
        self._main_pass = compiled(self._add) if compiled else self._add
        with strategy.scope():
            self._gradients = [
                tf.Variable(
                    tf.zeros(x.shape),
                    trainable=False,
                    synchronization=tf.VariableSynchronization.ON_READ,
                    aggregation=tf.VariableAggregation.SUM,
                )
                for x in variables
            ]

    def step(self, images: Any, masks: Any) -> tuple[tf.Tensor, ...]:
        """Distributed images and masks -> loss, right and labelled pixels."""
        weights = self._derivatives(images, masks)
        sums, counts = self._nothing(), [tf.constant(0, tf.int64)] * 2
        for part in tf.range(self._parts):
            new = self._run(self._main_pass, images, masks, part, weights)
            sums, counts = tf.nest.map_structure(tf.add, (sums, counts), new)
        self._strategy.run(self._apply)
        return self._loss.value(sums), counts[0], counts[1]

    def _derivatives(self, images: Any, masks: Any) -> list[list[tf.Tensor]]:
        """Those of the scaled loss by its sums over the global batch."""
        compute = self._first_pass if self._loss.needs_logits else self._masks_pass
        sums = self._nothing()
        with _still_statistics(self._model):
            for part in tf.range(self._parts):
                new = self._run(compute, images, masks, part)
                sums = tf.nest.map_structure(tf.add, sums, new)
        return derivatives(self._loss, self._optimizer, sums)

    def _run(self, compute: Callable, *values: Any) -> Any:
        """What `compute` gives on every replica alike."""
        outputs = self._strategy.run(compute, args=values)
        return tf.nest.map_structure(
            lambda x: self._strategy.experimental_local_results(x)[0], outputs
        )

    def _nothing(self) -> list[list[tf.Tensor]]:
        return self._loss.sums_of_masks(tf.zeros([0, 1, 1], tf.uint8))

    def _part(self, values: tf.Tensor, part: tf.Tensor) -> tf.Tensor:
        # Every so many-th example: a part holds the same ones on any number of
        # replicas, each of which has a run of the batch.
        shape = [-1, self._parts, *values.shape[1:]]
        return tf.gather(tf.reshape(values, shape), part, axis=1)

    def _sums_of(
        self, images: tf.Tensor, masks: tf.Tensor, part: tf.Tensor
    ) -> list[list[tf.Tensor]]:
        logits = self._model(self._part(images, part), training=True)
        return add_over_replicas(self._loss.sums(logits, self._part(masks, part)))

    def _masks_pass(
        self, images: tf.Tensor, masks: tf.Tensor, part: tf.Tensor
    ) -> list[list[tf.Tensor]]:
        """What `_sums_of` gives for derivatives that no logits change."""
        del images
        masks = self._part(masks, part)
        return add_over_replicas(self._loss.sums_of_masks(masks))

    def _add(
        self,
        images: tf.Tensor,
        masks: tf.Tensor,
        part: tf.Tensor,
        weights: list[list[tf.Tensor]],
    ) -> tuple[Any, Any]:
        """Adds the gradient of one part; gives the part's sums and counts."""
        masks = self._part(masks, part)
        with tf.GradientTape() as tape:
            logits = self._model(self._part(images, part), training=True)
            sums = self._loss.sums(logits, masks)
            loss = weighed(sums, weights)
        gradients = tape.gradient(loss, [x.value for x in self._variables])
        for total, gradient in zip(self._gradients, gradients, strict=True):
            total.assign_add(gradient)
        return add_over_replicas(sums), add_over_replicas(hits(logits, masks))

    def _apply(self) -> None:
        gradients = [tf.identity(x.read_value()) for x in self._gradients]
        apply_gradients(self._optimizer, gradients, self._variables, self._clip_norm)
        for total in self._gradients:
            total.assign(tf.zeros_like(total))


@contextlib.contextmanager
def _still_statistics(model: keras.Model) -> Iterator[None]:
    """Batch norms that are traced meanwhile keep their statistics as they are."""
    layers = batch_norms(model)
    before = [x.momentum for x in layers]
    for layer in layers:
        layer.momentum = 1.0
    try:
        yield
    finally:
        for layer, momentum in zip(layers, before, strict=True):
            layer.momentum = momentum
