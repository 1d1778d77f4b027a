"""Labels from several views of each image, mirrored and at other sizes; at any size.

Test-time augmentation: the probabilities of all views are averaged, and the label is
the class that has the most (multi-scale and flipped inference as in Chen et al.,
"DeepLab", 2018).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from trainer.engine.evaluation import Labels, in_batches
from trainer.errors import SeamlineError
from trainer.model.unet import ModelSpec, build_model, scaled


def view_sizes(scales: str, own: int) -> list[int]:
    """The sizes of `--scales`: each times `own`, as a multiple of 32.

    Args:
      scales: numbers above 0 joined by commas, such as "0.75,1,1.25".
      own: the size that the model sees photos at, `ModelSpec.seen_size`.

    Raises:
      SeamlineError: no such numbers, or two of them that come to one size.
    """
    sizes: dict[int, str] = {}
    for text in scales.split(","):
        try:
            scale = float(text)
        except ValueError:
            scale = math.nan
        if not 0 < scale < math.inf:
            raise SeamlineError(
                f"--scales={scales}: '{text}' is no number above 0; give numbers "
                "joined by commas, such as 0.75,1,1.25"
            )
        size = scaled(own, scale)
        if size in sizes:
            raise SeamlineError(
                f"--scales={scales}: {sizes[size]} and {text} both come to {size} "
                "pixels, the nearest multiple of 32; leave one of them out"
            )
        sizes[size] = text
    return list(sizes)


def compile_views(
    model: keras.Model,
    spec: ModelSpec,
    *,
    flip: bool = False,
    sizes: Sequence[int] = (),
    barred: np.ndarray | None = None,
    score_size: int = 0,
) -> Callable[[np.ndarray], Labels]:
    """uint8 images `[N, S, S, 3]` -> labels at S and at T, in batches of 16.

    An image is resized to each of `sizes`, and its probabilities back to S; the mean
    over all views is resized from there to T. All bilinearly; where pixels get fewer,
    each of them counts.

    Args:
      model: of `spec`.
      spec: what `model` was built from; S is its image size.
      flip: whether each view is seen from left to right too.
      sizes: of the views, multiples of 32; (): that of `spec.seen_size` alone.
      barred: bool `[C]`, classes that are never the label: the others have all of the
        probability; None: none.
      score_size: T; 0: S.
    """
    size, seen = spec.image_size, spec.seen_size
    nets = {
        x: model if x == seen else _resized(model, spec, x) for x in sizes or [seen]
    }
    never = tf.constant(np.zeros(spec.classes, bool) if barred is None else barred)

    def probabilities(images: tf.Tensor, own: int) -> tf.Tensor:
        # The model itself enlarges what it sees.
        resized = own not in (seen, size)
        if resized:
            images = tf.image.resize(images, (own, own), antialias=True)
        logits = nets[own](images, training=False)
        found = tf.nn.softmax(tf.where(never, logits.dtype.min, logits))
        if resized:
            found = tf.image.resize(found, (size, size), antialias=True)
        return found

    @tf.function(reduce_retracing=True)
    def labels_of(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images = tf.cast(images, tf.float32)
        views = [probabilities(images, own) for own in nets]
        if flip:
            mirrored = tf.reverse(images, axis=[2])
            views += [tf.reverse(probabilities(mirrored, x), axis=[2]) for x in nets]
        found = tf.add_n(views)
        labels = tf.cast(tf.argmax(found, axis=-1), tf.uint8)
        if score_size in (0, size):
            return labels, labels
        return labels, _labels_at(found, score_size)

    return in_batches(labels_of)


def _labels_at(found: tf.Tensor, size: int) -> tf.Tensor:
    """float32 `[B, S, S, C]`, the higher the likelier -> uint8 labels `[B, T, T]`."""
    # Where pixels get fewer, antialiasing widens the triangle of bilinear resizing by
    # the factor, so that each of them counts, as in photos that are shrunk; plainly,
    # some would be skipped past a factor of two. Means over areas count each as well,
    # but turn into nearest neighbour where pixels get more: this is one rule for all.

    def label(one: tf.Tensor) -> tf.Tensor:
        sized = tf.image.resize(one, (size, size), antialias=True)
        return tf.cast(tf.argmax(sized, axis=-1), tf.uint8)

    # One image at a time: at 1024² and 59 classes, 16 would take 4 GB.
    shape = tf.TensorSpec((size, size), tf.uint8)
    return tf.map_fn(label, found, fn_output_signature=shape, parallel_iterations=1)


def _resized(model: keras.Model, spec: ModelSpec, size: int) -> keras.Model:
    """The same network with the same weights for images of another size.

    No weight depends on the size: all layers are convolutions, norms and resizing.
    """
    other = build_model(dataclasses.replace(spec, image_size=size, test_scale=1.0))
    other.set_weights(model.get_weights())
    return other
