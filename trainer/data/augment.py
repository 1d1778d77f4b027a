"""Augmentation: pure ops, and policies that say which ops a batch gets.

Ops take float images `[..., H, W, 3]` in 0..1 and masks `[..., H, W, 1]`, and move a
mask exactly as its image, by nearest neighbour. Policies take whole batches: float32
`[B, H, W, 3]` in 0..255 and uint8 masks `[B, H, W]`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from trainer.errors import SeamlineError
from trainer.labels import IGNORE_LABEL

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


def _plain(
    images: tf.Tensor, masks: tf.Tensor, copies: tf.Tensor, amounts: tf.Tensor
) -> Pair:
    del copies, amounts
    return images, masks


def _tutorial(
    images: tf.Tensor, masks: tf.Tensor, copies: tf.Tensor, amounts: tf.Tensor
) -> Pair:
    """Applies op number `copies[i]` of `TUTORIAL_OPS` to example i."""
    del amounts

    def one(row: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> Pair:
        image, mask, copy = row
        branches = [lambda op=op: op(image, mask) for op in TUTORIAL_OPS]
        return tf.switch_case(tf.cast(copy, tf.int32), branches)

    rows = (images / 255.0, masks[..., tf.newaxis], copies)
    images, masks = tf.map_fn(one, rows, fn_output_signature=(tf.float32, tf.uint8))
    return images * 255.0, masks[..., 0]


_RANDOM_AMOUNTS = 8


def _random(
    images: tf.Tensor, masks: tf.Tensor, copies: tf.Tensor, amounts: tf.Tensor
) -> Pair:
    """Flip, crop of 0.85..1.02 of the side, stretch, turn; contrast and brightness.

    A part outside the photo is black and ignored.
    """
    del copies
    draw = tf.unstack(amounts, axis=1)

    def between(low: float, high: float, part: tf.Tensor) -> tf.Tensor:
        return low + (high - low) * part

    zoom = between(0.85, 1.02, draw[0])
    stretch = tf.exp(between(-0.05, 0.05, draw[1]))
    angle = between(-0.04, 0.04, draw[2])
    flip = tf.where(draw[3] < 0.5, -1.0, 1.0)
    images, masks = warp(
        images,
        masks,
        scale_y=zoom * stretch,
        scale_x=zoom / stretch * flip,
        angle=angle,
        shift_y=between(-0.5, 0.5, draw[4]) * tf.abs(1.0 - zoom),
        shift_x=between(-0.5, 0.5, draw[5]) * tf.abs(1.0 - zoom),
    )
    contrast = between(0.8, 1.2, draw[6])[:, tf.newaxis, tf.newaxis, tf.newaxis]
    light = between(-20.0, 20.0, draw[7])[:, tf.newaxis, tf.newaxis, tf.newaxis]
    images = (images - 127.5) * contrast + 127.5 + light
    return tf.clip_by_value(images, 0.0, 255.0), masks


def warp(
    images: tf.Tensor,
    masks: tf.Tensor,
    *,
    scale_y: tf.Tensor,
    scale_x: tf.Tensor,
    angle: tf.Tensor,
    shift_y: tf.Tensor,
    shift_x: tf.Tensor,
) -> Pair:
    """One affine warp about the centre: bilinear for images, nearest for masks.

    Output pixel p shows input pixel `R(angle) S(scale) p + shift`, p measured from the
    centre. A negative scale mirrors. What lies outside is black and ignored.

    Args:
      images: float32 `[B, H, W, 3]`.
      masks: uint8 `[B, H, W]`.
      scale_y, scale_x, angle: float32 `[B]`; input pixels an output pixel, radians.
      shift_y, shift_x: float32 `[B]`, in heights and widths of the image.
    """
    height, width = tf.unstack(tf.cast(tf.shape(images)[1:3], tf.float32))
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    a0, a1 = tf.cos(angle) * scale_x, -tf.sin(angle) * scale_y
    b0, b1 = tf.sin(angle) * scale_x, tf.cos(angle) * scale_y
    a2 = middle_x + shift_x * width - a0 * middle_x - a1 * middle_y
    b2 = middle_y + shift_y * height - b0 * middle_x - b1 * middle_y
    zero = tf.zeros_like(angle)
    transforms = tf.stack([a0, a1, a2, b0, b1, b2, zero, zero], axis=1)

    def transform(values: tf.Tensor, how: str, fill: float) -> tf.Tensor:
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=values,
            transforms=transforms,
            output_shape=tf.shape(values)[1:3],
            interpolation=how,
            fill_mode="CONSTANT",
            fill_value=fill,
        )

    moved = transform(masks[..., tf.newaxis], "NEAREST", float(IGNORE_LABEL))
    return transform(images, "BILINEAR", 0.0), moved[..., 0]


@dataclasses.dataclass(frozen=True)
class Policy:
    """How examples of a pass are augmented.

    Attributes:
      copies: how many times a pass holds each example.
      amounts: random numbers in [0, 1) that an example needs.
      apply: (images, masks, copies int64 `[B]`, amounts float32 `[B, amounts]`) ->
        (images, masks).
    """

    copies: int
    amounts: int
    apply: Callable[[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor], Pair]


POLICIES = {
    "none": Policy(1, 0, _plain),
    "tutorial": Policy(len(TUTORIAL_OPS), 0, _tutorial),
    "random": Policy(1, _RANDOM_AMOUNTS, _random),
}


def find(name: str) -> Policy:
    """The policy of that name.

    Raises:
      SeamlineError: there is none.
    """
    if name not in POLICIES:
        raise SeamlineError(
            f"--augment={name}: no such policy; choose one of {', '.join(POLICIES)}"
        )
    return POLICIES[name]
