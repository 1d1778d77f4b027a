from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Sequence

import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from sklearn.metrics import f1_score, jaccard_score

from tests.conftest import ROOT
from trainer.errors import SeamlineError
from trainer.model import losses, lovasz
from trainer.model.pixels import Pixels
from trainer.recipes import Recipe

CLASSES = 6
KNOBS = {knob.name: knob for knob in dataclasses.fields(Recipe)}
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


def build(text: str, **knobs: float) -> losses.Sum:
    return losses.build_loss(text, weights=WEIGHTS, **knobs)


def value(loss: losses.Sum, *pair: np.ndarray) -> float:
    return float(loss.value(loss.sums(*(tf.constant(x) for x in pair))))


def gradient(loss: losses.Sum, logits: np.ndarray, masks: np.ndarray) -> np.ndarray:
    variable = tf.Variable(logits)
    with tf.GradientTape() as tape:
        result = loss.value(loss.sums(variable, tf.constant(masks)))
    return tape.gradient(result, variable).numpy()


@pytest.mark.parametrize("spread", [1, 30, 500, 1e4])
def test_the_logarithm_of_a_labels_probability_is_right_however_small_that_is(
    spread: float,
) -> None:
    logits, masks = batch()
    logits *= spread
    pixels = Pixels(tf.constant(logits), tf.constant(masks))
    labels = np.where(masks == 255, 0, masks).astype(np.int64)
    every = scipy.special.log_softmax(logits.astype(np.float64), axis=-1)
    right = np.take_along_axis(every, labels[..., np.newaxis], -1)
    np.testing.assert_allclose(pixels.own, right.ravel(), rtol=1e-5, atol=1e-6)


def numpy_cross_entropy(
    logits: np.ndarray,
    masks: np.ndarray,
    weights: Sequence[float] = (1,) * CLASSES,
    smoothing: float = 0.0,
    gamma: float = 0.0,
) -> float:
    valid = masks != 255
    chance = softmax(logits.astype(np.float64))[valid]
    labels = masks[valid]
    truth = smoothing / CLASSES + (1 - smoothing) * np.eye(CLASSES)[labels]
    each = (truth * (1 - chance) ** gamma * -np.log(chance)).sum(-1)
    return float(np.average(each, weights=np.asarray(weights)[labels]))


def numpy_dice(logits: np.ndarray, masks: np.ndarray) -> float:
    valid = masks != 255
    chance, truth = softmax(logits.astype(np.float64))[valid], masks[valid]
    parts = []
    for label in np.unique(truth):
        own = truth == label
        both = chance[own, label].sum()
        parts.append(1 - 2 * both / (chance[:, label].sum() + own.sum()))
    return float(np.mean(parts))


def numpy_lovasz(logits: np.ndarray, masks: np.ndarray) -> float:
    """By the paper's equations, the Jaccard loss of a set of wrong pixels and all."""
    images = []
    for chance, mask in zip(softmax(logits.astype(np.float64)), masks, strict=True):
        chance, truth = chance[mask != 255], mask[mask != 255]
        parts = []
        for label in np.unique(truth):
            own = truth == label
            errors = np.abs(own - chance[:, label])
            order = np.argsort(-errors, kind="stable")
            known = [jaccard_loss(own, order[:k]) for k in range(len(order) + 1)]
            parts.append(errors[order] @ np.diff(known))
        images += [np.mean(parts)] if parts else []
    return float(np.mean(images)) if images else 0.0


def jaccard_loss(own: np.ndarray, wrong: np.ndarray) -> float:
    """`1 - IoU` of a class whose pixels are `own`, when the pixels `wrong` are."""
    predicted = own.copy()
    predicted[wrong] = ~own[wrong]
    return 1 - (own & predicted).sum() / (own | predicted).sum()


ORACLES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "cross_entropy": numpy_cross_entropy,
    "weighted_cross_entropy": lambda *pair: numpy_cross_entropy(*pair, WEIGHTS),
    "focal": lambda *pair: numpy_cross_entropy(*pair, gamma=2),
    "dice": numpy_dice,
    "lovasz": numpy_lovasz,
}
ORACLES["cross_entropy+0.5*dice+2*lovasz"] = lambda *pair: (
    numpy_cross_entropy(*pair) + 0.5 * numpy_dice(*pair) + 2 * numpy_lovasz(*pair)
)


