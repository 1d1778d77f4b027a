"""The exported model: photos of any size in, labels at their size out."""

from __future__ import annotations

import json
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from trainer import storage
from trainer.labels import palette
from trainer.model.unet import ModelSpec
from trainer.results import agreement

_PHOTOS = [tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")]


class Serving(tf.Module):
    """A model that takes photos as they are; what a SavedModel holds.

    Predictions from a run directory and those of its SavedModel are this one graph, so
    they are equal in every pixel.

    Attributes:
      label_names: class names in id order, strings `[C]`.
      palette: colours of labels, uint8 `[256, 3]` RGB; see `labels.palette`.
      image_size: S, int32; height and width that the model sees.
    """

    def __init__(self, model: keras.Model, spec: ModelSpec) -> None:
        super().__init__()
        self.model = model
        self._size = spec.image_size
        # Variables, since a SavedModel keeps no constants as attributes.
        with tf.device("/cpu:0"):
            self.label_names = tf.Variable(spec.label_names, trainable=False)
            self.palette = tf.Variable(palette(spec.classes), trainable=False)
            self.image_size = tf.Variable(spec.image_size, trainable=False)

    @tf.function(input_signature=_PHOTOS)
    def serve(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """uint8 `[B, H, W, 3]` RGB -> `labels`, uint8 `[B, H, W]`.

        Labels at the model's size are enlarged by nearest neighbour, as they are for
        the scores at original size.
        """
        logits = self.model(shrink(images, self._size), training=False)
        labels = tf.cast(tf.argmax(logits, axis=-1), tf.uint8)[..., tf.newaxis]
        nearest = tf.image.ResizeMethod.NEAREST_NEIGHBOR
        labels = tf.image.resize(labels, tf.shape(images)[1:3], nearest)
        return {"labels": labels[..., 0]}

    @tf.function(input_signature=_PHOTOS)
    def probabilities(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """uint8 `[B, H, W, 3]` RGB -> `probabilities`, float32 `[B, H, W, C]`.

        Those of the model's size are enlarged bilinearly. They take 4·H·W·C bytes a
        photo; photos of S x S get the model's own.
        """
        logits = self.model(shrink(images, self._size), training=False)
        shares = tf.nn.softmax(logits)
        return {"probabilities": tf.image.resize(shares, tf.shape(images)[1:3])}


def shrink(images: tf.Tensor, size: int) -> tf.Tensor:
    """uint8 `[B, H, W, 3]` -> float32 `[B, size, size, 3]`, whole numbers in 0..255.

    `data.images.resize_image` in TensorFlow's operations: the model sees what it was
    trained on. A value differs from OpenCV's by 1 at most.
    """
    square = (size, size)
    resized = tf.cond(
        tf.reduce_any(2 * size <= tf.shape(images)[1:3]),
        lambda: tf.image.resize(images, square, tf.image.ResizeMethod.AREA),
        lambda: tf.image.resize(images, square),
    )
    return tf.round(resized)


def export_model(
    model: keras.Model, spec: ModelSpec, folder: str, photos: Sequence[np.ndarray]
) -> None:
    """Writes a SavedModel, and how far its labels agree with the model's own.

    Its signature `serving_default` is `Serving.serve`, and `probabilities` is
    `Serving.probabilities`; it has the attributes of `Serving`. docs/export.md shows
    its use.

    Args:
      model: as `build_model` makes it.
      spec: of that model.
      folder: to make, local or remote.
      photos: to check it on, uint8 `[H, W, 3]` RGB each.
    """
    ours = Serving(model, spec)
    storage.remove_folder(folder)
    signatures = {
        "serving_default": ours.serve,
        "probabilities": ours.probabilities,
    }
    tf.saved_model.save(ours, folder, signatures=signatures)
    write_classes(folder, spec)
    loaded = tf.saved_model.load(folder)
    equal = agreement.count(
        photos,
        lambda photo: ours.serve(photo[np.newaxis])["labels"].numpy(),
        lambda photo: loaded.serve(photo[np.newaxis])["labels"].numpy(),
    )
    agreement.write(folder, "saved_model", equal)


def write_classes(folder: str, spec: ModelSpec) -> None:
    """Writes `classes.json`, for those who read the model without TensorFlow.

    `label_names` and `palette`, `[r, g, b]` in 0..255, by label; `image_size`.
    """
    content = {
        "label_names": spec.label_names,
        "palette": palette(spec.classes)[: spec.classes].tolist(),
        "image_size": spec.image_size,
    }
    text = json.dumps(content) + "\n"
    storage.write_text(storage.join(folder, "classes.json"), text)
