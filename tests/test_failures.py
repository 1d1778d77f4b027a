"""What is told where an example cannot be had inside a pipeline of TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.test_engine import make_job, one_device
from trainer.data.examples import Arrays, Examples
from trainer.engine import telling
from trainer.errors import SeamlineError, Unavailable

BLANK: Arrays = np.zeros((1, 32, 32, 3), np.uint8), np.zeros((1, 32, 32), np.uint8)


def failing(failure: Callable[[int], Exception | None]) -> Examples:
    """Ten examples of 32²; those that have a failure cannot be had."""

    def fetch(numbers: np.ndarray) -> Arrays:
        for number in numbers.tolist():
            if error := failure(number):
                raise error
        images, masks = (np.repeat(x, len(numbers), axis=0) for x in BLANK)
        return images, masks

    return Examples([str(number) for number in range(10)], 32, fetch)


def read(found: Examples, numbers: Sequence[int]) -> None:
    """Gets examples one after the other, from inside a pipeline."""
    dataset = tf.data.Dataset.from_tensor_slices(np.reshape(numbers, (-1, 1)))
    for _ in dataset.map(found.gather):
        pass


def damaged(number: int) -> SeamlineError:
    return SeamlineError(
        f"train-00000: damaged at record {number} ('é'); convert again"
    )


@pytest.mark.parametrize(
    "failure",
    [damaged(3), Unavailable("a bucket\nis away"), MemoryError(), KeyError(3)],
)
def test_a_failure_is_raised_as_it_was(failure: Exception) -> None:
    found = failing({3: failure}.get)
    with pytest.raises(type(failure)) as raised, found.explained():
        read(found, [0, 3])
    assert raised.value is failure


def test_an_error_of_tensorflow_alone_passes_though_an_example_failed_before() -> None:
    found = failing(damaged)
    with pytest.raises(tf.errors.OpError):
        read(found, [5])
    other = tf.errors.InvalidArgumentError(None, None, "shapes do not fit")
    with pytest.raises(tf.errors.InvalidArgumentError) as raised, found.explained():
        raise other
    assert raised.value is other


def test_of_several_failures_the_one_that_ended_the_pipeline_is_raised() -> None:
    found = failing(damaged)
    with pytest.raises(tf.errors.OpError):
        read(found, [1])
    with pytest.raises(SeamlineError, match="record 2 "), found.explained():
        read(found, [2])


def test_a_failure_is_raised_once() -> None:
    found = failing(damaged)
    with pytest.raises(tf.errors.OpError) as told:
        read(found, [1])
    with pytest.raises(SeamlineError), found.explained():
        raise told.value
    with pytest.raises(tf.errors.OpError), found.explained():
        raise told.value
    with pytest.raises(SeamlineError, match="record 1 "), found.explained():
        read(found, [1])


def test_a_record_that_is_damaged_when_the_bad_batch_is_drawn_is_named(
    tmp_path: Path,
) -> None:
    job = make_job(tmp_path / "run", one_device(), train=failing(damaged))
    with pytest.raises(SeamlineError, match=r"train-00000: damaged at record \d "):
        telling.refuse_bad_loss(job, "at step 0", 0, 1)
