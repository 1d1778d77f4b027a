"""Lovász-softmax loss: the surrogate of 1 - IoU that sorts pixels by their error."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from trainer.labels import IGNORE_LABEL
from trainer.model.pixels import Pixels, Truth


class Lovasz:
    """Lovász-softmax loss of each image, averaged over images with a labelled pixel.

    Berman, Triki, Blaschko, "The Lovász-Softmax Loss", CVPR 2018; in the authors' code
    `lovasz_softmax(classes="present", per_image=True)`, which has no value for an image
    without a labelled pixel; here it does not count. A class's error at a pixel is
    `1 - p` where the pixel is of the class and `p` elsewhere, p the softmax. The Lovász
    extension of the Jaccard loss weighs the errors by how much that loss grows when
    pixels are taken for wrong one after another, the greatest error first. An image's
    loss is the mean over the classes present in it.

    All pixels of a batch sorted together would be no function of sums over replicas;
    the losses of images are added up exactly. As in the authors' code the weights are
    constants to the gradient: they change only where two errors change places.

    Only classes present are sorted: all 59 of CCP would take eight times as long.

    Args:
      classes: C.
    """

    needs_logits = False

    def __init__(self, classes: int) -> None:
        self._classes = classes

    def sums(self, pixels: Pixels) -> list[tf.Tensor]:
        """Two scalars: the images' losses added up, and how many images have one."""
        logits, masks = pixels.logits, pixels.masks
        size = tf.shape(masks)
        images, area = size[0], size[1] * size[2]
        # Not int32, with which TensorFlow reckons on the host.
        labels = tf.reshape(tf.cast(masks, tf.int64), [images, area])
        valid = tf.not_equal(labels, IGNORE_LABEL)
        image, label = self._present(labels, valid, images)
        chance = tf.nn.softmax(tf.reshape(logits, [images, area, self._classes]))
        chance = tf.gather_nd(
            tf.transpose(chance, [0, 2, 1]), tf.stack([image, label], axis=1)
        )
        own = tf.equal(tf.gather(labels, image), label[:, tf.newaxis])
        valid = tf.gather(valid, image)
        errors = tf.where(own, 1 - chance, chance)
        weights = tf.stop_gradient(_lovasz_weights(errors, own, valid))
        losses = tf.reduce_sum(errors * weights, axis=1)
        total = tf.math.unsorted_segment_sum(losses, image, images)
        count = tf.math.unsorted_segment_sum(tf.ones_like(losses), image, images)
        return [
            tf.reduce_sum(tf.math.divide_no_nan(total, count)),
            tf.reduce_sum(tf.cast(count > 0, tf.float32)),
        ]

    def sums_of_masks(self, truth: Truth) -> list[tf.Tensor]:
        """0, and how many images have a loss."""
        labelled = tf.not_equal(truth.masks, IGNORE_LABEL)
        images = tf.reduce_any(labelled, axis=[1, 2])
        return [tf.constant(0.0), tf.reduce_sum(tf.cast(images, tf.float32))]

    def _present(
        self, labels: tf.Tensor, valid: tf.Tensor, images: tf.Tensor
    ) -> list[tf.Tensor]:
        """Image and label, int64 `[K]` each, of all K pairs that occur."""
        rows = tf.range(images)[:, tf.newaxis] * self._classes
        pixels = tf.math.unsorted_segment_sum(
            tf.cast(valid, tf.float32),
            tf.where(valid, tf.cast(rows, tf.int64) + labels, -1),
            images * self._classes,
        )
        pairs = tf.where(tf.reshape(pixels, [images, self._classes]) > 0)
        return tf.unstack(pairs, axis=1)

    def value(self, sums: Sequence[tf.Tensor]) -> tf.Tensor:
        """The totals of `sums` -> the loss in 0..1, 0 when all pixels are ignored."""
        return tf.math.divide_no_nan(sums[0], sums[1])


def _lovasz_weights(errors: tf.Tensor, own: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    """By how much each pixel's error counts.

    Args:
      errors: float32 `[K, P]` in 0..1.
      own: bool `[K, P]`, the pixel is of the class; in each row one is.
      valid: bool `[K, P]`, the pixel is labelled.

    Returns:
      float32 `[K, P]`, 0 for ignored pixels.
    """
    shape = tf.shape(errors)
    # Behind all others, ignored pixels change no weight of theirs and get none: the
    # Jaccard loss is 1 by then.
    order = tf.math.top_k(tf.where(valid, errors, -1), shape[1]).indices
    weights = _jaccard_steps(tf.gather(tf.cast(own, tf.float32), order, batch_dims=1))
    # A quarter of the time of `tf.scatter_nd`, which the gradient of a sort uses too.
    rows = shape[1] * tf.range(shape[0])[:, tf.newaxis]
    places = tf.cast(rows, tf.int64) + tf.cast(order, tf.int64)
    flat = tf.math.unsorted_segment_sum(
        tf.reshape(weights, [-1]), tf.reshape(places, [-1]), shape[0] * shape[1]
    )
    return tf.reshape(flat, shape)


def _jaccard_steps(own: tf.Tensor) -> tf.Tensor:
    """How much `1 - intersection / union` grows with each pixel that turns wrong.

    In closed form, since differences of neighbouring values would cancel to noise: a
    pixel of the class leaves the intersection, another one joins the union.

    Args:
      own: float32 `[K, P]`, 1 where a pixel is of the class, in the order in which
        they turn wrong.

    Returns:
      float32 `[K, P]`.
    """
    missed = tf.cumsum(own, axis=1)
    all_own = missed[:, -1:]
    turned = tf.range(1, tf.shape(own)[1] + 1)
    union = all_own + tf.cast(turned, tf.float32) - missed
    joined = tf.math.divide_no_nan(all_own - missed, union * (union - 1))
    return tf.where(own > 0, 1 / union, joined)
