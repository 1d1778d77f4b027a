"""Damaged files of every kind: refused in one line or read as if they were sound.

Random truncations, flipped bytes, insertions and zeroed blocks, from fixed seeds. Two
things must never come of them: another exception, and another mask.
"""

from __future__ import annotations

import dataclasses
import io
import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
from PIL import Image

from trainer.data import card, label_files, pairs
from trainer.data.pairs import BadSample, Labels
from trainer.errors import SeamlineError
from trainer.layout import Layout

# Pillow's remarks on odd EXIF data
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

LABELS = Labels(names=tuple(f"class {k}" for k in range(59)), ids=tuple(range(59)))
REFUSALS = (BadSample, SeamlineError)
MOST_MEMORY_KIB = 1 << 20


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """A copy with one to three things wrong with it."""
    broken = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        if not broken:
            break
        place = int(rng.integers(len(broken)))
        length = int(rng.integers(1, 40))
        kind = rng.integers(5)
        if kind == 0:
            del broken[place:]
        elif kind == 1:
            broken[place] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            broken[place] = int(rng.integers(256))
        elif kind == 3:
            broken[place:place] = rng.bytes(length)
        else:
            broken[place : place + length] = bytes(len(broken[place : place + length]))
    return bytes(broken)


def shapes(height: int = 48, width: int = 36) -> np.ndarray:
    """A mask of several labels, with ignored pixels."""
    mask = np.zeros((height, width), np.uint8)
    cv2.circle(mask, (width // 2, height // 2), 12, 3, -1)
    cv2.rectangle(mask, (2, 2), (12, 30), 58, -1)
    mask[-4:] = 255
    return mask


def photo(kind: str, **how: object) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (12, 9, 3), np.uint8)
    picture = Image.fromarray(cv2.resize(noise, (36, 48)))
    exif = Image.Exif()
    exif[274] = 6
    picture.save(buffer, kind, exif=exif, **how)
    return buffer.getvalue()


def mat(**variables: object) -> bytes:
    """A file as MATLAB saves it: compressed, so with a checksum."""
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, variables, do_compression=True)
    return buffer.getvalue()


def plain_mat(**variables: object) -> bytes:
    """A file without: a flipped byte that makes another class cannot be told."""
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, variables)
    return buffer.getvalue()


def png(mask: np.ndarray, mode: str) -> bytes:
    buffer = io.BytesIO()
    picture = Image.fromarray(mask)
    if mode == "P":
        picture.putpalette(list(range(256)) * 3)
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def survive(
    content: bytes, read: Callable[[bytes], None], *, cases: int, seed: int
) -> None:
    """Reads damaged copies; some must be refused, all in one line."""
    read(content)
    # The tests before this one, in the same process, may have had a higher peak.
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rng = np.random.default_rng(seed)
    refusals = []
    for _ in range(cases):
        try:
            read(damaged(content, rng))
        except REFUSALS as refusal:
            refusals.append(str(refusal))
    assert len(refusals) > cases // 20
    assert not any("\n" in line for line in refusals)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert peak < before + MOST_MEMORY_KIB


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.mat", mat(groundtruth=shapes())),
        ("m.mat", mat(other=np.ones((40, 40)), groundtruth=shapes(), last="text")),
        ("m.png", png(shapes(), "L")),
        ("m.png", png(shapes(), "P")),
    ],
    ids=["mat", "mat with others", "grey PNG", "palette PNG"],
)
def test_a_damaged_mask_is_refused_or_the_very_same(name: str, content: bytes) -> None:
    def read(damage: bytes) -> None:
        mask = pairs.read_mask(damage, name, LABELS)
        np.testing.assert_array_equal(mask, shapes())

    survive(content, read, cases=200, seed=1)


def test_a_damaged_uncompressed_mat_is_refused_or_a_mask() -> None:
    def read(damage: bytes) -> None:
        mask = pairs.read_mask(damage, "m.mat", LABELS)
        assert mask.ndim == 2
        assert mask.dtype == np.uint8
        assert mask[mask != 255].max() < 59

    survive(plain_mat(groundtruth=shapes()), read, cases=200, seed=2)


@pytest.mark.parametrize(
    "content",
    [photo("JPEG"), photo("JPEG", progressive=True), photo("PNG")],
    ids=["JPEG", "progressive JPEG", "PNG"],
)
@pytest.mark.parametrize("at_least", [0, 9])
def test_a_damaged_photo_is_refused_or_of_its_declared_size(
    content: bytes, at_least: int
) -> None:
    def read(damage: bytes) -> None:
        opened = pairs.open_photo(damage, "p.jpg")
        image = opened.decode(at_least)
        scale = round(opened.height / image.shape[0])
        assert scale == 1 or at_least
        assert image.shape == (-(-opened.height // scale), -(-opened.width // scale), 3)

    survive(content, read, cases=100, seed=3 + at_least)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("names.txt", b"0 background\n7 road\n8 sidewalk\n11 building\n"),
        ("names.json", json.dumps({"background": 0, "road": 7, "sky": 23}).encode()),
        ("label_list.mat", mat(label_list=np.array(["null", "belt", "bag"], object))),
        ("label_list.mat", plain_mat(label_list=np.array(["null", "belt"], object))),
    ],
)
def test_a_damaged_list_of_names_is_refused_or_names_classes(
    tmp_path: Path, name: str, content: bytes
) -> None:
    path = tmp_path / name
    layout = Layout(images_dir="x", masks_dir="y", label_names=str(path))

    def read(damage: bytes) -> None:
        path.write_bytes(damage)
        labels = label_files.read_labels(layout)
        assert len({*labels.names}) == len({*labels.ids}) == len(labels.names) >= 2
        assert all(value >= 0 and value != 255 for value in labels.ids)

    survive(content, read, cases=150, seed=4)


def test_a_damaged_card_is_refused_or_the_very_same(
    records_dir: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(records_dir, tmp_path / "records"))
    sound = dataclasses.asdict(card.read_card(str(copy)))

    def read(damage: bytes) -> None:
        (copy / "card.json").write_bytes(damage)
        assert dataclasses.asdict(card.read_card(str(copy))) == sound

    survive((copy / "card.json").read_bytes(), read, cases=150, seed=5)
