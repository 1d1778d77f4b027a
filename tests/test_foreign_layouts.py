"""Three layouts of well-known datasets, by the very commands of docs/datasets.md."""

from __future__ import annotations

import io
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT, SMALL, run_command
from trainer.data import images, records
from trainer.data.card import Card, read_card
from trainer.data.reader import Reader
from trainer.labels import IGNORE_LABEL

DOC = (ROOT / "docs" / "datasets.md").read_text()


def commands(title: str) -> str:
    """The bash block below a heading, with a training that takes seconds."""
    section = DOC.split(f"\n## {title}")[1].split("\n## ")[0]
    [block] = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    block = block.replace("\\\n", "")
    task = re.compile(r"^python -m trainer\.task .*$", re.MULTILINE)
    assert len(task.findall(block)) == 1
    return task.sub(lambda found: " ".join([found[0], *SMALL, "--epochs=1"]), block)


def run(title: str, folder: Path) -> str:
    """Runs a block in the folder of the dataset; what its trainers printed.

    The shell does all but `python`, whose arguments it tells: a command a line.
    """
    told = r"""python() { printf '%s\0' "$@"; printf '\n'; }"""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{told}\n{commands(title)}"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    said = ""
    for line in done.stdout.splitlines():
        module, *arguments = line.removeprefix("-m\0").removesuffix("\0").split("\0")
        ended = run_command(module, *arguments, cwd=folder)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        said += ended.stdout
    return said


def scene(number: int, values: list[int], size: tuple[int, int]) -> Any:
    """A photo and a mask of shapes, one a value; the first is everywhere else."""
    rng = np.random.default_rng(number)
    height, width = size
    mask = np.full(size, values[0], np.uint8)
    for value in values[1:]:
        low = rng.integers(0, [width - 24, height - 24]).tolist()
        high = [low[0] + 24, low[1] + 20]
        cv2.rectangle(mask, low, high, value, -1)
    colours = np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8)
    noise = rng.integers(-20, 20, (*size, 3))
    return np.clip(colours[mask] + noise, 0, 255).astype(np.uint8), mask


def save(folder: Path, name: str, picture: np.ndarray, palette: bool = False) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    opened = Image.fromarray(picture)
    if palette:
        opened.putpalette(np.random.default_rng(1).integers(0, 256, 768).tolist())
    opened.save(path)


def relabelled(mask: np.ndarray, ids: list[int]) -> np.ndarray:
    """The labels that a mask of ids must become."""
    labels = np.full(256, IGNORE_LABEL, np.uint8)
    labels[ids] = range(len(ids))
    return labels[mask]


def stored_masks(card: Card, records_dir: Path) -> dict[str, np.ndarray]:
    """Image id -> labels, of both splits."""
    return {
        record.image_id: images.decode_mask(record.mask)
        for split in ("train", "val")
        for record in records.read(str(records_dir), card, split)
    }


def ids_of(records_dir: Path, card: Card, split: str) -> list[str]:
    return list(Reader(str(records_dir), card, split).ids)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the dataset goes, and what the commands make of it."""
    made = tmp_path / "dataset"
    made.mkdir()
    return made


def check(folder: Path, name: str, expected: dict[str, np.ndarray]) -> Card:
    """Compares all stored masks; the card, which must be that of a finished run."""
    card = read_card(str(folder / "records" / name))
    stored = stored_masks(card, folder / "records" / name)
    assert stored.keys() == expected.keys()
    for image_id, mask in expected.items():
        np.testing.assert_array_equal(stored[image_id], mask, err_msg=image_id)
    scores = json.loads((folder / "runs" / name / "scores.json").read_text())
    assert scores
    return card


def test_trimaps_of_three_ids(folder: Path) -> None:
    expected = {}
    for number in range(10):
        photo, mask = scene(number, [2, 3, 1], (80, 72))
        save(folder, f"images/Cat_{number}.jpg", photo)
        save(folder, f"annotations/trimaps/Cat_{number}.png", mask)
        save(folder, f"annotations/trimaps/._Cat_{number}.png", mask)
        expected[f"Cat_{number}"] = relabelled(mask, [2, 1, 3])
    # The archive holds a few GIF files like this one, and photos without a trimap.
    gif = io.BytesIO()
    Image.fromarray(photo).save(gif, "GIF")
    (folder / "images" / "Cat_4.jpg").write_bytes(gif.getvalue())
    save(folder, "images/Cat_99.jpg", photo)
    del expected["Cat_4"]

    said = run("Trimaps", folder)
    assert "10 pairs; 1 photos have no mask" in said
    card = check(folder, "pets", expected)
    assert card.label_names == ["background", "pet", "border"]
    assert card.labels == {"ids": [2, 1, 3], "ignore": [255]}
    assert [row["file"] for row in card.rejected] == ["images/Cat_4.jpg"]


def test_palettes_and_lists_of_ids(folder: Path) -> None:
    expected = {}
    for number in range(12):
        photo, mask = scene(number, [0, 255, 8, 15, 20], (64, 96))
        save(folder, f"JPEGImages/2007_{number}.jpg", photo)
        if number < 10:
            save(folder, f"SegmentationClass/2007_{number}.png", mask, palette=True)
        if number < 9:
            expected[f"2007_{number}"] = relabelled(mask, list(range(21)))
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    names = sorted(expected)
    (lists / "train.txt").write_text("\n".join(names[:6]) + "\n")
    (lists / "val.txt").write_text("\n".join(names[6:]) + "\n")

    run("Palettes", folder)
    card = check(folder, "voc", expected)
    assert card.label_names[:2] == ["background", "aeroplane"]
    assert card.label_names[20] == "tvmonitor"
    assert card.labels == {"ids": list(range(21)), "ignore": [255]}
    assert card.split == {"given": True}
    assert ids_of(folder / "records" / "voc", card, "train") == names[:6]
    assert ids_of(folder / "records" / "voc", card, "val") == names[6:]


CITYSCAPES = [7, 8, 11, 12, 13, 17, 19, *range(20, 29), 31, 32, 33]
CITIES = {"train": ("aachen", "ulm"), "val": ("frankfurt",), "test": ("berlin",)}


def test_suffixes_and_ids_that_skip_numbers(folder: Path) -> None:
    expected: dict[str, np.ndarray] = {}
    for part, cities in CITIES.items():
        for number, city in enumerate(4 * cities):
            photo, mask = scene(len(expected), [7, 0, 4, 23, 26, 11], (64, 96))
            name = f"{part}/{city}/{city}_{number:06}_000019"
            save(folder, f"leftImg8bit/{name}_leftImg8bit.png", photo)
            save(folder, f"gtFine/{name}_gtFine_labelIds.png", mask)
            save(folder, f"gtFine/{name}_gtFine_color.png", photo)
            save(folder, f"gtFine/{name}_gtFine_instanceIds.png", mask)
            expected[name] = relabelled(mask, CITYSCAPES)
    expected = {k: v for k, v in expected.items() if not k.startswith("test/")}

    run("Suffixes", folder)
    card = check(folder, "cityscapes", expected)
    assert card.label_names[:3] == ["road", "sidewalk", "building"]
    assert card.label_names[6] == "traffic light"
    assert card.labels["ids"] == CITYSCAPES
    assert {*card.labels["ids"], *card.labels["ignore"]} == {*range(34), 255}
    assert all(
        x.startswith("train/")
        for x in ids_of(folder / "records" / "cityscapes", card, "train")
    )
    assert all(
        x.startswith("val/")
        for x in ids_of(folder / "records" / "cityscapes", card, "val")
    )
