"""Card, examples and masks as groups of classes see them; None leaves them as they are.

Records keep their classes: labels are exchanged as they are read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from trainer.data.card import Card
from trainer.data.examples import Arrays, Examples
from trainer.data.index import Indexes
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
        label_sets=lambda: _group_sets(examples.label_sets(), groups),
    )


def group_card(
    card: Card, groups: LabelGroups | None, records_dir: str | None = None
) -> Card:
    """What the card would say of records whose masks held labels of groups.

    Names, pixels and images are those of the groups. `labels` stays: it tells of the
    source's masks.

    Args:
      card: of the records.
      groups: of their classes.
      records_dir: where the records are: the indexes of all shards are read to count
        the images that hold each group; None: `classes` tells of pixels alone.

    Raises:
      SeamlineError: a damaged index.
    """
    if groups is None:
        return card
    rows: list[dict[str, Any]] = [{"name": name} for name in groups.names]
    for split in card.splits:
        for label, row in enumerate(rows):
            row[split] = {"pixels": _pixels(card, groups, label, split)}
        if records_dir:
            images = _images(records_dir, card, split, groups)
            for row, count in zip(rows, images.tolist(), strict=True):
                row[split]["images"] = count
    return dataclasses.replace(card, label_names=groups.names, classes=rows)


def group_contents(
    records_dir: str, card: Card, groups: LabelGroups | None
) -> dict[str, Any]:
    """Contents of `group_card`, under the fingerprint of the records' own card."""
    seen = group_card(card, groups, records_dir)
    return {**seen.to_dict(), "fingerprint": card.fingerprint}


def _group_sets(sets: np.ndarray, groups: LabelGroups) -> np.ndarray:
    """bool `[N, C]`, which classes occur -> bool `[N, G]`, which groups do."""
    table = groups.table[: sets.shape[1]]
    return np.stack(
        [sets[:, table == label].any(axis=1) for label in range(len(groups.names))],
        axis=1,
    )


def _pixels(card: Card, groups: LabelGroups, label: int, split: str) -> int:
    """Pixels of a group in a split."""
    own = groups.table[: len(card.classes)] == label
    return sum(
        row[split]["pixels"]
        for row, is_member in zip(card.classes, own, strict=True)
        if is_member
    )


def _images(
    records_dir: str, card: Card, split: str, groups: LabelGroups
) -> np.ndarray:
    """Examples of a split that hold each group: int64 `[G]`."""
    parts = Indexes(records_dir, card.splits[split]["shards"]).label_parts(
        len(card.label_names)
    )
    none = np.zeros(len(groups.names), np.int64)
    return sum((_group_sets(part, groups).sum(axis=0) for part in parts), none)
