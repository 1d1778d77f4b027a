"""Losses that are the same for any number of replicas.

A loss is computed in two halves. `sums` adds up, over the examples of one replica, what
the loss needs; the loop adds these over all replicas; `value` turns the totals into the
loss. So means run over the *global* batch: a mean of the replicas' means would weigh
pixels by how many ignored ones share their replica.

`needs_logits` says whether the derivatives of `value` by those sums that depend on
logits depend on logits too; else they are found at `sums_of_masks`, before any logits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from trainer.errors import SeamlineError
from trainer.model.lovasz import Lovasz
from trainer.model.pixels import Pixels, Truth

_SMALLEST = float(np.finfo(np.float32).tiny)


class Term(Protocol):
    """A loss in its two halves; see above."""

    @property
    def needs_logits(self) -> bool:
        """See above."""

    def sums(self, pixels: Pixels) -> list[tf.Tensor]:
        """Float32 sums over the examples of a batch."""

    def sums_of_masks(self, truth: Truth) -> list[tf.Tensor]:
        """As `sums`, with 0 for those that depend on logits."""

    def value(self, sums: Sequence[tf.Tensor]) -> tf.Tensor:
        """The totals of `sums` -> the loss, 0 when all pixels are ignored."""


class CrossEntropy:
    """Cross-entropy over labelled pixels, `sum(w * ce) / sum(w)`; also focal loss.

    With smoothing s the truth is `1 - s + s / C` for the pixel's class and `s / C` for
    each other (Szegedy et al., "Rethinking the Inception Architecture", 2016).

    Focal loss takes `(1 - p) ** gamma * -log(p)` where cross-entropy takes `-log(p)`,
    so that pixels that are right already count little (Lin, Goyal, Girshick, He,
    Dollár, "Focal Loss for Dense Object Detection", 2017).

    Args:
      weights: float `[C]`, weight of a pixel by its class.
      smoothing: s, in [0, 1).
      gamma: at least 0, which makes it cross-entropy.
    """

    needs_logits = False

    def __init__(
        self,
        weights: Sequence[float] | np.ndarray,
        *,
        smoothing: float = 0.0,
        gamma: float = 0.0,
    ) -> None:
        self._weights = tf.constant(weights, tf.float32)
        self._smoothing, self._gamma = smoothing, gamma

    def sums(self, pixels: Pixels) -> list[tf.Tensor]:
        """Two scalars: losses and weights, added up."""
        weights = self._weigh(pixels)
        losses = self._focused(-pixels.own)
        if self._smoothing:
            every = self._focused(-tf.nn.log_softmax(pixels.flat))
            mean = tf.reduce_mean(every, axis=-1)
            losses = (1 - self._smoothing) * losses + self._smoothing * mean
        return [tf.reduce_sum(weights * losses), tf.reduce_sum(weights)]

    def sums_of_masks(self, truth: Truth) -> list[tf.Tensor]:
        """0, and the weights added up."""
        return [tf.constant(0.0), tf.reduce_sum(self._weigh(truth))]

    def _weigh(self, truth: Truth) -> tf.Tensor:
        return tf.gather(self._weights, truth.labels) * truth.valid

    def _focused(self, surprise: tf.Tensor) -> tf.Tensor:
        """`-log(p)` -> what it counts."""
        if not self._gamma:
            return surprise
        # At 0 the power has no finite derivative where gamma is below 1.
        missing = tf.maximum(-tf.math.expm1(-surprise), _SMALLEST)
        return missing**self._gamma * surprise

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

    def sums(self, pixels: Pixels) -> list[tf.Tensor]:
        """Three of `[C]`: p of the truth, p, and the truth, added up."""
        both = self._by_class(tf.exp(pixels.own) * pixels.valid, pixels)
        return [both, pixels.predicted, self._by_class(pixels.valid, pixels)]

    def sums_of_masks(self, truth: Truth) -> list[tf.Tensor]:
        """0 twice, and the truth added up."""
        nothing = tf.zeros([self._classes])
        return [nothing, nothing, self._by_class(truth.valid, truth)]

    def _by_class(self, values: tf.Tensor, truth: Truth) -> tf.Tensor:
        return tf.math.unsorted_segment_sum(values, truth.labels, self._classes)

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
        pixels = Pixels(logits, masks, by_class=self.needs_logits)
        return [term.sums(pixels) for term in self._terms]

    def sums_of_masks(self, masks: tf.Tensor) -> list[list[tf.Tensor]]:
        """Uint8 `[B, H, W]` -> as `sums`, with 0 for what depends on logits."""
        truth = Truth(masks)
        return [term.sums_of_masks(truth) for term in self._terms]

    def value(self, sums: Sequence[Sequence[tf.Tensor]]) -> tf.Tensor:
        """The totals of `sums` -> the loss."""
        parts = zip(self._factors, self._terms, sums, strict=True)
        return tf.add_n([factor * term.value(part) for factor, term, part in parts])


def build_loss(
    text: str,
    *,
    weights: Sequence[float] | np.ndarray,
    smoothing: float = 0.0,
    gamma: float = 2.0,
) -> Sum:
    """The loss that `--loss` asks for.

    Args:
      text: see `read_terms`.
      weights: of the C classes, for losses that weigh them.
      smoothing: see `CrossEntropy`; for all that are made of it.
      gamma: of the focal loss.

    Raises:
      SeamlineError: see `read_terms`.
    """
    knobs = _Knobs(np.asarray(weights, np.float32), smoothing, gamma)
    terms = read_terms(text).items()
    return Sum([(_TERMS[name](knobs), factor) for name, factor in terms])


class _Knobs(NamedTuple):
    weights: np.ndarray
    smoothing: float
    gamma: float


def _cross_entropy(knobs: _Knobs) -> Term:
    return CrossEntropy(np.ones_like(knobs.weights), smoothing=knobs.smoothing)


def _weighted_cross_entropy(knobs: _Knobs) -> Term:
    return CrossEntropy(knobs.weights, smoothing=knobs.smoothing)


def _focal(knobs: _Knobs) -> Term:
    weights, smoothing, gamma = knobs
    return CrossEntropy(np.ones_like(weights), smoothing=smoothing, gamma=gamma)


_TERMS: Mapping[str, Callable[[_Knobs], Term]] = {
    "cross_entropy": _cross_entropy,
    "weighted_cross_entropy": _weighted_cross_entropy,
    "focal": _focal,
    "dice": lambda knobs: Dice(len(knobs.weights)),
    "lovasz": lambda knobs: Lovasz(len(knobs.weights)),
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
    if not _SMALLEST <= value <= float(np.finfo(np.float32).max):
        raise SeamlineError(
            f"--loss={text}: '{factor}' is no finite positive number; before the * "
            "comes one, as in 0.5*dice"
        )
    return value
