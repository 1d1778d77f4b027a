"""What a run keeps to draw from: chosen evenly, exact, and read back as written."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from tests.exhibits import NAMES, collection
from trainer.errors import SeamlineError
from trainer.results import kept


class Split:
    """`count` examples; the mask of each holds its number modulo 3."""

    def __init__(self, count: int) -> None:
        self.ids = [f"id{number}" for number in range(count)]

    def __len__(self) -> int:
        return len(self.ids)

    def fetch(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        images = np.zeros((len(numbers), 8, 8, 3), np.uint8)
        masks = np.zeros((len(numbers), 8, 8), np.uint8)
        masks[:, :4] = (np.asarray(numbers) % 3)[:, None, None]
        images[..., 0] = masks
        return images, masks

    def photos(self, numbers: np.ndarray) -> list[SimpleNamespace]:
        photo = cv2.imencode(".png", np.zeros((900, 600, 3), np.uint8))[1].tobytes()
        return [SimpleNamespace(image=photo) for _ in numbers]


def collected(count: int = 40) -> kept.Collection:
    val, train = Split(count), Split(9)
    return kept.collect(
        lambda images: np.where(images[..., 0] == 2, 1, images[..., 0]),
        (val, val.photos),
        (train, train.photos),
        label_names=NAMES,
        card={"splits": {"val": {"examples": count, "shards": []}}},
    )


def test_predictions_are_kept_exactly_beside_truth_and_photo() -> None:
    found = collected()
    assert [x.image_id for x in found.val] == [f"id{k}" for k in range(40)]
    truth, labels = found.val[5].masks()
    assert set(np.unique(truth)) == {0, 2}
    assert set(np.unique(labels)) == {0, 1}
    assert found.val[5].shape == (360, 240)
    assert [x.image_id for x in found.train] == [
        "id0",
        "id1",
        "id3",
        "id4",
        "id6",
        "id8",
    ]
    assert found.train[0].labels is None


def test_score_of_an_example_counts_classes_that_are_wrongly_found() -> None:
    found = collected()
    # Background right; of truth 2, taken for 1, both classes have IoU 0.
    assert [found.val[k].score for k in (0, 1, 2)] == [1.0, 1.0, pytest.approx(1 / 3)]


def test_of_many_examples_an_even_spread_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kept, "MOST_KEPT", 5)
    found = collected(41)
    assert [x.image_id for x in found.val] == ["id0", "id10", "id20", "id30", "id40"]
    assert found.examples == 41


def test_what_grows_with_the_dataset_is_left_out_of_the_card() -> None:
    assert collected().card == {"splits": {"val": {"examples": 40}}}


def test_examples_come_back_as_they_were_written(tmp_path: Path) -> None:
    kept.write(str(tmp_path), collection())
    assert kept.read(str(tmp_path)) == collection()


def test_the_file_has_the_same_bytes_every_time(tmp_path: Path) -> None:
    kept.write(str(tmp_path), collection())
    first = (tmp_path / kept.NAME).read_bytes()
    kept.write(str(tmp_path), collection())
    assert (tmp_path / kept.NAME).read_bytes() == first


def test_a_run_that_kept_nothing_has_no_examples(tmp_path: Path) -> None:
    assert kept.read(str(tmp_path)) is None


def other_format() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("index.json", json.dumps({"val": []}))
    return buffer.getvalue()


@pytest.mark.parametrize("content", [b"", b"PK no zip", other_format()])
def test_a_damaged_file_is_named_with_the_fix(tmp_path: Path, content: bytes) -> None:
    (tmp_path / kept.NAME).write_bytes(content)
    with pytest.raises(SeamlineError, match=r"examples\.zip: damaged; remove it"):
        kept.read(str(tmp_path))