def test_every_loss_has_an_oracle() -> None:
    assert {*losses.LOSSES} < {*ORACLES}


@pytest.mark.parametrize("text", ORACLES)
def test_a_loss_equals_numpy(text: str) -> None:
    pair = batch()
    assert value(build(text), *pair) == pytest.approx(ORACLES[text](*pair), rel=1e-5)


@pytest.mark.parametrize("text", ORACLES)
def test_gradients_equal_numerical_ones_in_float64(text: str) -> None:
    logits, masks = batch(seed=1, size=2)
    steps = np.eye(logits.size).reshape(-1, *logits.shape) * 1e-6
    numeric = [
        (ORACLES[text](logits + x, masks) - ORACLES[text](logits - x, masks)) / 2e-6
        for x in steps
    ]
    ours = gradient(build(text), logits, masks)
    np.testing.assert_allclose(ours.ravel(), numeric, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 3.0])
def test_label_smoothing_and_focusing_equal_numpy_and_keras(
    smoothing: float, gamma: float
) -> None:
    logits, masks = batch()
    knobs = {"smoothing": smoothing, "gamma": gamma}
    weighted = losses.Sum([(losses.CrossEntropy(WEIGHTS, **knobs), 1.0)])
    expected = numpy_cross_entropy(logits, masks, WEIGHTS, **knobs)
    assert value(weighted, logits, masks) == pytest.approx(expected, rel=1e-5)
    valid = masks != 255
    published = keras.losses.CategoricalFocalCrossentropy(
        alpha=1.0, gamma=gamma, from_logits=True, label_smoothing=smoothing
    )
    theirs = published(np.eye(CLASSES)[masks[valid]], logits[valid])
    assert value(build("focal", **knobs), logits, masks) == pytest.approx(
        float(theirs), rel=1e-4
    )


@pytest.mark.parametrize("text", ["cross_entropy", "weighted_cross_entropy", "focal"])
def test_smoothing_reaches_every_loss_made_of_cross_entropy(text: str) -> None:
    pair = batch()
    weights = WEIGHTS if "weighted" in text else (1,) * CLASSES
    gamma = 1.5 if text == "focal" else 0
    expected = numpy_cross_entropy(*pair, weights, 0.2, gamma)
    ours = value(build(text, smoothing=0.2, gamma=1.5), *pair)
    assert ours == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("text", ORACLES)
@pytest.mark.parametrize("knobs", [{}, {"smoothing": 0.1, "gamma": 0.5}])
def test_certain_logits_have_a_finite_loss_and_gradient(text: str, knobs: dict) -> None:
    logits, masks = batch()
    extreme = np.where(logits > 0, 1e4, -1e4).astype(np.float32)
    right = np.where(np.eye(CLASSES)[np.where(masks == 255, 0, masks)] > 0, 1e4, -1e4)
    loss = build(text, **knobs)
    for certain in (extreme, right.astype(np.float32)):
        assert np.isfinite(value(loss, certain, masks))
        assert np.isfinite(gradient(loss, certain, masks)).all()
    if not knobs:
        assert value(loss, right.astype(np.float32), masks) == pytest.approx(
            0, abs=1e-6
        )


@pytest.mark.parametrize("text", ORACLES)
@pytest.mark.parametrize("kind", [tf.float16, tf.bfloat16])
def test_half_precision_logits_are_computed_in_float32(
    text: str, kind: tf.DType
) -> None:
    logits, masks = batch()
    half = tf.cast(logits, kind)
    loss = build(text)
    sums = loss.sums(half, tf.constant(masks))
    assert {x.dtype for x in tf.nest.flatten(sums)} == {tf.float32}
    expected = ORACLES[text](tf.cast(half, tf.float64).numpy(), masks)
    assert float(loss.value(sums)) == pytest.approx(expected, rel=1e-5)


