"""Augmentation policies: what happens to the examples of a training batch.

The article's own ops are in `tutorial_ops`, the random ones in `random_ops`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping

import tensorflow as tf

from trainer.data import random_ops
from trainer.data.callbacks import numpy_function
from trainer.data.tutorial_ops import TUTORIAL_OPS, Pair
from trainer.errors import SeamlineError

_WITHOUT_OPS = ("none", "tutorial")


@dataclasses.dataclass(frozen=True)
class Policy:
    """How examples of a pass are augmented.

    Attributes:
      copies: how many times a pass holds each example.
      amounts: random numbers in [0, 1) that an example needs; 0: none.
      pixel_bytes: memory while a batch is made, for each of its pixels: uint8 as
        fetched and as moved, float32 as coloured, twice each between NumPy and
        TensorFlow. Measured, and rounded up.
      apply: (images uint8 `[B, H, W, 3]`, masks uint8 `[B, H, W]`, copies int64 `[B]`
        in 0..copies-1, amounts float32 `[B, amounts]`) -> (images float32
        `[B, H, W, 3]` in 0..255, masks uint8 `[B, H, W]`), eagerly or in a map of
        tf.data. What an example becomes does not depend on the others of its batch.
    """

    copies: int
    amounts: int
    pixel_bytes: int
    apply: Callable[[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor], Pair]


def find(text: str) -> Policy:
    """The policy that `--augment=text` asks for.

    Args:
      text: `none`, `tutorial`, a policy of `random_ops.POLICIES` such as `random`,
        `random,hue=0,rotate=10` (with changes), or `flip=0.5,rotate=10` (these ops of
        `random_ops.OPS` and no others).

    Raises:
      SeamlineError: it is none of these; names the part that is wrong.
    """
    asked = canonical(text)
    if asked == "none":
        return _NONE
    return _TUTORIAL if asked == "tutorial" else _random(parse(asked))


def canonical(text: str) -> str:
    """The one spelling of the policy that `--augment=text` asks for.

    Two texts have the same one just where they ask for the same policy. It is the
    shortest of several lists, all in the order of `random_ops.OPS`: a policy and what
    differs from it, or all ops at work.

    Raises:
      SeamlineError: see `find`.
    """
    if text.strip() in _WITHOUT_OPS:
        return text.strip()
    strengths = parse(text)
    at_work = [_spelled(name, x) for name, x in strengths.items() if x]
    if not at_work:
        return "none"
    changed = [
        [policy, *(_spelled(x, strengths[x]) for x in own if strengths[x] != own[x])]
        for policy, own in random_ops.POLICIES.items()
    ]
    return min((",".join(parts) for parts in (*changed, at_work)), key=len)


def _spelled(name: str, strength: float) -> str:
    return f"{name}={strength!r}".removesuffix(".0")


def parse(text: str) -> dict[str, float]:
    """The strength of each op of `random_ops.OPS`, 0 for those not asked for.

    Blanks around names and values do not matter.

    Raises:
      SeamlineError: names the part that is wrong and what would do.
    """
    ops = {op.name: op for op in random_ops.OPS}
    first, *rest = parts = [part.strip() for part in text.split(",")]
    policy = random_ops.POLICIES.get(first)
    given: dict[str, float] = {}
    for part in rest if policy else parts:
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if name not in ops:
            raise SeamlineError(f"--augment={text}: {_no_op(name)}")
        if not equals:
            raise SeamlineError(
                f"--augment={text}: {name} needs a strength, such as "
                f"{name}={ops[name].default:g}"
            )
        if name in given:
            raise SeamlineError(f"--augment={text}: {name} comes twice; give it once")
        given[name] = _strength(text, ops[name], value)
    return {name: given.get(name, policy[name] if policy else 0.0) for name in ops}


def enlargement(text: str) -> float:
    """How many times larger than in its photo a thing is on average when learned from.

    Of `--augment=text`: crops have sides of 1 - crop to 1, so 1 / (1 - crop / 2).
    """
    if text.strip() in _WITHOUT_OPS:
        return 1.0
    return 1 / (1 - parse(text)["crop"] / 2)


def _no_op(name: str) -> str:
    """What is wrong with a name where one of an op is due, and what would do."""
    if name in _WITHOUT_OPS:
        return f"{name} takes no ops; give it alone, or leave it out"
    if name in random_ops.POLICIES:
        return f"{name} comes first and once, without a number, as in {name},hue=0"
    policies = ", ".join([*_WITHOUT_OPS, *random_ops.POLICIES])
    ops = ", ".join(op.name for op in random_ops.OPS)
    return f"no policy or op {name!r}; policies: {policies}; ops: {ops}"


def _strength(text: str, op: random_ops.Op, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 <= number <= op.highest:
        what = "is not a number" if math.isnan(number) else "is out of range"
        raise SeamlineError(
            f"--augment={text}: {op.name}={value} {what}; "
            f"{op.name} lies in 0..{op.highest:g}"
        )
    # -0 is 0.
    return abs(number)


def _plain(
    images: tf.Tensor, masks: tf.Tensor, copies: tf.Tensor, amounts: tf.Tensor
) -> Pair:
    del copies, amounts
    return tf.cast(images, tf.float32), tf.convert_to_tensor(masks)


def _tutorial(
    images: tf.Tensor, masks: tf.Tensor, copies: tf.Tensor, amounts: tf.Tensor
) -> Pair:
    """Applies op number `copies[i]` of `TUTORIAL_OPS` to example i."""
    del amounts

    def one(row: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> Pair:
        image, mask, copy = row
        branches = [lambda op=op: op(image, mask) for op in TUTORIAL_OPS]
        return tf.switch_case(tf.cast(copy, tf.int32), branches)

    rows = (tf.cast(images, tf.float32) / 255.0, masks[..., tf.newaxis], copies)
    images, masks = tf.map_fn(one, rows, fn_output_signature=(tf.float32, tf.uint8))
    return images * 255.0, masks[..., 0]


def _random(strengths: Mapping[str, float]) -> Policy:
    on_arrays = functools.partial(random_ops.augment, strengths=strengths)

    def apply(
        images: tf.Tensor, masks: tf.Tensor, copies: tf.Tensor, amounts: tf.Tensor
    ) -> Pair:
        del copies
        changed, moved = numpy_function(
            on_arrays, [images, masks, amounts], [tf.float32, tf.uint8]
        )
        # A numpy_function does not know the shapes that it returns.
        return (
            tf.ensure_shape(changed, images.shape),
            tf.ensure_shape(moved, masks.shape),
        )

    return Policy(1, random_ops.AMOUNTS, 36, apply)


_NONE = Policy(1, 0, 36, _plain)
_TUTORIAL = Policy(len(TUTORIAL_OPS), 0, 80, _tutorial)
