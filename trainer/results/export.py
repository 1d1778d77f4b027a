"""The exported model: photos of any size in, labels at their size out."""

from __future__ import annotations

import keras
import tensorflow as tf

from trainer import storage
from trainer.model.unet import ModelSpec


class _Exported(tf.Module):
    """Serves a model with TensorFlow alone; knows its class names."""

    def __init__(self, model: keras.Model, spec: ModelSpec) -> None:
        super().__init__()
        self.model = model
        # A variable, since a SavedModel keeps no constants as attributes.
        with tf.device("/cpu:0"):
            self.label_names = tf.Variable(spec.label_names, trainable=False)
            self.image_size = tf.Variable(spec.image_size, trainable=False)
        self._size = spec.image_size

    @tf.function(
        input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")]
    )
    def serve(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        height, width = tf.unstack(tf.shape(images)[1:3])
        square = (self._size, self._size)
        small = tf.image.resize(images, square, antialias=True)
        logits = self.model(small, training=False)
        labels = tf.argmax(logits, axis=-1, output_type=tf.int32)[..., tf.newaxis]
        nearest = tf.image.ResizeMethod.NEAREST_NEIGHBOR
        labels = tf.image.resize(labels, (height, width), nearest)
        return {"labels": tf.cast(labels[..., 0], tf.uint8)}


def export_model(model: keras.Model, spec: ModelSpec, folder: str) -> None:
    """Writes a SavedModel.

    Its signature `serving_default` takes `images`, uint8 `[B, H, W, 3]` RGB of any
    size, and gives `labels`, uint8 `[B, H, W]`. The attribute `label_names` holds the
    class names in id order, `image_size` the side of what the network sees.

    Args:
      model: as `build_model` makes it.
      spec: of that model.
      folder: to make, local or remote.
    """
    module = _Exported(model, spec)
    storage.remove_folder(folder)
    tf.saved_model.save(module, folder, signatures=module.serve)
