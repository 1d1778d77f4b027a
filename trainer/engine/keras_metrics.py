"""The scores of `metrics` as Keras keeps them, for `model.fit`."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from trainer.labels import IGNORE_LABEL


class RunningScore(keras.metrics.Metric):
    """A score over all pixels of an epoch, float32 in 0..1.

    Args:
      name: one of `NAMES`; see `metrics.scores_of_counts`, where "accuracy" is called
        pixel_accuracy.
      classes: C.
    """

    NAMES = ("accuracy", "foreground_accuracy", "mean_iou")

    def __init__(self, name: str, classes: int) -> None:
        super().__init__(name=name)
        self._classes = classes
        # Hits, truth and predicted pixels of each class.
        self._counts = self.add_variable(
            (3, classes), initializer="zeros", dtype="int64", name="counts"
        )

    def update_state(
        self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: Any = None
    ) -> None:
        """Counts masks `[B, H, W]` and logits `[B, H, W, C]`."""
        del sample_weight
        masks = tf.cast(y_true, tf.int32)
        valid = masks != IGNORE_LABEL
        truth = tf.boolean_mask(masks, valid)
        guess = tf.boolean_mask(tf.argmax(y_pred, -1, output_type=tf.int32), valid)
        counted = [
            tf.math.bincount(labels, minlength=self._classes, maxlength=self._classes)
            for labels in (truth[truth == guess], truth, guess)
        ]
        self._counts.assign_add(tf.cast(tf.stack(counted), tf.int64))

    def result(self) -> tf.Tensor:
        """The score of what was counted; 0 without a labelled pixel."""
        hits, truth, predicted = tf.unstack(tf.cast(self._counts, tf.float64))
        if self.name == "mean_iou":
            iou = tf.math.divide_no_nan(hits, truth + predicted - hits)
            present = tf.cast(truth > 0, tf.float64)
            hits, truth = iou * present, present
        elif self.name == "foreground_accuracy":
            hits, truth = hits[1:], truth[1:]
        score = tf.math.divide_no_nan(tf.reduce_sum(hits), tf.reduce_sum(truth))
        return tf.cast(score, tf.float32)

    def get_config(self) -> dict[str, Any]:
        """What `__init__` takes."""
        return {"name": self.name, "classes": self._classes}
