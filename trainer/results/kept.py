"""What a run keeps to draw from later: photos, truths and predictions in one ZIP.

`examples.zip` lets the report be drawn again, and two runs be compared, without the
model, the records, or TensorFlow.
"""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import cv2
import numpy as np
from PIL import Image

from trainer import storage
from trainer.engine import metrics
from trainer.errors import SeamlineError
from trainer.results.layers import label_map, read_map

NAME = "examples.zip"
FORMAT_VERSION = 1
MOST_KEPT = 256
"""Validation examples at most, evenly spread: some megabytes, whatever the dataset."""
SAMPLES = 6
_BATCH = 16
_PHOTO = 360
"""Pixels of a kept photo's side at most: the page shows it smaller."""


@dataclasses.dataclass(frozen=True)
class Kept:
    """One example, encoded.

    Attributes:
      image_id: of the example.
      photo: JPEG in the photo's own form, at most 360 pixels a side.
      truth, labels: PNG of grey values, uint8 `[S, S]`; no labels of an example that
        was trained on.
      score: mean IoU over the classes in this truth or prediction, 0..1; None without
        labels. A class that is wrongly found counts too, or else photos of background
        alone would always be the best.
    """

    image_id: str
    photo: bytes
    truth: bytes
    labels: bytes | None = None
    score: float | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the photo in pixels."""
        width, height = Image.open(io.BytesIO(self.photo)).size
        return height, width

    def masks(self) -> tuple[np.ndarray, np.ndarray]:
        """Truth and predicted labels, uint8 `[S, S]` each.

        Raises:
          ValueError: there is no prediction.
        """
        if self.labels is None:
            raise ValueError(f"{self.image_id}: nothing was predicted for it")
        return read_map(self.truth), read_map(self.labels)


@dataclasses.dataclass(frozen=True)
class Collection:
    """Contents of `examples.zip`.

    Attributes:
      label_names: of label 0, 1, ...
      examples: how many validation examples there were to choose from.
      val: up to 256 of them.
      train: a few that were trained on.
      card: the dataset card without shards.
    """

    label_names: list[str]
    examples: int
    val: list[Kept]
    train: list[Kept]
    card: dict[str, Any]


class _Record(Protocol):
    """What is needed of `trainer.data.records.Record`."""

    @property
    def image(self) -> bytes:
        """Encoded photo in its own form."""


class Split(Protocol):
    """What is needed of `trainer.data.examples.Examples`."""

    ids: Sequence[str]

    def __len__(self) -> int:
        """How many there are."""

    def fetch(
        self, numbers: Sequence[int] | np.ndarray, /
    ) -> tuple[np.ndarray, np.ndarray]:
        """uint8 images `[N, S, S, 3]` and masks `[N, S, S]`."""


def spread(count: int, most: int) -> np.ndarray:
    """Up to `most` of `count` numbers, evenly spread: int64 `[<= most]`, ascending."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))


Photos = Callable[[np.ndarray], Iterable[_Record]]
"""Numbers of examples, int64 `[B]` -> their records, such as `Reader.stream`."""


def collect(
    predict: Callable[[np.ndarray], np.ndarray],
    val: tuple[Split, Photos],
    train: tuple[Split, Photos],
    *,
    label_names: list[str],
    card: dict[str, Any],
) -> Collection:
    """Predicts examples of the validation split and keeps them, with a few to train on.

    Args:
      predict: uint8 images `[B, S, S, 3]` -> uint8 labels `[B, S, S]`.
      val, train: examples at the model's size, and the records they come from.
      label_names: of label 0, 1, ...
      card: contents of the dataset card.
    """
    kept = []
    for ids, photos, images, truths in _batches(*val, MOST_KEPT):
        rows = zip(ids, photos, truths, predict(images), strict=True)
        for image_id, photo, truth, labels in rows:
            masks = (label_map(truth), label_map(labels))
            score = _score(truth, labels, len(label_names))
            kept.append(Kept(image_id, photo, *masks, score))
    samples = [
        Kept(image_id, photo, label_map(truth))
        for ids, photos, _, truths in _batches(*train, SAMPLES)
        for image_id, photo, truth in zip(ids, photos, truths, strict=True)
    ]
    count = len(val[0])
    return Collection(label_names, count, kept, samples, shorten_card(card))


