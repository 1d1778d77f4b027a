"""The exported model: photos of any size in, labels at their size out."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from trainer import storage
from trainer.data.images import resize_image, resize_mask
from trainer.data.resizing import resize_images, resize_labels
from trainer.labels import palette
from trainer.model.unet import ModelSpec
from trainer.results import agreement

_PHOTOS = [tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")]


class Serving(tf.Module):
    """A model that takes photos as they are; what a SavedModel holds.

    It resizes as OpenCV does for training, scores and `trainer.predict`, so its labels
    are theirs in every pixel.

    Attributes:
      label_names: class names in id order, strings `[C]`.
      palette: colours of labels, uint8 `[256, 3]` RGB; see `labels.palette`.
      image_size: S, int32; height and width that the model sees.
    """

    def __init__(self, model: keras.Model, spec: ModelSpec) -> None:
        super().__init__()
        # Not the model itself: Keras would have it and its encoder traced once more.
        self._call = functools.partial(model, training=False)
        self._values = [variable.value for variable in model.variables]
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
        logits = self._call(resize_images(images, self._size))
        labels = tf.cast(tf.argmax(logits, axis=-1), tf.uint8)
        height, width = tf.unstack(tf.shape(images)[1:3])
        return {"labels": resize_labels(labels, height, width)}

    @tf.function(input_signature=_PHOTOS)
    def probabilities(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """uint8 `[B, H, W, 3]` RGB -> `probabilities`, float32 `[B, H, W, C]`.

        Those of the model's size are enlarged bilinearly. They take 4·H·W·C bytes a
        photo; photos of S x S get the model's own.
        """
        logits = self._call(resize_images(images, self._size))
        shares = tf.nn.softmax(logits)
        return {"probabilities": tf.image.resize(shares, tf.shape(images)[1:3])}


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
        lambda photo: _labels_by_opencv(ours, photo),
        lambda photo: loaded.serve(photo[np.newaxis])["labels"][0].numpy(),
    )
    agreement.write(folder, "saved_model", equal)


def _labels_by_opencv(serving: Serving, photo: np.ndarray) -> np.ndarray:
    """A photo's labels as training, scores and `trainer.predict` resize: by OpenCV."""
    size = int(serving.image_size.numpy())
    small = resize_image(photo, size, size)
    labels = serving.serve(small[np.newaxis])["labels"][0].numpy()
    return resize_mask(labels, *photo.shape[:2])


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
