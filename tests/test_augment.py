"""Policies; the published calls stand here as the article's script has them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import ROOT
from trainer import pipeline, recipes
from trainer.data import augment, random_ops
from trainer.data.tutorial_ops import TUTORIAL_OPS
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
    assert [op.__name__ for op in TUTORIAL_OPS] == list(PUBLISHED)


@pytest.mark.parametrize("op", TUTORIAL_OPS, ids=lambda op: op.__name__)
def test_an_op_changes_the_image_as_the_published_call(op: Callable) -> None:
    image, mask = example()
    ours, _ = op(tf.constant(image), tf.constant(mask))
    theirs = PUBLISHED[op.__name__](tf.constant(image))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("op", TUTORIAL_OPS, ids=lambda op: op.__name__)
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


@pytest.mark.parametrize("op", TUTORIAL_OPS, ids=lambda op: op.__name__)
def test_an_op_in_a_pipeline_equals_the_published_call_bit_for_bit(
    op: Callable,
) -> None:
    image, mask = example(1)
    dataset = tf.data.Dataset.from_tensors((image, mask)).map(op)
    [(ours, _)] = dataset.as_numpy_iterator()
    theirs = tf.data.Dataset.from_tensors(image).map(PUBLISHED[op.__name__])
    np.testing.assert_array_equal(ours, next(theirs.as_numpy_iterator()))


def batch(count: int, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    images = random.integers(0, 256, (count, size, size, 3)).astype(np.uint8)
    return images, random.integers(0, 59, (count, size, size)).astype(np.uint8)


def arguments(policy: augment.Policy, count: int) -> tuple[np.ndarray, ...]:
    """What a policy's `apply` takes, for `count` examples."""
    random = np.random.default_rng(4)
    amounts = random.random((count, policy.amounts), np.float32)
    return (*batch(count), random.integers(0, policy.copies, count), amounts)


def in_pipeline(
    policy: augment.Policy, values: tuple[np.ndarray, ...]
) -> tuple[np.ndarray, np.ndarray]:
    [pair] = tf.data.Dataset.from_tensors(values).map(policy.apply).as_numpy_iterator()
    return pair


