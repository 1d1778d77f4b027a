from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from trainer.data import augment, card, inputs, records
from trainer.data.images import decode_mask, resize_mask
from trainer.data.inputs import Examples, Share
from trainer.errors import SeamlineError


def numbered(count: int) -> Examples:
    """Examples whose pixels say which one they are."""
    numbers = np.arange(count, dtype=np.uint8)
    images = np.broadcast_to(numbers[:, None, None, None], (count, 32, 32, 3))
    masks = np.broadcast_to(numbers[:, None, None], (count, 32, 32))
    return Examples([str(x) for x in numbers], images.copy(), masks.copy())


def stream(examples: Examples, **values: object) -> list[tuple[np.ndarray, np.ndarray]]:
    asked = {"policy": augment.find("none"), "batch_size": 4, "seed": 0, "start": 0}
    dataset = inputs.training_batches(examples, **{**asked, **values})
    return list(dataset.as_numpy_iterator())


def order(examples: Examples, **values: object) -> list[int]:
    return [int(x) for _, masks in stream(examples, **values) for x in masks[:, 0, 0]]


@pytest.mark.parametrize("count", [1, 2, 7, 13, 64])
def test_each_pass_holds_every_example_once_whatever_the_batch(count: int) -> None:
    seen = order(numbered(count), batch_size=4, stop=count)
    for turn in range(4):
        one_pass = seen[turn * count : (turn + 1) * count]
        assert sorted(one_pass) == list(range(count))


def test_passes_and_seeds_differ_in_order() -> None:
    first = order(numbered(64), stop=32)
    assert first[:64] != first[64:]
    assert order(numbered(64), stop=32, seed=1) != first
    assert order(numbered(64), stop=32) == first


def test_an_order_is_well_mixed() -> None:
    seen = order(numbered(200), batch_size=200, stop=1)
    assert abs(np.corrcoef(seen, np.arange(200))[0, 1]) < 0.25


def test_a_start_in_the_middle_gives_the_same_batches() -> None:
    examples, policy = numbered(10), augment.find("random")
    whole = stream(examples, policy=policy, stop=9)
    late = stream(examples, policy=policy, start=5, stop=9)
    for (images, masks), (late_images, late_masks) in zip(whole[5:], late, strict=True):
        np.testing.assert_array_equal(images, late_images)
        np.testing.assert_array_equal(masks, late_masks)


def test_a_start_at_a_step_in_the_far_future_is_just_arithmetic() -> None:
    far = 10**12
    assert len(order(numbered(10), start=far, stop=far + 3)) == 12


@pytest.mark.parametrize("pieces", [2, 4])
def test_replicas_together_see_the_same_global_batches(pieces: int) -> None:
    examples, policy = numbered(10), augment.find("random")
    whole = stream(examples, policy=policy, stop=5)
    shared = stream(
        examples, policy=policy, stop=5, share=Share(pieces, first=0, local=pieces)
    )
    for step, (images, masks) in enumerate(whole):
        parts = shared[step * pieces : (step + 1) * pieces]
        joined = [np.concatenate(part) for part in zip(*parts, strict=True)]
        np.testing.assert_allclose(joined[0], images, atol=1e-4)
        np.testing.assert_array_equal(joined[1], masks)


def test_two_workers_make_the_halves_that_one_process_makes() -> None:
    examples = numbered(10)
    one = stream(examples, stop=4, share=Share(2, first=0, local=2))
    second = stream(examples, stop=4, share=Share(2, first=1, local=1))
    for step in range(4):
        np.testing.assert_array_equal(one[2 * step + 1][0], second[step][0])


def test_a_batch_that_replicas_cannot_share_is_refused_with_what_would_do() -> None:
    with pytest.raises(SeamlineError, match=r"--batch_size=4: .* nearest: 3 or 6"):
        stream(numbered(10), stop=1, share=Share(3, 0, 3))


def test_the_tutorial_policy_passes_eight_copies_of_each_example() -> None:
    position = tf.range(80, dtype=tf.int64)
    example, copy = inputs.locate(position, count=10, copies=8, seed=0)
    pairs = set(zip(example.numpy().tolist(), copy.numpy().tolist(), strict=True))
    assert pairs == {(x, y) for x in range(10) for y in range(8)}
    assert not np.array_equal(copy, np.sort(copy))


def test_validation_counts_every_example_once_in_full_batches() -> None:
    dataset = inputs.ordered_batches(numbered(10), batch_size=4)
    batches = list(dataset.as_numpy_iterator())
    assert [masks.shape for _, masks in batches] == [(4, 32, 32)] * 3
    seen = np.concatenate([masks[:, 0, 0] for _, masks in batches])
    assert seen.tolist() == [*range(10), 255, 255]
    assert (batches[-1][1][2:] == 255).all()


def test_loaded_examples_are_the_records_at_the_models_size(records_dir: Path) -> None:
    found = card.read_card(str(records_dir))
    examples = inputs.load(str(records_dir), found, "val", image_size=64)
    assert examples.ids == found.splits["val"]["ids"]
    assert examples.images.shape == (3, 64, 64, 3)
    first = next(records.read(str(records_dir), found, "val"))
    mask = resize_mask(decode_mask(first.mask), 64, 64)
    np.testing.assert_array_equal(examples.masks[0], mask)


def test_examples_that_do_not_fit_into_memory_are_refused(
    records_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs.machine, "memory_limit", lambda: 1 << 16)
    found = card.read_card(str(records_dir))
    with pytest.raises(SeamlineError, match="more than half of the memory"):
        inputs.load(str(records_dir), found, "train", image_size=128)
