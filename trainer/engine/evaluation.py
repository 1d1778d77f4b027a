"""Scores of a model over every example of a split, at one size and at original size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.data.examples import Examples
from trainer.data.images import resize_mask
from trainer.engine.tally import Tally

Labels = tuple[np.ndarray, np.ndarray]
"""uint8 labels of the same images at the model's size, `[N, S, S]`, and at the size of
the scores, `[N, T, T]`."""

_BATCH = 16


def compile_labels(model: keras.Model) -> Callable[[np.ndarray], tf.Tensor]:
    """uint8 images `[N, S, S, 3]` -> uint8 labels `[N, S, S]`; traced once for any N.

    Args:
      model: see `build_model`.
    """
    shape = [None, *model.input_shape[1:]]

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.uint8)])
    def labels_of(images: tf.Tensor) -> tf.Tensor:
        logits = model(tf.cast(images, tf.float32), training=False)
        return tf.cast(tf.argmax(logits, axis=-1), tf.uint8)

    return labels_of


def compile_predictor(model: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """uint8 images `[N, S, S, 3]` -> uint8 labels `[N, S, S]`, in batches of 16."""

    @tf.function(reduce_retracing=True)
    def labels_of(images: tf.Tensor) -> tf.Tensor:
        logits = model(tf.cast(images, tf.float32), training=False)
        return tf.cast(tf.argmax(logits, axis=-1), tf.uint8)

    return in_batches(labels_of)


def in_batches(
    labels_of: Callable[[np.ndarray], Any],
) -> Callable[[np.ndarray], Any]:
    """Makes what labels 16 images at a time label any number of them.

    The last batch is filled up, so that one compiled shape serves all.

    Args:
      labels_of: uint8 images `[16, S, S, 3]` -> uint8 labels `[16, S, S]`, or a tuple
        of such; arrays come from what is made, in the same structure.
    """

    def predict(images: np.ndarray) -> Any:
        parts = []
        for start in range(0, len(images), _BATCH):
            batch = images[start : start + _BATCH]
            missing = _BATCH - len(batch)
            filled = np.pad(batch, ((0, missing), (0, 0), (0, 0), (0, 0)))
            parts.append(tf.nest.map_structure(lambda x: x.numpy(), labels_of(filled)))
        count = len(images)
        return tf.nest.map_structure(lambda *x: np.concatenate(x)[:count], *parts)

    return predict


def evaluate(
    predict: Callable[[np.ndarray], Labels],
    examples: Examples,
    native_truths: Iterable[np.ndarray],
    *,
    label_names: Sequence[str],
    truths: Examples | None = None,
) -> dict[str, Any]:
    """What `scores.json` holds; every example counts once.

    At the original size the predicted labels are enlarged by nearest neighbour, from
    the model's size S whatever the size T that the other scores are taken at.

    Args:
      predict: uint8 images `[B, S, S, 3]` -> see `Labels`.
      examples: N of them, at size S.
      native_truths: N masks at original size, uint8 `[H, W]`.
      label_names: C names.
      truths: the same N at size T; None: T is S.
    """
    scored, native = Tally(label_names), Tally(label_names)
    originals = iter(native_truths)
    for start in range(0, len(examples), _BATCH):
        numbers = np.arange(start, min(start + _BATCH, len(examples)))
        photos, masks = examples.fetch(numbers)
        if truths is not None:
            _, masks = truths.fetch(numbers)
        for own, sized, mask in zip(*predict(photos), masks, strict=True):
            truth = next(originals)
            scored.add(mask, sized)
            native.add(truth, resize_mask(own, *truth.shape))
    return {
        "score_size": (examples if truths is None else truths).image_size,
        **scored.summary(),
        "native": native.summary(),
    }
