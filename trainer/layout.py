"""Where the files of your own dataset lie: one declaration per flag."""

from __future__ import annotations

import dataclasses
from typing import Any

from trainer.labels import IGNORE_LABEL


def _place(text: str) -> Any:
    return dataclasses.field(metadata={"help": text})


def _option(text: str, default: Any) -> Any:
    return dataclasses.field(default=default, metadata={"help": text})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Folders and files of a dataset, local or `gs://`; every field is a flag."""

    images_dir: str = _place(
        "folder of your own photos (.jpg, .png), with all folders below it"
    )
    masks_dir: str = _place(
        "folder of the masks (.png of grey or palette, .mat), named like the photos"
    )
    label_names: str = _place(
        "file of class names: one a line in id order or 'id name', JSON, or a "
        "label_list.mat; the first one is the background"
    )
    ignore_ids: tuple[int, ...] = _option(
        "ids in masks that count nowhere, joined by commas; empty: none",
        (IGNORE_LABEL,),
    )
    mask_variable: str = _option("name of the matrix in .mat masks", "groundtruth")
    image_suffix: str = _option(
        "what all photos' names end in before the ending, such as _leftImg8bit", ""
    )
    mask_suffix: str = _option(
        "the same for masks; files that lack it are no masks, such as _gtFine_labelIds",
        "",
    )
    train_ids: str | None = _option(
        "file of the ids to train on, one a line (default: all but --val_ids)", None
    )
    val_ids: str | None = _option(
        "file of the ids to validate on (default: all but --train_ids, or a random "
        "split)",
        None,
    )
