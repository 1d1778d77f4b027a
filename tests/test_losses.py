from __future__ import annotations

import re

import numpy as np
import pytest
import tensorflow as tf

from trainer.errors import SeamlineError
from trainer.model import losses

CLASSES = 6
WEIGHTS = [0.2, 0.5, 1, 1, 2, 3]


def batch(seed: int = 0, size: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Random logits; masks with ignored pixels and absent classes."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 3, (size, 5, 7, CLASSES)).astype(np.float32)
    masks = random.choice([0, 1, 2, 4, 255], (size, 5, 7)).astype(np.uint8)
    return logits, masks


def softmax(logits: np.ndarray) -> np.ndarray:
    exponent = np.exp(logits - logits.max(-1, keepdims=True))
    return exponent / exponent.sum(-1, keepdims=True)


def value(loss: losses.Term | losses.Sum, *pair: np.ndarray) -> float:
    return float(loss.value(loss.sums(*(tf.constant(x) for x in pair))))


def numpy_cross_entropy(
    logits: np.ndarray, masks: np.ndarray, weights: np.ndarray
) -> float:
    valid = masks != 255
    chance = softmax(logits.astype(np.float64))[valid]
    labels = masks[valid]
    own = chance[np.arange(len(labels)), labels]
    return float((weights[labels] * -np.log(own)).sum() / weights[labels].sum())


def numpy_dice(logits: np.ndarray, masks: np.ndarray) -> float:
    valid = masks != 255
    chance, truth = softmax(logits.astype(np.float64))[valid], masks[valid]
    parts = []
    for label in np.unique(truth):
        own = truth == label
        both = chance[own, label].sum()
        parts.append(1 - 2 * both / (chance[:, label].sum() + own.sum()))
    return float(np.mean(parts))


def test_cross_entropy_equals_numpy_with_and_without_weights() -> None:
    logits, masks = batch()
    for weights in (np.ones(CLASSES), np.arange(1.0, CLASSES + 1)):
        ours = value(losses.CrossEntropy(weights), logits, masks)
        assert ours == pytest.approx(numpy_cross_entropy(logits, masks, weights), 1e-5)


def test_dice_equals_numpy_over_the_classes_present() -> None:
    logits, masks = batch()
    ours = value(losses.Dice(CLASSES), logits, masks)
    assert ours == pytest.approx(numpy_dice(logits, masks), rel=1e-5)


def test_what_replicas_add_up_is_the_loss_of_the_global_batch() -> None:
    logits, masks = batch()
    masks[:3] = 255
    loss = losses.build_loss("weighted_cross_entropy+dice", weights=WEIGHTS)
    parts = [loss.sums(logits[rows], masks[rows]) for rows in (slice(4), slice(4, 8))]
    together = tf.nest.map_structure(tf.add, *parts)
    assert float(loss.value(together)) == pytest.approx(
        value(loss, logits, masks), rel=1e-6
    )


def test_ignored_pixels_have_no_gradient() -> None:
    logits, masks = batch()
    loss = losses.build_loss("cross_entropy+dice", weights=[1] * CLASSES)
    variable = tf.Variable(logits)
    with tf.GradientTape() as tape:
        result = loss.value(loss.sums(variable, tf.constant(masks)))
    gradient = tape.gradient(result, variable).numpy()
    assert np.abs(gradient[masks == 255]).max() == 0
    assert np.abs(gradient[masks != 255]).max() > 0


def test_gradients_equal_numerical_ones() -> None:
    logits, masks = batch(size=1)
    loss = losses.build_loss("cross_entropy+dice", weights=[1] * CLASSES)

    def of(changed: tf.Tensor) -> tf.Tensor:
        return loss.value(loss.sums(changed, tf.constant(masks)))

    theory, numeric = tf.test.compute_gradient(of, [tf.constant(logits)], delta=1e-2)
    np.testing.assert_allclose(theory[0], numeric[0], atol=2e-4)


def test_a_batch_of_ignored_pixels_has_loss_zero() -> None:
    logits, masks = batch()
    loss = losses.build_loss("cross_entropy+dice", weights=[1] * CLASSES)
    assert value(loss, logits, np.full_like(masks, 255)) == 0


def test_a_sum_of_losses_counts_each_by_its_factor() -> None:
    logits, masks = batch()
    loss = losses.build_loss(
        "2.5*cross_entropy+dice+1e-1*weighted_cross_entropy", weights=[1] * CLASSES
    )
    cross_entropy = numpy_cross_entropy(logits, masks, np.ones(CLASSES))
    expected = 2.6 * cross_entropy + numpy_dice(logits, masks)
    assert value(loss, logits, masks) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("dice+magic", "no loss 'magic'; join some of cross_entropy, .*, dice"),
        ("", "no loss ''"),
        ("dice+", "no loss ''"),
        ("dice*0.5", "no loss '0.5'"),
        ("0.5*magic", "no loss 'magic'"),
        *((f"{x}*dice", f"'{x}' is no finite positive number") for x in ("0", "-1")),
        *((f"{x}*dice", f"'{x}' is no finite positive number") for x in ("nan", "inf")),
        ("1e40*dice", "'1e40' is no finite positive number"),
        ("half*dice", "'half' is no finite positive number"),
        ("*dice", "'' is no finite positive number"),
        ("dice+cross_entropy+0.5*dice", "'dice' is there twice"),
    ],
)
def test_a_loss_that_cannot_be_is_refused_in_one_line(text: str, line: str) -> None:
    with pytest.raises(SeamlineError, match=rf"^--loss={re.escape(text)}: {line}"):
        losses.build_loss(text, weights=[1, 1])
