from __future__ import annotations

import collections

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.order import Order, repeat_factors


def positions(start: int, stop: int) -> tf.Tensor:
    return tf.range(start, stop, dtype=tf.int64)


def examples_of(order: Order, start: int, stop: int) -> list[int]:
    return order.locate(positions(start, stop))[0].numpy().tolist()


@given(
    count=st.integers(1, 60),
    copies=st.sampled_from([1, 8]),
    seed=st.integers(0, 2**32 - 1),
    turn=st.integers(0, 10**9),
)
@settings(max_examples=60, deadline=None)
def test_every_pass_holds_every_copy_of_every_example_once(
    count: int, copies: int, seed: int, turn: int
) -> None:
    order = Order(count, copies=copies, seed=seed)
    first = turn * order.length
    found = order.locate(positions(first, first + order.length))
    pairs = list(zip(*(x.numpy().tolist() for x in found), strict=True))
    assert sorted(pairs) == [(x, y) for x in range(count) for y in range(copies)]


@given(seed=st.integers(0, 2**32 - 1), turn=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_passes_and_seeds_differ(seed: int, turn: int) -> None:
    order, other = (Order(64, copies=1, seed=s) for s in (seed, seed ^ 1))
    first, second = (examples_of(order, t * 64, t * 64 + 64) for t in (turn, turn + 1))
    assert first != second
    assert first != examples_of(other, turn * 64, turn * 64 + 64)


@pytest.mark.parametrize("count", [50, 200, 680])
@pytest.mark.parametrize("seed", [0, 1, 256])
def test_orders_are_as_random_as_permutations(count: int, seed: int) -> None:
    """Places of all examples over passes: few coincidences, none by rule."""
    order = Order(count, copies=1, seed=seed)
    passes = np.reshape(examples_of(order, 0, 300 * count), (300, count))
    stays = (passes[1:] == passes[:-1]).mean() * count
    sorted_places = (passes == np.arange(count)).mean() * count
    # One in a pass is expected; 300 passes tell 1 from 1.3 with certainty.
    assert 0.7 < stays < 1.3
    assert 0.7 < sorted_places < 1.3
    assert len({tuple(row) for row in passes}) == 300
    correlations = [np.corrcoef(row, np.arange(count))[0, 1] for row in passes]
    assert abs(np.mean(correlations)) < 5 / np.sqrt(300 * count)


def test_copies_are_mixed_with_examples() -> None:
    _, copy = Order(10, copies=8, seed=0).locate(positions(0, 80))
    assert not np.array_equal(copy, np.sort(copy))


@given(
    repeats=st.lists(st.floats(1, 6), min_size=1, max_size=40),
    seed=st.integers(0, 2**32 - 1),
    turn=st.integers(0, 10**6),
)
@settings(max_examples=60, deadline=None)
def test_a_pass_repeats_each_example_as_often_as_asked_rounded_down_or_up(
    repeats: list[float], seed: int, turn: int
) -> None:
    order = Order(len(repeats), copies=1, seed=seed, repeats=np.array(repeats))
    first = turn * order.length
    times = collections.Counter(examples_of(order, first, first + order.length))
    assert np.ceil(sum(repeats) - 1e-3) <= order.length <= np.ceil(sum(repeats) + 1e-3)
    # Up to one more in all makes a whole number, spread over all.
    slack = 1 / len(repeats) + 1e-4
    for index, often in enumerate(repeats):
        assert max(1, np.floor(often)) <= times[index] <= np.ceil(often + slack)


def test_over_passes_the_repeats_are_met_on_average() -> None:
    repeats = np.array([1, 1, 1.25, 2.75, 5.125, 1, 1.875])
    order = Order(len(repeats), copies=1, seed=3, repeats=repeats)
    seen = examples_of(order, 0, 200 * order.length)
    times = np.bincount(seen, minlength=len(repeats)) / 200
    np.testing.assert_allclose(times, repeats, atol=0.01)


@pytest.mark.parametrize("count", [1, 3, 1000])
def test_a_position_in_the_far_future_is_just_arithmetic(count: int) -> None:
    order = Order(count, copies=1, seed=0)
    far = 10**15 // count * count
    assert sorted(examples_of(order, far, far + count)) == list(range(count))


def test_a_place_does_not_depend_on_what_is_asked_beside_it() -> None:
    order = Order(7, copies=2, seed=5, repeats=np.linspace(1, 3, 7))
    together = examples_of(order, 0, 100)
    assert together == [examples_of(order, x, x + 1)[0] for x in range(100)]


def test_repeat_factors_are_those_of_the_paper() -> None:
    """LVIS: max over the classes of an image of max(1, sqrt(t / share))."""
    sets = np.zeros((100, 3), bool)
    sets[:, 0] = True
    sets[:9, 1] = True
    sets[0, 2] = True
    factors = repeat_factors(sets, 0.36)
    np.testing.assert_allclose(factors[0], 6)
    np.testing.assert_allclose(factors[1:9], 2)
    np.testing.assert_allclose(factors[9:], 1)


def test_an_image_without_a_class_comes_once() -> None:
    assert repeat_factors(np.zeros((3, 4), bool), 0.5).tolist() == [1, 1, 1]
