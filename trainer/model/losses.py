"""Losses that are the same for any number of replicas.

A loss is computed in two halves. `sums` adds up, over the pixels of one replica, what
the loss needs; the loop adds these over all replicas; `value` turns the totals into the
loss. So means run over the *global* batch: a mean of the replicas' means would weigh
pixels by how many ignored ones share their replica.

`needs_logits` says whether the derivatives of `value` by those sums that depend on
logits depend on logits too; else `sums` of the right masks and any logits have them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import tensorflow as tf

from trainer.errors import SeamlineError
from trainer.labels import IGNORE_LABEL


class Term(Protocol):
    """A loss in its two halves; see above."""

    @property
    def needs_logits(self) -> bool:
        """See above."""

    def sums(self, logits: tf.Tensor, masks: tf.Tensor) -> list[tf.Tensor]:
        """Float32 logits `[B, H, W, C]`, uint8 masks `[B, H, W]` -> float32 sums."""

    def value(self, sums: Sequence[tf.Tensor]) -> tf.Tensor:
        """The totals of `sums` -> the loss, 0 when all pixels are ignored."""


class CrossEntropy:
    """Cross-entropy over labelled pixels, `sum(w * ce) / sum(w)`.

    Args:
      weights: float `[C]`, weight of a pixel by its class.
    """

    needs_logits = False

    def __init__(self, weights: np.ndarray) -> None:
        self._weights = tf.constant(weights, tf.float32)

    def sums(self, logits: tf.Tensor, masks: tf.Tensor) -> list[tf.Tensor]:
        """Float32 logits `[B, H, W, C]`, uint8 masks `[B, H, W]` -> two scalars."""
        valid = tf.not_equal(masks, IGNORE_LABEL)
        labels = tf.where(valid, tf.cast(masks, tf.int32), 0)
        weights = tf.gather(self._weights, labels) * tf.cast(valid, tf.float32)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        return [tf.reduce_sum(weights * losses), tf.reduce_sum(weights)]

    def value(self, sums: Sequence[tf.Tensor]) -> tf.Tensor:
        """The totals of `sums` -> the loss, 0 when all pixels are ignored."""
        return tf.math.divide_no_nan(sums[0], sums[1])


class Dice:
    """Soft Dice loss, averaged over the classes present in the batch.

    `1 - 2 sum(p t) / (sum(p) + sum(t))` (Milletari, Navab, Ahmadi, "V-Net", 2016), p
    the softmax and t the truth over labelled pixels of the global batch.
    """

    needs_logits = True

    def __init__(self, classes: int) -> None:
        self._classes = classes

    def sums(self, logits: tf.Tensor, masks: tf.Tensor) -> list[tf.Tensor]:
        """Float32 logits `[B, H, W, C]`, uint8 masks `[B, H, W]` -> three of `[C]`."""
        logits = tf.reshape(logits, [-1, self._classes])
        masks = tf.reshape(masks, [-1])
        valid = tf.not_equal(masks, IGNORE_LABEL)
        labels = tf.where(valid, tf.cast(masks, tf.int32), 0)
        weight = tf.cast(valid, tf.float32)
        softmax = tf.nn.softmax(logits) * weight[:, tf.newaxis]
        own = tf.gather(softmax, labels, batch_dims=1)
        both = tf.math.unsorted_segment_sum(own, labels, self._classes)
        truth = tf.math.unsorted_segment_sum(weight, labels, self._classes)
        return [both, tf.reduce_sum(softmax, axis=0), truth]

    def value(self, sums: Sequence[tf.Tensor]) -> tf.Tensor:
        """The totals of `sums` -> the loss in 0..1."""
        both, predicted, truth = sums
        present = tf.cast(truth > 0, tf.float32)
        dice = tf.math.divide_no_nan(2 * both, predicted + truth)
        missing = tf.reduce_sum(present * (1 - dice))
        return tf.math.divide_no_nan(missing, tf.reduce_sum(present))


class Sum:
    """Weighted sum of losses, in float32 whatever the logits are.

    Args:
      terms: the losses, and beside each how much it counts.
    """

    def __init__(self, terms: Sequence[tuple[Term, float]]) -> None:
        self._terms = [term for term, _ in terms]
        self._factors = [factor for _, factor in terms]

    @property
    def needs_logits(self) -> bool:
        """See above; true when that of any term is."""
        return any(term.needs_logits for term in self._terms)

    def sums(self, logits: tf.Tensor, masks: tf.Tensor) -> list[list[tf.Tensor]]:
        """Float logits `[B, H, W, C]`, uint8 masks `[B, H, W]` -> sums of each."""
        logits = tf.cast(logits, tf.float32)
        return [term.sums(logits, masks) for term in self._terms]

    def value(self, sums: Sequence[Sequence[tf.Tensor]]) -> tf.Tensor:
        """The totals of `sums` -> the loss."""
        parts = zip(self._factors, self._terms, sums, strict=True)
        return tf.add_n([factor * term.value(part) for factor, term, part in parts])


def build_loss(text: str, *, weights: Sequence[float] | np.ndarray) -> Sum:
    """The loss that `--loss` asks for.

    Args:
      text: see `read_terms`.
      weights: of the C classes, for losses that weigh them.

    Raises:
      SeamlineError: see `read_terms`.
    """
    values = np.asarray(weights, np.float32)
    terms = read_terms(text).items()
    return Sum([(_TERMS[name](values), factor) for name, factor in terms])


_TERMS: Mapping[str, Callable[[np.ndarray], Term]] = {
    "cross_entropy": lambda weights: CrossEntropy(np.ones_like(weights)),
    "weighted_cross_entropy": CrossEntropy,
    "dice": lambda weights: Dice(len(weights)),
}

LOSSES = tuple(_TERMS)
"""Names that `--loss` takes."""


def read_terms(text: str) -> dict[str, float]:
    """Reads `--loss`, such as "cross_entropy+0.5*dice".

    Returns:
      Names of losses, and how much each counts.

    Raises:
      SeamlineError: an unknown name, one that is there twice, or a factor that is no
        finite positive number.
    """
    terms: dict[str, float] = {}
    for term in text.split("+"):
        factor, star, name = term.rpartition("*")
        if name not in LOSSES:
            raise SeamlineError(
                f"--loss={text}: no loss '{name}'; join some of {', '.join(LOSSES)} by "
                "+, such as cross_entropy+0.5*dice"
            )
        if name in terms:
            raise SeamlineError(
                f"--loss={text}: '{name}' is there twice; give it once, with one factor"
            )
        terms[name] = _factor(text, factor) if star else 1.0
    return terms


def _factor(text: str, factor: str) -> float:
    try:
        value = float(factor)
    except ValueError:
        value = math.nan
    numbers = np.finfo(np.float32)
    if not float(numbers.tiny) <= value <= float(numbers.max):
        raise SeamlineError(
            f"--loss={text}: '{factor}' is no finite positive number; before the * "
            "comes one, as in 0.5*dice"
        )
    return value
