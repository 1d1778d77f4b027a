"""OpenCV's resizing in TensorFlow's operations, bit for bit.

Records and predictions are resized by OpenCV (`data.images`), exported models by
TensorFlow, whose own `tf.image.resize` rounds otherwise: one value in ten is off by one
where photos shrink to more than half, and with them one label in a thousand. What
follows repeats the steps of OpenCV 5 (modules/imgproc/src/resize.cpp) in their
order, in the same types.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

_LEAST = 1e-3
"""Of a pixel; OpenCV leaves out what covers less."""

Places = Callable[[tf.Tensor, int], tuple[tf.Tensor, tf.Tensor]]
"""Old and new length -> int32 `[new]`, which old pixel each new one lies on, and
float32 `[new]`, how far it is to the next one."""


def resize_images(images: tf.Tensor, size: int) -> tf.Tensor:
    """`data.images.resize_image` for a batch.

    Args:
      images: uint8 `[B, H, W, 3]`.
      size: S.

    Returns:
      float32 `[B, S, S, 3]`, whole numbers in 0..255.
    """
    # Branches of a graph do not tell their shape.
    return tf.ensure_shape(_resized(images, size), [None, size, size, 3])


def resize_labels(labels: tf.Tensor, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    """`data.images.resize_mask` for a batch: `[B, h, w]` -> `[B, height, width]`."""
    rows = tf.gather(labels, _nearest(tf.shape(labels)[1], height), axis=1)
    return tf.gather(rows, _nearest(tf.shape(labels)[2], width), axis=2)


def _resized(images: tf.Tensor, size: int) -> tf.Tensor:
    sides = tf.shape(images)[1:3]
    if tf.reduce_all(sides == size):
        return tf.cast(images, tf.float32)
    if not tf.reduce_any(2 * size <= sides):
        return _bilinear(images, size, _centres)
    if tf.reduce_any(sides < size):
        # OpenCV resizes by area only where no side grows.
        return _bilinear(images, size, _corners)
    if tf.reduce_all(sides % size == 0):
        return _whole_squares(images, size)
    return tf.round(_by_area(_by_area(images, size, axis=2), size, axis=1))


def _nearest(old: tf.Tensor, new: tf.Tensor) -> tf.Tensor:
    """Number of the old pixel under each new one's centre, int32 `[new]`.

    Centres come from additions one after another: where one falls between two pixels,
    what has been rounded decides.
    """
    step = tf.cast(old, tf.float64) / tf.cast(new, tf.float64)
    steps = tf.concat([[step / 2], tf.fill([new - 1], step)], 0)
    return tf.minimum(tf.cast(tf.cumsum(steps), tf.int32), old - 1)


def _whole_squares(images: tf.Tensor, size: int) -> tf.Tensor:
    """Means of squares of whole pixels."""
    shape = tf.shape(images)
    high, wide = shape[1] // size, shape[2] // size
    squares = tf.reshape(images, [shape[0], size, high, size, wide, 3])
    total = tf.reduce_sum(tf.cast(squares, tf.int32), axis=[2, 4])
    if high == 2 and wide == 2:
        return tf.cast((total + 2) // 4, tf.float32)
    share = tf.cast(1 / (high * wide), tf.float32)
    return tf.round(tf.cast(total, tf.float32) * share)


def _by_area(images: tf.Tensor, size: int, axis: int) -> tf.Tensor:
    """Makes one side `size` long: pixels count by how much of them is covered."""
    shape = tf.shape(images)
    many = tf.cast(shape[axis], tf.float64)
    nothing, one = tf.constant(0, tf.float64), tf.constant(1, tf.float64)
    scale = 1 / (size / many)
    left = tf.range(size, dtype=tf.float64) * scale
    cell = tf.minimum(scale, many - left)
    last = tf.minimum(tf.floor(left + scale), many - 1)
    first = tf.minimum(tf.math.ceil(left), last)
    parts = first - left, tf.minimum(left + scale - last, tf.minimum(cell, one))
    begins, ends = (tf.where(part > _LEAST, part, nothing) for part in parts)
    total = tf.zeros(tf.tensor_scatter_nd_update(shape, [[axis]], [size]))
    # One after another, since floats added in another order round otherwise.
    for number in tf.range(-1, tf.cast(scale, tf.int32) + 2):
        at = first + tf.cast(number, tf.float64)
        covered = tf.where(at < first, begins, tf.where(at < last, one, ends))
        weights = tf.cast(tf.where(at > last, nothing, covered / cell), tf.float32)
        weights = tf.reshape(weights, [-1] + [1] * (3 - axis))
        total += (
            tf.cast(_pixel(images, tf.cast(at, tf.int32), axis), tf.float32) * weights
        )
    return total


def _bilinear(images: tf.Tensor, size: int, places: Places) -> tf.Tensor:
    """In whole numbers, columns first; of rows the upper 16 bits of products count."""
    values = tf.cast(images, tf.int32)
    columns = tf.shape(images)[2]
    at, share = places(columns, size)
    inside = (at >= 0) & (at < columns - 1)
    near, far = _weights(tf.where(inside, share, 0))
    values = _pixel(values, at, 2) * near[:, tf.newaxis] + (
        _pixel(values, at + 1, 2) * far[:, tf.newaxis]
    )
    at, share = places(tf.shape(images)[1], size)
    near, far = (x[:, tf.newaxis, tf.newaxis] for x in _weights(share))
    upper = _pixel(values, at, 1) // 16 * near // 65536
    lower = _pixel(values, at + 1, 1) // 16 * far // 65536
    return tf.cast((upper + lower + 2) // 4, tf.float32)


def _pixel(values: tf.Tensor, at: tf.Tensor, axis: int) -> tf.Tensor:
    """Beyond a border the border's pixel goes on."""
    last = tf.shape(values)[axis] - 1
    return tf.gather(values, tf.clip_by_value(at, 0, last), axis=axis)


def _weights(share: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Of the pixel and of the next one, whole numbers of 1/2048."""
    return tuple(tf.cast(tf.round(x * 2048), tf.int32) for x in (1 - share, share))


def _centres(old: tf.Tensor, new: int) -> tuple[tf.Tensor, tf.Tensor]:
    """`Places` by the centres of pixels."""
    scale = 1 / (new / tf.cast(old, tf.float64))
    exact = (tf.range(new, dtype=tf.float64) + 0.5) * scale - 0.5
    exact = tf.cast(exact, tf.float32)
    return tf.cast(tf.floor(exact), tf.int32), exact - tf.floor(exact)


def _corners(old: tf.Tensor, new: int) -> tuple[tf.Tensor, tf.Tensor]:
    """`Places` where OpenCV was asked for areas and a side grows."""
    inverse = new / tf.cast(old, tf.float64)
    numbers = tf.range(new, dtype=tf.float64)
    at = tf.floor(numbers * (1 / inverse))
    share = tf.cast((numbers + 1) - (at + 1) * inverse, tf.float32)
    share = tf.where(share <= 0, 0.0, share - tf.floor(share))
    return tf.cast(at, tf.int32), share
