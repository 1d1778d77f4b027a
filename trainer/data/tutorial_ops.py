"""The article's seven augmentations, by the TensorFlow calls that it uses.

Ops take float32 images `[H, W, 3]` in 0..1 and uint8 masks `[H, W, 1]`, and move a mask
exactly as its image, by nearest neighbour.

Source: "Getting Started With Semantic Segmentation Using TensorFlow Keras".
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

Pair = tuple[tf.Tensor, tf.Tensor]


def original(image: tf.Tensor, mask: tf.Tensor) -> Pair:
    """The pair as it is."""
    return image, mask


def brightness(image: tf.Tensor, mask: tf.Tensor) -> Pair:
    """Adds 0.1. As in the tutorial nothing is clipped: values reach 1.1."""
    return tf.image.adjust_brightness(image, 0.1), mask


def gamma(image: tf.Tensor, mask: tf.Tensor) -> Pair:
    """Raises to the power 0.1, which brightens all but black."""
    return tf.image.adjust_gamma(image, 0.1), mask


def hue(image: tf.Tensor, mask: tf.Tensor) -> Pair:
    """Turns the hue by -0.1 of the circle."""
    return tf.image.adjust_hue(image, -0.1), mask


def central_crop(image: tf.Tensor, mask: tf.Tensor) -> Pair:
    """The central 0.7 of height and width, enlarged to the old size."""
    size = tf.shape(image)[-3:-1]
    nearest = tf.image.ResizeMethod.NEAREST_NEIGHBOR
    image = tf.image.resize(tf.image.central_crop(image, 0.7), size)
    mask = tf.image.resize(tf.image.central_crop(mask, 0.7), size, nearest)
    return image, mask


def flip_horizontal(image: tf.Tensor, mask: tf.Tensor) -> Pair:
    """Left becomes right."""
    return tf.image.flip_left_right(image), tf.image.flip_left_right(mask)


def flip_vertical(image: tf.Tensor, mask: tf.Tensor) -> Pair:
    """Top becomes bottom."""
    return tf.image.flip_up_down(image), tf.image.flip_up_down(mask)


def rotate(image: tf.Tensor, mask: tf.Tensor) -> Pair:
    """Turns by 90 degrees against the clock; height and width must be equal."""
    return tf.image.rot90(image), tf.image.rot90(mask)


TUTORIAL_OPS: tuple[Callable[[tf.Tensor, tf.Tensor], Pair], ...] = (
    original,
    brightness,
    gamma,
    hue,
    central_crop,
    flip_horizontal,
    flip_vertical,
    rotate,
)
"""The article's dataset: the photos, then seven copies with one op each."""