def test_losses_compiled_by_xla_are_the_same() -> None:
    logits, masks = batch()
    loss = build("cross_entropy+focal+dice+lovasz", smoothing=0.1)

    def both(logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(logits)
            result = loss.value(loss.sums(logits, tf.constant(masks)))
        return result, tape.gradient(result, logits)

    expected, slope = both(tf.constant(logits))
    found, compiled = tf.function(both, jit_compile=True)(tf.constant(logits))
    assert float(found) == pytest.approx(float(expected), rel=1e-6)
    np.testing.assert_allclose(compiled, slope, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("text", ORACLES)
def test_what_replicas_add_up_is_the_loss_of_the_global_batch(text: str) -> None:
    logits, masks = batch()
    masks[:3] = 255
    loss = build(text)
    parts = [loss.sums(logits[rows], masks[rows]) for rows in (slice(4), slice(4, 8))]
    together = tf.nest.map_structure(tf.add, *parts)
    assert float(loss.value(together)) == pytest.approx(
        value(loss, logits, masks), rel=1e-6
    )


@pytest.mark.parametrize("text", losses.LOSSES)
def test_sums_of_masks_are_those_that_no_logits_change(text: str) -> None:
    logits, masks = batch()
    masks[0] = 255
    loss = build(text)
    alone = loss.sums_of_masks(masks)[0]
    first, second = (loss.sums(values, masks)[0] for values in (logits, 2 * logits))
    for found, a, b in zip(alone, first, second, strict=True):
        same = np.allclose(a, b, rtol=1e-6)
        np.testing.assert_allclose(found, a if same else np.zeros_like(a), rtol=1e-6)
    greatest = [float(np.abs(x).max()) for x in alone]
    assert min(greatest) == 0 < max(greatest), "both kinds are there"


@pytest.mark.parametrize("text", ORACLES)
def test_ignored_pixels_have_no_gradient_and_no_say(text: str) -> None:
    logits, masks = batch()
    ours = gradient(build(text), logits, masks)
    assert np.abs(ours[masks == 255]).max() == 0
    assert np.abs(ours[masks != 255]).max() > 0
    other = np.where(masks[..., np.newaxis] == 255, 7 * logits, logits)
    assert value(build(text), other, masks) == value(build(text), logits, masks)


@pytest.mark.parametrize("text", ORACLES)
def test_a_batch_of_ignored_pixels_has_loss_and_gradient_zero(text: str) -> None:
    logits, masks = batch()
    masks = np.full_like(masks, 255)
    assert value(build(text), logits, masks) == 0
    assert np.abs(gradient(build(text), logits, masks)).max() == 0


def lovasz_by_thresholds(errors: np.ndarray, own: np.ndarray) -> float:
    """The Lovász extension as an integral, of the loss of all pixels above a level."""
    levels = np.concatenate([[0], np.unique(errors)])
    return sum(
        (high - low) * jaccard_loss(own, errors >= high)
        for low, high in itertools.pairwise(levels)
    )


def lovasz_by_orders(errors: np.ndarray, own: np.ndarray) -> float:
    """As the convex closure of a submodular loss: the greatest over all orders."""
    orders = itertools.permutations(range(len(own)))
    return max(
        errors[list(order)]
        @ np.diff([jaccard_loss(own, list(order[:k])) for k in range(len(own) + 1)])
        for order in orders
    )


@pytest.mark.parametrize("seed", range(8))
def test_lovasz_equals_its_other_definitions_on_a_few_pixels(seed: int) -> None:
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (1, 2, 3, 2)).astype(np.float32)
    masks = random.choice([0, 1, 255], (1, 2, 3)).astype(np.uint8)
    valid = masks != 255
    chance, truth = softmax(logits.astype(np.float64))[valid], masks[valid]
    pairs = [
        (np.abs((truth == label) - chance[:, label]), truth == label)
        for label in np.unique(truth)
    ]
    ours = value(losses.build_loss("lovasz", weights=[1, 1]), logits, masks)
    for definition in (lovasz_by_thresholds, lovasz_by_orders):
        expected = np.mean([definition(*pair) for pair in pairs])
        assert ours == pytest.approx(expected, rel=1e-5)


def test_of_certain_predictions_lovasz_is_one_minus_scikit_learns_iou() -> None:
    _, masks = batch()
    guess = batch(seed=5)[1] % CLASSES
    certain = 200 * np.eye(CLASSES, dtype=np.float32)[guess]
    parts = []
    for mask, found in zip(masks, guess, strict=True):
        truth, found = mask[mask != 255], found[mask != 255]
        parts.append(
            jaccard_score(truth, found, labels=np.unique(truth), average="macro")
        )
    ours = value(build("lovasz"), certain, masks)
    assert ours == pytest.approx(1 - np.mean(parts), rel=1e-5)


def test_of_certain_predictions_dice_is_one_minus_scikit_learns_f1() -> None:
    _, masks = batch()
    guess = batch(seed=5)[1] % CLASSES
    certain = 200 * np.eye(CLASSES, dtype=np.float32)[guess]
    truth, found = masks[masks != 255], guess[masks != 255]
    score = f1_score(truth, found, labels=np.unique(truth), average="macro")
    assert value(build("dice"), certain, masks) == pytest.approx(1 - score, rel=1e-5)


def test_lovasz_weights_of_a_large_image_are_exact() -> None:
    """Differences of neighbouring Jaccard losses would be off by percents."""
    own = np.random.default_rng(0).random((1, 512 * 512)) < 0.3
    ours = lovasz._jaccard_steps(tf.constant(own, tf.float32)).numpy()[0]
    missed = np.cumsum(own[0])
    union = missed[-1] + np.cumsum(~own[0])
    jaccard = np.concatenate([[0], 1 - (missed[-1] - missed) / union])
    np.testing.assert_allclose(ours, np.diff(jaccard), rtol=1e-5, atol=1e-15)


def test_an_image_without_a_labelled_pixel_does_not_count_in_lovasz() -> None:
    logits, masks = batch(size=3)
    masks[1] = 255
    rest = [0, 2]
    whole = value(build("lovasz"), logits, masks)
    assert whole == pytest.approx(value(build("lovasz"), logits[rest], masks[rest]))


def test_a_sum_of_losses_counts_each_by_its_factor() -> None:
    pair = batch()
    expected = 2.5 * ORACLES["cross_entropy"](*pair) + ORACLES["dice"](*pair)
    expected += 0.1 * ORACLES["weighted_cross_entropy"](*pair)
    loss = build("2.5*cross_entropy+dice+1e-1*weighted_cross_entropy")
    assert value(loss, *pair) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("dice+magic", "no loss 'magic'; join some of cross_entropy, .*, dice, lovasz"),
        ("", "no loss ''"),
        ("dice+", "no loss ''"),
        ("dice*0.5", "no loss '0.5'"),
        ("0.5*magic", "no loss 'magic'"),
        *((f"{x}*dice", f"'{x}' is no finite positive number") for x in ("0", "-1")),
        *((f"{x}*dice", f"'{x}' is no finite positive number") for x in ("nan", "inf")),
        ("1e40*dice", "'1e40' is no finite positive number"),
        ("1e-50*dice", "'1e-50' is no finite positive number"),
        ("half*dice", "'half' is no finite positive number"),
        ("*dice", "'' is no finite positive number"),
        ("dice+cross_entropy+0.5*dice", "'dice' is there twice"),
    ],
)
def test_a_loss_that_cannot_be_is_refused_in_one_line(text: str, line: str) -> None:
    with pytest.raises(SeamlineError, match=rf"^--loss={re.escape(text)}: {line}"):
        build(text)


def test_wherever_losses_are_listed_all_are_in_the_order_of_the_code() -> None:
    text = (ROOT / "docs" / "training.md").read_text()
    start = text.index("## Losses")
    table = text[start : text.index("| flag |", start)]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [*losses.LOSSES]
    [row] = re.findall(r"^\| `--loss` \| (.*);", (ROOT / "README.md").read_text(), re.M)
    assert re.findall(r"`(\w+)`", row) == [*losses.LOSSES]
    assert f": {', '.join(losses.LOSSES)};" in KNOBS["loss"].metadata["help"]


def test_the_documented_flags_and_sums_exist() -> None:
    text = (ROOT / "docs" / "training.md").read_text()
    section = text[text.index("## Losses") : text.index("## What it costs")]
    names = {*re.findall(r"--(\w+)", section)} - {"xla"}
    assert len(names) > 6
    assert names <= {*KNOBS}
    for sum_of_terms in re.findall(r"--loss=(\S+?)`", section):
        assert losses.read_terms(sum_of_terms)
    for scheme in KNOBS["class_weights"].metadata["choices"]:
        assert f"`--class_weights={scheme}`" in section