@pytest.mark.parametrize("how", ["eager", "pipeline"])
def test_the_tutorial_policy_equals_the_published_calls(how: str) -> None:
    images, masks = batch(8)
    policy = augment.find("tutorial")
    values = (images, masks, np.arange(8), np.zeros((8, 0), np.float32))
    apply = in_pipeline if how == "pipeline" else lambda policy, x: policy.apply(*x)
    got_images, got_masks = apply(policy, values)
    for index, op in enumerate(TUTORIAL_OPS):
        image = PUBLISHED[op.__name__](images[index].astype(np.float32) / 255)
        _, mask = op(images[index], masks[index][..., np.newaxis])
        np.testing.assert_allclose(got_images[index] / 255, image, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(got_masks[index], mask[..., 0])
    assert np.max(got_images) > 255, "not clipped, as in the article"


TEXTS = ["none", "tutorial", "random", "random,rotate=30", "flip=0.5", "gamma=0.5"]


@pytest.mark.parametrize("text", TEXTS)
def test_what_an_example_becomes_does_not_depend_on_its_batch(text: str) -> None:
    policy = augment.find(text)
    values = arguments(policy, 37)
    images, masks = (np.array(x) for x in policy.apply(*values))
    order = np.random.default_rng(5).permutation(37)
    for cut in ([order], np.split(order, [1, 4, 20]), order[:9].reshape(9, 1)):
        for rows in cut:
            few_images, few_masks = policy.apply(*(x[rows] for x in values))
            np.testing.assert_array_equal(few_images, images[rows])
            np.testing.assert_array_equal(few_masks, masks[rows])


@pytest.mark.parametrize("text", TEXTS)
def test_a_policy_does_the_same_eagerly_and_in_a_pipeline(text: str) -> None:
    policy = augment.find(text)
    values = arguments(policy, 19)
    eager, piped = policy.apply(*values), in_pipeline(policy, values)
    for one, two in zip(eager, piped, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("text", TEXTS)
def test_a_pipeline_knows_the_shapes_and_types_that_a_policy_returns(text: str) -> None:
    policy = augment.find(text)
    dataset = tf.data.Dataset.from_tensors(arguments(policy, 3)).map(policy.apply)
    images, masks = dataset.element_spec
    assert (images.shape, images.dtype) == ((3, SIZE, SIZE, 3), tf.float32)
    assert (masks.shape, masks.dtype) == ((3, SIZE, SIZE), tf.uint8)


@pytest.mark.parametrize("text", ["none", "flip=0", "random," + ",".join(
    f"{op.name}=0" for op in random_ops.OPS
)])  # fmt: skip
def test_nothing_to_do_leaves_examples_as_they_are_and_needs_no_numbers(
    text: str,
) -> None:
    policy = augment.find(text)
    assert (policy.copies, policy.amounts) == (1, 0)
    images, masks, *rest = arguments(policy, 4)
    got, labels = policy.apply(images, masks, *rest)
    np.testing.assert_array_equal(got, images)
    np.testing.assert_array_equal(labels, masks)


@pytest.mark.parametrize(
    ("text", "strength"), [("random", "default"), ("strong", "strong")]
)
def test_a_random_policy_applies_each_op_at_its_strength(
    text: str, strength: str
) -> None:
    policy = augment.find(text)
    images, masks, copies, amounts = arguments(policy, 20)
    strengths = {op.name: getattr(op, strength) for op in random_ops.OPS}
    wanted = random_ops.augment(images, masks, amounts, strengths)
    got = policy.apply(images, masks, copies, amounts)
    for one, two in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(one, two)


def asked(text: str) -> dict[str, float]:
    return {name: x for name, x in augment.parse(text).items() if x}


def test_a_text_says_which_ops_with_which_strengths() -> None:
    defaults = {op.name: op.default for op in random_ops.OPS}
    assert asked("random") == defaults
    assert asked("random,rotate=10") == {**defaults, "rotate": 10}
    without = {name: x for name, x in defaults.items() if name != "hue"}
    assert asked("random,hue=0") == without
    strong = {op.name: op.strong for op in random_ops.OPS}
    assert asked("strong,crop=0.5") == {**strong, "crop": 0.5}
    assert asked("flip=0.5,rotate=10") == {"flip": 0.5, "rotate": 10}
    assert asked(" flip =.5 ,\trotate = 1e1\n") == {"flip": 0.5, "rotate": 10}
    assert asked(" random , hue = 0") == without
    for op in random_ops.OPS:
        assert asked(f"{op.name}={op.highest}") == {op.name: op.highest}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("wild", "no policy or op 'wild'; policies: none, tutorial, random, strong;"),
        ("", "no policy or op ''"),
        ("Random", "no policy or op 'Random'"),
        ("random,", "no policy or op ''"),
        ("none,flip=0.5", "none takes no ops; give it alone, or leave it out"),
        ("tutorial , flip=0.5", "tutorial takes no ops; give it alone, or leave it"),
        ("flip=0.5,none", "none takes no ops; give it alone, or leave it out"),
        ("none=1", "none takes no ops; give it alone, or leave it out"),
        ("flip=0.5,random", "random comes first and once, without a number, as in ran"),
        ("random,random", "random comes first and once"),
        ("random=1", "random comes first and once, without a number"),
        ("random,strong", "strong comes first and once, without a number"),
        ("flip=0.5,zoom=2", "no policy or op 'zoom'"),
        ("flip", "flip needs a strength, such as flip=0.5"),
        ("flip=2", "flip=2 is out of range; flip lies in 0..1"),
        ("random,crop=1", "crop=1 is out of range; crop lies in 0..0.9"),
        ("rotate=-3", "rotate=-3 is out of range; rotate lies in 0..180"),
        ("rotate=inf", "rotate=inf is out of range"),
        ("rotate=nan", "rotate=nan is not a number; rotate lies in 0..180"),
        ("rotate=much", "rotate=much is not a number"),
        ("rotate=", "rotate= is not a number"),
        ("rotate=1=2", "rotate=1=2 is not a number"),
        ("rotate=3,rotate=3", "rotate comes twice"),
        ("random,hue=0,hue=0", "hue comes twice"),
    ],
)
def test_a_text_that_is_wrong_is_refused_with_what_would_do(
    text: str, problem: str
) -> None:
    with pytest.raises(SeamlineError) as refused:
        augment.find(text)
    assert str(refused.value).startswith(f"--augment={text}: {problem}")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("texts", "canonical"),
    [
        (["none", " none\n", "flip=0", "flip=0,hue=-0"], "none"),
        (["tutorial", "\ttutorial "], "tutorial"),
        (["random", "random ", "random,hue=0.02", " random, rotate = 3.0"], "random"),
        (["random,hue=0", " random , hue=0.0", "random,hue=-0"], "random,hue=0"),
        (["flip=0.5,rotate=10", "rotate=1e1,hue=0,flip=.5"], "flip=0.5,rotate=10"),
        (["random,cutout=0,flip=1"], "random,flip=1,cutout=0"),
        (["strong", " strong,crop=0.40 "], "strong"),
        (["strong,hue=0", "strong , hue=0.0"], "strong,hue=0"),
        (["gamma=0.30000000000000004"], "gamma=0.30000000000000004"),
        (["gamma=1e-5", "gamma=0.00001"], "gamma=1e-05"),
    ],
)
def test_all_spellings_of_a_policy_have_one_canonical_one(
    texts: list[str], canonical: str
) -> None:
    assert {augment.canonical(text) for text in texts} == {canonical}
    assert augment.canonical(canonical) == canonical