def _score(truth: np.ndarray, labels: np.ndarray, classes: int) -> float | None:
    """Mean IoU over the classes that occur in either; None where all is ignored."""
    confusion = metrics.confusion_matrix(truth, labels, classes)
    either = confusion.sum(axis=0) + confusion.sum(axis=1) > 0
    if not either.any():
        return None
    counts = metrics.class_counts(confusion)
    return float(metrics.class_scores_of_counts(counts)["iou"][either].mean())


def _batches(
    split: Split, photos: Photos, most: int
) -> Iterator[tuple[list[str], list[bytes], np.ndarray, np.ndarray]]:
    """Ids, photos as JPEG, images and masks of up to `most` examples, 16 at a time."""
    numbers = spread(len(split), most)
    for start in range(0, len(numbers), _BATCH):
        some = numbers[start : start + _BATCH]
        small = [_shrink(record.image) for record in photos(some)]
        yield [split.ids[number] for number in some], small, *split.fetch(some)


def _shrink(photo: bytes) -> bytes:
    """An encoded photo as JPEG of at most 360 pixels a side."""
    image = cv2.imdecode(np.frombuffer(photo, np.uint8), cv2.IMREAD_COLOR)
    side = max(image.shape[:2])
    if side > _PHOTO:
        shape = [max(1, round(_PHOTO * part / side)) for part in image.shape[1::-1]]
        image = cv2.resize(image, shape, interpolation=cv2.INTER_AREA)
    quality = [cv2.IMWRITE_JPEG_QUALITY, 82]
    return cv2.imencode(".jpg", image, quality)[1].tobytes()


def shorten_card(card: dict[str, Any]) -> dict[str, Any]:
    """The card without what grows with the dataset: its shards."""
    splits = {
        name: {key: x for key, x in split.items() if key != "shards"}
        for name, split in card.get("splits", {}).items()
    }
    return {**card, "splits": splits} if splits else card


def write(run_dir: str, collection: Collection) -> None:
    """Writes `examples.zip` into a run directory; the same bytes every time."""
    index: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        **{x: getattr(collection, x) for x in ("label_names", "examples", "card")},
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:

        def put(name: str, content: bytes | str) -> None:
            # The time of day would make every file different.
            archive.writestr(zipfile.ZipInfo(name), content)

        for split in ("val", "train"):
            rows = []
            for number, kept in enumerate(getattr(collection, split)):
                rows.append({"id": kept.image_id, "score": kept.score})
                put(f"{split}/{number:03}.photo.jpg", kept.photo)
                put(f"{split}/{number:03}.truth.png", kept.truth)
                if kept.labels is not None:
                    put(f"{split}/{number:03}.labels.png", kept.labels)
            index[split] = rows
        put("index.json", json.dumps(index, indent=1) + "\n")
    storage.write_bytes(storage.join(run_dir, NAME), buffer.getvalue())


def read(run_dir: str) -> Collection | None:
    """What `write` left in a run directory; None in one of a release that kept nothing.

    Raises:
      SeamlineError: not such a file.
    """
    path = storage.join(run_dir, NAME)
    if not storage.exists(path):
        return None
    try:
        with zipfile.ZipFile(io.BytesIO(storage.read_bytes(path))) as archive:
            index = json.loads(archive.read("index.json"))
            there = set(archive.namelist())
            val, train = (_read_split(archive, there, x, index[x]) for x in _SPLITS)
            names, examples = index["label_names"], index["examples"]
            return Collection(names, examples, val, train, index["card"])
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError) as error:
        raise SeamlineError(
            f"{path}: damaged; remove it to draw the report without its pictures"
        ) from error


_SPLITS = ("val", "train")


def _read_split(
    archive: zipfile.ZipFile, there: set[str], split: str, rows: list[dict[str, Any]]
) -> list[Kept]:
    def content(number: int, ending: str) -> bytes:
        return archive.read(f"{split}/{number:03}.{ending}")

    return [
        Kept(
            row["id"],
            content(number, "photo.jpg"),
            content(number, "truth.png"),
            content(number, "labels.png")
            if f"{split}/{number:03}.labels.png" in there
            else None,
            row["score"],
        )
        for number, row in enumerate(rows)
    ]
