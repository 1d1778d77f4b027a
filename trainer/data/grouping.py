"""Card, examples and masks as groups of classes see them; None leaves them as they are.

Records keep their classes: labels are exchanged as they are read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from trainer.data.card import Card, pack_labels
from trainer.data.examples import Arrays, Examples
from trainer.label_groups import LabelGroups


def group_masks(
    masks: Iterable[np.ndarray], groups: LabelGroups | None
) -> Iterator[np.ndarray]:
    """uint8 masks of any shape -> the same with labels of groups."""
    if groups is None:
        return iter(masks)
    table = groups.table
    return (table[mask] for mask in masks)


def group_examples(examples: Examples, groups: LabelGroups | None) -> Examples:
    """The examples with masks that hold labels of groups."""
    if groups is None:
        return examples
    table, pixels = groups.table, examples.image_size**2

    def fetch(numbers: np.ndarray) -> Arrays:
        images, masks = examples.fetch(numbers)
        return images, table[masks]

    return Examples(
        examples.ids,
        examples.image_size,
        fetch,
        held=examples.held,
        working_memory=lambda count: examples.working_memory(count) + count * pixels,
    )


def group_card(card: Card, groups: LabelGroups | None) -> Card:
    """What the card would say of records whose masks held labels of groups.

    Names, pixels, images and the classes of each record are those of the groups.
    `labels` stays: it tells of the source's masks.
    """
    if groups is None:
        return card
    sets = {split: _group_sets(card.label_sets(split), groups) for split in card.splits}
    return dataclasses.replace(
        card,
        label_names=groups.names,
        splits={
            split: {**part, "labels": [pack_labels(row) for row in sets[split]]}
            for split, part in card.splits.items()
        },
        classes=[
            {"name": name, **_counts(card, groups, label, sets)}
            for label, name in enumerate(groups.names)
        ],
    )


def group_contents(card: Card, groups: LabelGroups | None) -> dict[str, Any]:
    """Contents of `group_card`, under the fingerprint of the records' own card."""
    return {**group_card(card, groups).to_dict(), "fingerprint": card.fingerprint}


def _group_sets(sets: np.ndarray, groups: LabelGroups) -> np.ndarray:
    """bool `[N, C]`, which classes occur -> bool `[N, G]`, which groups do."""
    table = groups.table[: sets.shape[1]]
    return np.stack(
        [sets[:, table == label].any(axis=1) for label in range(len(groups.names))],
        axis=1,
    )


def _counts(
    card: Card, groups: LabelGroups, label: int, sets: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Images and pixels of a group in each split."""
    own = groups.table[: len(card.classes)] == label
    rows = [row for row, is_member in zip(card.classes, own, strict=True) if is_member]
    return {
        split: {
            "images": int(sets[split][:, label].sum()),
            "pixels": sum(row[split]["pixels"] for row in rows),
        }
        for split in card.splits
    }