OPS = {op.name: op for op in random_ops.OPS}


@given(
    st.fixed_dictionaries({}, optional={x: st.floats(0, OPS[x].highest) for x in OPS}),
    st.sampled_from([None, *random_ops.POLICIES]),
)
def test_a_canonical_text_asks_for_the_very_same_strengths(
    given: dict[str, float], policy: str | None
) -> None:
    wanted = random_ops.POLICIES[policy] if policy else dict.fromkeys(OPS, 0.0)
    wanted = wanted | given
    parts = [policy] if policy else []
    parts += [f"{name} = {x}" for name, x in given.items()]
    canonical = augment.canonical(" ,".join(parts or ["none"]))
    if canonical == "none":
        assert not any(wanted.values())
    else:
        assert augment.parse(canonical) == wanted
    every = ",".join(f"{name}={x}" for name, x in reversed(wanted.items()))
    assert augment.canonical(every) == canonical


def run_dir_of(text: str, records_dir: Path) -> str:
    """What a run with this policy would be called."""
    values = {"augment": text, "encoder_weights": "none"}
    with pytest.raises(SeamlineError, match="holds no run to go on with") as refused:
        pipeline.run(
            recipe_name="default",
            recipe=recipes.resolve("default", values),
            data={"dataset": "auto", "records_dir": str(records_dir)},
            stage_dir=None,
            input_limits={},
            run_dir=None,
            seed=0,
            precision="float32",
            xla="false",
            strategy="one_device",
            num_virtual_devices=0,
            resume="must",
            training={},
        )
    return str(refused.value)


def test_another_spelling_is_the_same_run_and_another_policy_is_not(
    records_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one = run_dir_of("random,hue=0", records_dir)
    assert run_dir_of(" random , hue=0.0", records_dir) == one
    assert run_dir_of("random,hue=0.1", records_dir) != one


PAGE = (ROOT / "docs" / "augmentation.md").read_text()


def test_the_documented_table_is_the_declared_one() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| ([\d.]+) \| ([\d.]+) \| (\S+) \| (.+) \|$", PAGE, re.M
    )
    assert rows == [
        (op.name, f"{op.default:g}", f"{op.strong:g}", f"0..{op.highest:g}", op.help)
        for op in random_ops.OPS
    ]


def test_every_documented_value_of_the_flag_is_one() -> None:
    table = re.findall(r"^\| `(\S+)` \| (?:each|the same)", PAGE, re.M)
    examples = re.findall(r"--augment=([^`\s]+)", PAGE)
    assert len(table) == 6
    assert len(examples) == 2
    for text in (*table, *examples):
        assert augment.find(text) != augment.find("none") or text == "none"
