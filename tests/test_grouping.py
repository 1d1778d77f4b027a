"""Card, examples and masks of groups against masks whose labels were exchanged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from trainer import pipeline, recipes
from trainer.data import examples, grouping, images, records
from trainer.data.card import Card, read_card
from trainer.data.order import repeat_factors
from trainer.label_groups import LabelGroups, from_dict
from trainer.labels import CCP_LABELS

ASIDE = ("bag", "purse", "skin")
SPLITS = ("train", "val")


@pytest.fixture(scope="module")
def card(records_dir: Path) -> Card:
    return read_card(str(records_dir))


@pytest.fixture(scope="module")
def groups() -> LabelGroups:
    """Background, hair, all that is worn, and three classes that are ignored."""
    worn = [x for x in CCP_LABELS if x not in ("null", "hair", *ASIDE)]
    content = {"ground": ["null"], "hair": ["hair"], "worn": worn, "ignore": [*ASIDE]}
    return from_dict(content, CCP_LABELS, "test")


def exchanged(mask: np.ndarray) -> np.ndarray:
    """Label after label, by name."""
    result = np.full(mask.shape, 255, np.uint8)
    for label, name in enumerate(CCP_LABELS):
        if name not in ASIDE:
            group = {"null": 0, "hair": 1}.get(name, 2)
            result[mask == label] = group
    return result


def test_the_card_of_groups_tells_what_exchanged_masks_hold(
    records_dir: Path, card: Card, groups: LabelGroups
) -> None:
    merged = grouping.group_card(card, groups, str(records_dir))
    assert merged.label_names == ["ground", "hair", "worn"]
    assert [row["name"] for row in merged.classes] == merged.label_names
    for split in SPLITS:
        found = records.read(str(records_dir), card, split)
        masks = [exchanged(images.decode_mask(x.mask)) for x in found]
        pixels = [sum(int((x == label).sum()) for x in masks) for label in range(3)]
        sets = np.array([[(x == label).any() for label in range(3)] for x in masks])
        assert [row[split]["pixels"] for row in merged.classes] == pixels
        assert [row[split]["images"] for row in merged.classes] == sets.sum(0).tolist()
        plain = examples.streamed(str(records_dir), card, split, image_size=32)
        seen = grouping.group_examples(plain, groups)
        np.testing.assert_array_equal(seen.label_sets(), sets)
        assert merged.frequencies(split) == pytest.approx(
            np.array(pixels) / sum(pixels)
        )
    assert merged.splits["val"]["shards"] == card.splits["val"]["shards"]


def test_examples_and_masks_of_groups_have_exchanged_labels(
    records_dir: Path, card: Card, groups: LabelGroups
) -> None:
    plain = examples.streamed(str(records_dir), card, "train", image_size=32)
    merged = grouping.group_examples(plain, groups)
    photos, masks = plain.fetch([3, 0, 3])
    seen, labels = merged.fetch([3, 0, 3])
    np.testing.assert_array_equal(seen, photos)
    np.testing.assert_array_equal(labels, exchanged(masks))
    assert {*np.unique(labels)} == {0, 1, 2, 255}
    _, gathered = merged.gather(tf.constant([3, 0, 3], tf.int64))
    np.testing.assert_array_equal(gathered, labels)
    assert (merged.ids, merged.image_size) == (plain.ids, 32)
    assert merged.working_memory(3) == plain.working_memory(3) + masks.nbytes
    for mask, label in zip(masks, grouping.group_masks(masks, groups), strict=True):
        np.testing.assert_array_equal(label, exchanged(mask))


def test_a_training_on_groups_sees_the_same_batches_with_exchanged_labels(
    records_dir: Path, card: Card, groups: LabelGroups
) -> None:
    values = {
        **{"image_size": 32, "batch_size": 4, "augment": "flip=0.5,rotate=10"},
        "encoder_weights": "none",
    }
    recipe = recipes.resolve("default", values)
    plain, val = pipeline.open_input(recipe, str(records_dir), card, 5, {})
    merged, merged_val = pipeline.open_input(
        recipe, str(records_dir), card, 5, {}, groups
    )
    for (photos, masks), (seen, labels) in zip(
        plain.batches(6, 9), merged.batches(6, 9), strict=True
    ):
        np.testing.assert_array_equal(seen, photos)
        np.testing.assert_array_equal(labels, exchanged(masks.numpy()))
    np.testing.assert_array_equal(
        merged_val.fetch([1])[1], exchanged(val.fetch([1])[1])
    )


def test_rare_groups_come_more_often_not_rare_classes(
    records_dir: Path, card: Card, groups: LabelGroups
) -> None:
    values = {"image_size": 32, "repeat_threshold": 1.0, "encoder_weights": "none"}
    recipe = recipes.resolve("default", values)
    plain, _ = pipeline.open_input(recipe, str(records_dir), card, 5, {})
    merged, _ = pipeline.open_input(recipe, str(records_dir), card, 5, {}, groups)
    # Every group is in every image; many a class is in one alone.
    assert merged.order.length == len(merged.examples) < plain.order.length
    np.testing.assert_array_equal(repeat_factors(merged.examples.label_sets(), 1.0), 1)


def test_without_groups_all_stays_as_it_is(records_dir: Path, card: Card) -> None:
    found = examples.streamed(str(records_dir), card, "val", image_size=32)
    assert grouping.group_card(card, None) is card
    assert grouping.group_examples(found, None) is found
    masks = [np.zeros((2, 2), np.uint8)]
    assert next(grouping.group_masks(masks, None)) is masks[0]
