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

    Attributes:
      logits: float32 `[B, H, W, C]`.
    """

    def __init__(self, logits: tf.Tensor, masks: tf.Tensor) -> None:
        super().__init__(masks)
        self.logits = logits

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
        return self._of_softmax[0]

    @property
    def predicted(self) -> tf.Tensor:
        """Probabilities of each class added up over labelled pixels, float32 `[C]`."""
        return self._of_softmax[1]

    @functools.cached_property
    def _of_softmax(self) -> tuple[tf.Tensor, tf.Tensor]:
        return _own_and_predicted(self.flat, self.labels, self.valid)


@tf.custom_gradient
def _own_and_predicted(
    logits: tf.Tensor, labels: tf.Tensor, valid: tf.Tensor
) -> tuple[tuple[tf.Tensor, tf.Tensor], Callable]:
    """`log p[i, labels[i]]` and `sum over i of valid[i] p[i]`, p the softmax.

    On CPUs TensorFlow's own cross-entropy takes four times as long as its softmax, and
    the gradients of gather and of reductions as long again: 224 ms for cross-entropy
    and Dice of 16 masks of 128² and 59 classes. With the gradient in closed form, which
    is `own_i ([c = label_i] - p_ic)` and `valid_i p_ic (d_c - sum_k p_ik d_k)`, both
    share one softmax. Its logarithm takes three times as long as itself, so that of the
    label is reckoned from that of the most likely class, which is no small number.
    """
    softmax = tf.nn.softmax(logits)
    log_of_top = tf.math.log(tf.reduce_max(softmax, axis=-1))
    below_top = tf.gather(logits, labels, batch_dims=1) - tf.reduce_max(logits, axis=-1)
    own = below_top + log_of_top
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
