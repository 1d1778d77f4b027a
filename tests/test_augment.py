"""The published calls stand in this file, as the article's script has them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from trainer.data import augment
from trainer.errors import SeamlineError

SIZE = 32
NEAREST = tf.image.ResizeMethod.NEAREST_NEIGHBOR

PUBLISHED: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "original": lambda image: image,
    "brightness": lambda image: tf.image.adjust_brightness(image, 0.1),
    "gamma": lambda image: tf.image.adjust_gamma(image, 0.1),
    "hue": lambda image: tf.image.adjust_hue(image, -0.1),
    "central_crop": lambda image: tf.image.resize(
        tf.image.central_crop(image, 0.7), (SIZE, SIZE)
    ),
    "flip_horizontal": tf.image.flip_left_right,
    "flip_vertical": tf.image.flip_up_down,
    "rotate": tf.image.rot90,
}
GEOMETRIC = ("central_crop", "flip_horizontal", "flip_vertical", "rotate")


def example(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    image = random.random((SIZE, SIZE, 3), np.float32)
    return image, random.integers(0, 59, (SIZE, SIZE, 1)).astype(np.uint8)


def test_the_tutorial_has_the_original_and_its_seven_ops_in_order() -> None:
    assert [op.__name__ for op in augment.TUTORIAL_OPS] == list(PUBLISHED)


@pytest.mark.parametrize("op", augment.TUTORIAL_OPS, ids=lambda op: op.__name__)
def test_an_op_changes_the_image_as_the_published_call(op: Callable) -> None:
    image, mask = example()
    ours, _ = op(tf.constant(image), tf.constant(mask))
    theirs = PUBLISHED[op.__name__](tf.constant(image))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("op", augment.TUTORIAL_OPS, ids=lambda op: op.__name__)
def test_an_op_moves_the_mask_as_published_but_by_nearest_neighbour(
    op: Callable,
) -> None:
    image, mask = example()
    _, ours = op(tf.constant(image), tf.constant(mask))
    if op.__name__ == "central_crop":
        cut = tf.image.central_crop(mask, 0.7)
        theirs = tf.image.resize(cut, (SIZE, SIZE), NEAREST)
    elif op.__name__ in GEOMETRIC:
        theirs = PUBLISHED[op.__name__](mask)
    else:
        theirs = mask
    np.testing.assert_array_equal(ours, theirs)
    assert ours.dtype == tf.uint8


def test_the_policy_in_a_pipeline_equals_the_ops_one_by_one() -> None:
    pairs = [example(seed) for seed in range(8)]
    images = np.stack([image for image, _ in pairs])
    masks = np.stack([mask[..., 0] for _, mask in pairs])
    policy = augment.find("tutorial")
    copies = np.arange(8)
    dataset = tf.data.Dataset.from_tensors((images * 255, masks, copies)).map(
        lambda i, m, c: policy.apply(i, m, c, tf.zeros([8, 0]))
    )
    got_images, got_masks = next(dataset.as_numpy_iterator())
    for index, op in enumerate(augment.TUTORIAL_OPS):
        image, mask = op(images[index], masks[index][..., np.newaxis])
        np.testing.assert_allclose(got_images[index] / 255, image, atol=1e-6)
        np.testing.assert_array_equal(got_masks[index], mask[..., 0])


def test_a_random_draw_moves_the_mask_exactly_with_its_image() -> None:
    """Images that are their own mask: wherever a pixel is pure, both must agree."""
    blocks = np.random.default_rng(1).integers(1, 59, (200, 4, 4))
    masks = np.kron(blocks, np.ones((1, 8, 8))).astype(np.uint8)
    images = np.repeat(masks[..., np.newaxis], 3, axis=3).astype(np.float32)
    random = np.random.default_rng(2).random((7, 200), np.float32)
    moved_images, moved_masks = augment.warp(
        tf.constant(images),
        tf.constant(masks),
        scale_y=random[0] + 0.5,
        scale_x=random[1] * 3 - 1.5,
        angle=random[2] - 0.5,
        shift_y=random[3] * 0.4 - 0.2,
        shift_x=random[4] * 0.4 - 0.2,
    )
    image, mask = moved_images.numpy()[..., 0], moved_masks.numpy()
    inside = mask != 255
    for before, after in zip(masks, mask, strict=True):
        assert set(np.unique(after)) <= {*np.unique(before), 255}
    pure = inside & np.isclose(image, np.round(image), atol=1e-3)
    # Bilinear mixtures may round to a label by chance; whole neighbourhoods do not.
    same = np.isclose(image, mask, atol=1e-3)
    assert pure.mean() > 0.4
    assert same[pure].mean() > 0.97
    assert 0.02 < 1 - inside.mean() < 0.6


def test_the_random_policy_ignores_what_lies_outside_and_stays_in_range() -> None:
    images = np.full((64, SIZE, SIZE, 3), 200, np.float32)
    masks = np.full((64, SIZE, SIZE), 7, np.uint8)
    policy = augment.find("random")
    amounts = np.random.default_rng(0).random((64, policy.amounts), np.float32)
    images, masks = policy.apply(images, masks, tf.zeros([64], tf.int64), amounts)
    assert set(np.unique(masks)) == {7, 255}
    assert images.numpy().min() >= 0
    assert images.numpy().max() <= 255
    assert np.mean(masks.numpy() == 255) < 0.2
    assert len(np.unique(images.numpy()[:, 16, 16, 0])) > 50


def test_half_of_the_random_draws_are_mirrored() -> None:
    row = np.arange(SIZE, dtype=np.float32) * 8
    ramp = np.tile(row, (64, SIZE, 1))[..., np.newaxis]
    images = np.repeat(ramp, 3, axis=3)
    policy = augment.find("random")
    amounts = np.random.default_rng(0).random((64, policy.amounts), np.float32)
    moved, _ = policy.apply(
        images, np.zeros((64, SIZE, SIZE), np.uint8), tf.zeros([64], tf.int64), amounts
    )
    middle = moved.numpy()[:, SIZE // 2, :, 0]
    mirrored = middle[:, 10] > middle[:, 22]
    np.testing.assert_array_equal(mirrored, amounts[:, 3] < 0.5)


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(SeamlineError, match=r"--augment=wild.*none, tutorial, random"):
        augment.find("wild")
