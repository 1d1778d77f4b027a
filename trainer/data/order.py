"""The order of examples: an endless stream of passes, each position by arithmetic.

A pass holds every example as often as asked, and is a permutation drawn from (seed,
pass). Nothing before a position is computed, so step 10^12 costs what step 0 costs.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

_UNIT = 1 << 20
"""Repeats are counted in parts of this, so that nothing is lost to rounding."""
_GOLDEN = 648055
"""_UNIT / golden ratio, odd: its multiples fill 0.._UNIT-1 evenly, each place once."""


class Order:
    """Position in the stream -> (example, copy).

    Attributes:
      length: positions in a pass.
    """

    def __init__(
        self, count: int, *, copies: int, seed: int, repeats: np.ndarray | None = None
    ) -> None:
        """Lays out the passes.

        Args:
          count: number of examples.
          copies: how many times a pass holds each, all for the augmentation to tell
            apart.
          seed: of the order.
          repeats: float64 `[count]`, each at least 1: how often each copy comes in a
            pass, on average over passes, and up to one more in all to make a whole
            number; None: once. See `repeat_factors`.
        """
        self._seed, self._slots, self._bounds = seed, count, None
        if repeats is not None:
            units = np.rint(repeats * _UNIT).astype(np.int64)
            # What is missing to whole slots is given to all alike.
            more, rest = divmod(int(-units.sum() % _UNIT), count)
            units += more + (np.arange(count) < rest)
            self._bounds = np.cumsum(units)
            self._slots = int(self._bounds[-1]) // _UNIT
        self.length = self._slots * copies

    def locate(self, position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Examples and copies at these positions.

        The permutation is a cipher on the index (TensorFlow's `index_shuffle`), so that
        single positions can be asked for.

        Args:
          position: int64 `[B]`.

        Returns:
          int64 `[B]` in 0..count-1 and int64 `[B]` in 0..copies-1.
        """
        turn, offset = position // self.length, position % self.length
        # The public wrapper takes one seed for all positions; the op one for each.
        shuffled = tf.raw_ops.RandomIndexShuffle(
            index=offset,
            seed=_keys(self._seed, turn),
            max_index=tf.cast(self.length - 1, tf.int64),
            # What TensorFlow's random_index_shuffle.h recommends.
            rounds=8,
        )
        return self._example(shuffled % self._slots, turn), shuffled // self._slots

    def _example(self, slot: tf.Tensor, turn: tf.Tensor) -> tf.Tensor:
        """Which example a slot of a pass holds.

        With repeats, by systematic sampling: example i owns the interval between bounds
        i-1 and i, and comes as often as points 0, 1, 2 … + shift fall into it, which is
        its repeats rounded down or up. The shift moves on from pass to pass.
        """
        if self._bounds is None:
            return slot
        shift = (turn + self._seed) % _UNIT * _GOLDEN % _UNIT
        point = slot * _UNIT + shift
        return tf.searchsorted(self._bounds, point, side="right", out_type=tf.int64)


def _keys(seed: int, turn: tf.Tensor) -> tf.Tensor:
    """Keys of the cipher for passes: int64 `[B]` -> int64 `[B, 3]` of 32 bits each.

    The cipher takes its key as it is, and seeds and passes are small numbers: with few
    bits set it leaves most examples in their place. So their bits are mixed first, by
    SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
    """
    state = tf.cast(turn, tf.uint64) + tf.constant(_mixed(seed), tf.uint64)
    words = [_mix(state * 2 + tf.constant(part, tf.uint64)) for part in (0, 1)]
    low, high = (tf.bitwise.right_shift(x, _u64(32)) for x in words)
    third = tf.bitwise.bitwise_and(words[0], _u64(0xFFFFFFFF))
    return tf.cast(tf.stack([low, high, third], axis=1), tf.int64)


def _u64(value: int) -> tf.Tensor:
    return tf.constant(value, tf.uint64)


def _mix(state: tf.Tensor) -> tf.Tensor:
    state *= _u64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = tf.bitwise.bitwise_xor(
            state, tf.bitwise.right_shift(state, _u64(shift))
        )
        state *= _u64(factor)
    return tf.bitwise.bitwise_xor(state, tf.bitwise.right_shift(state, _u64(31)))


def _mixed(seed: int) -> int:
    """One number of 64 bits for a seed, so that seeds are not passes of each other."""
    return int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])


def repeat_factors(label_sets: np.ndarray, threshold: float) -> np.ndarray:
    """How often each example should come, so that rare classes are seen more often.

    Repeat-factor sampling (Gupta, Dollár, Girshick, "LVIS", CVPR 2019, appendix B): a
    class in a share f of the images has the factor max(1, sqrt(threshold / f)), and an
    image has the greatest factor of its classes.

    Args:
      label_sets: bool `[N, C]`, whether a class occurs in an image.
      threshold: share of images below which a class counts as rare, 0..1.

    Returns:
      float64 `[N]`, each at least 1.
    """
    share = label_sets.mean(axis=0)
    factors = np.sqrt(threshold / np.maximum(share, 1 / len(label_sets)))
    return np.maximum(1.0, (label_sets * factors).max(axis=1))
