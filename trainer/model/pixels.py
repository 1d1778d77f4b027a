"""What losses need of logits, computed once for all of them."""

from __future__ import annotations

import functools
from collections.abc import Callable

import tensorflow as tf

from trainer.labels import IGNORE_LABEL


class Truth:
    """A batch of masks as losses see it.

    Attributes:
      masks: uint8 `[B, H, W]`.
      labels: int32 `[N]` of all N pixels, 0 where ignored.
      valid: float32 `[N]`, 1 where labelled, 0 where ignored.
    """

    def __init__(self, masks: tf.Tensor) -> None:
        self.masks = masks
        masks = tf.reshape(masks, [-1])
        labelled = tf.not_equal(masks, IGNORE_LABEL)
        self.labels = tf.where(labelled, tf.cast(masks, tf.int32), 0)
        self.valid = tf.cast(labelled, tf.float32)


class Pixels(Truth):
    """A batch of logits beside its masks.

    Args:
      logits: float32 `[B, H, W, C]`.
      masks: uint8 `[B, H, W]`.
      by_class: whether gradients go through `predicted` too.
    """

    def __init__(
        self, logits: tf.Tensor, masks: tf.Tensor, *, by_class: bool = True
    ) -> None:
        super().__init__(masks)
        self.logits, self._by_class = logits, by_class

    @functools.cached_property
    def flat(self) -> tf.Tensor:
        """The logits, float32 `[N, C]`."""
        return tf.reshape(self.logits, [-1, self.logits.shape[-1]])

    @property
    def top(self) -> tf.Tensor:
        """The highest logit of each pixel, float32 `[N]`."""
        return tf.reduce_max(self.flat, axis=-1)

    @property
    def own_logits(self) -> tf.Tensor:
        """The logit of each pixel's label, float32 `[N]`."""
        return tf.gather(self.flat, self.labels, batch_dims=1)

    @property
    def own(self) -> tf.Tensor:
        """Logarithm of the probability of each pixel's label, float32 `[N]`."""
        return self._of_softmax[0] if self._by_class else self._alone

    @property
    def predicted(self) -> tf.Tensor:
        """Probabilities of each class added up over labelled pixels, float32 `[C]`."""
        return self._of_softmax[1]

    @functools.cached_property
    def _alone(self) -> tf.Tensor:
        return _own(self.flat, self.labels)

    @functools.cached_property
    def _of_softmax(self) -> tuple[tf.Tensor, tf.Tensor]:
        return _own_and_predicted(self.flat, self.labels, self.valid)


@tf.custom_gradient
def _own(logits: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, Callable]:
    """`log p[i, labels[i]]` alone, whose gradient is `own_i ([c = label_i] - p_ic)`.

    See `_own_and_predicted`, of whose gradient this is half the work.
    """
    softmax = tf.nn.softmax(logits)

    def gradient(by_own: tf.Tensor) -> tuple[tf.Tensor, None]:
        missing = tf.one_hot(labels, logits.shape[-1]) - softmax
        return missing * by_own[:, tf.newaxis], None

    return _log_of_own(softmax, logits, labels), gradient


def _log_of_own(softmax: tf.Tensor, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """The logarithm of the label's probability, float32 `[N]`.

    That of the softmax takes three times as long as itself, so it is reckoned from that
    of the most likely class, which is no small number.
    """
    log_of_top = tf.math.log(tf.reduce_max(softmax, axis=-1))
    below_top = tf.gather(logits, labels, batch_dims=1) - tf.reduce_max(logits, axis=-1)
    return below_top + log_of_top


@tf.custom_gradient
def _own_and_predicted(
    logits: tf.Tensor, labels: tf.Tensor, valid: tf.Tensor
) -> tuple[tuple[tf.Tensor, tf.Tensor], Callable]:
    """`log p[i, labels[i]]` and `sum over i of valid[i] p[i]`, p the softmax.

    On CPUs TensorFlow's own cross-entropy takes four times as long as its softmax, and
    the gradients of gather and of reductions as long again: 224 ms for cross-entropy
    and Dice of 16 masks of 128² and 59 classes. With the gradient in closed form, which
    is `own_i ([c = label_i] - p_ic)` and `valid_i p_ic (d_c - sum_k p_ik d_k)`, both
    share one softmax.
    """
    softmax = tf.nn.softmax(logits)
    own = _log_of_own(softmax, logits, labels)
    predicted = tf.matmul(valid[tf.newaxis], softmax)[0]

    def gradient(
        by_own: tf.Tensor, by_predicted: tf.Tensor
    ) -> tuple[tf.Tensor, None, None]:
        mean = tf.linalg.matvec(softmax, by_predicted)
        # valid_i d_c - (valid_i mean_i + own_i), as a product of thin matrices.
        rows = tf.stack([valid, -(valid * mean + by_own)], axis=1)
        factors = tf.matmul(rows, tf.stack([by_predicted, tf.ones_like(by_predicted)]))
        truth = tf.one_hot(labels, logits.shape[-1]) * by_own[:, tf.newaxis]
        return softmax * factors + truth, None, None

    return (own, predicted), gradient
