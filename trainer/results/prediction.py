"""Prediction on photos: from a run or an exported model, at the photo's own size."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import posixpath
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import tensorflow as tf

from trainer import machine, progress, storage
from trainer.data import encoding, images, pairs
from trainer.data.pairs import BadSample
from trainer.engine import state
from trainer.errors import EXIT_USER_ERROR
from trainer.labels import palette
from trainer.results.conveyor import Conveyor, Decoded, Stages
from trainer.results.export import Serving
from trainer.results.figures import overlay
from trainer.results.photo_files import FORMATS, PhotoFile, find_photos
from trainer.results.regions import draw_names

log = logging.getLogger("seamline")

_MOST_PIXELS = 96 << 20
_BYTES_A_PIXEL = 8
"""The photo, its labels, and what becomes of both while they are encoded."""
_SHARE = 4
_REMOTE_THREADS = 16
"""They mostly wait for answers."""


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A trained model.

    Attributes:
      label: uint8 photos `[N, H, W, 3]` RGB -> uint8 labels `[N, H, W]`.
      names: of label 0, 1, ...
      size: H and W; None: any, but of all N photos the same.
    """

    label: Callable[[np.ndarray], np.ndarray]
    names: Sequence[str]
    size: int | None


def load_predictor(model: str) -> Predictor:
    """Loads a model.

    Args:
      model: a run directory, or a SavedModel that `export_model` wrote.

    Raises:
      SeamlineError: neither of the two.
    """
    if storage.exists(storage.join(model, "saved_model.pb")):
        serving = tf.saved_model.load(model)
    else:
        serving = Serving(*state.load_model(model))
    # Exports of earlier versions do not say their size.
    size = getattr(serving, "image_size", None)
    return Predictor(
        lambda photos: serving.serve(photos)["labels"].numpy(),
        [name.decode() for name in serving.label_names.numpy()],
        None if size is None else int(size.numpy()),
    )


def predict_photos(
    *,
    model: str,
    source: str,
    output_dir: str,
    batch_size: int = 16,
    overlays: str = "jpg",
) -> int:
    """Writes label picture, overlay and JSON for a photo or a folder of photos.

    A label picture is a PNG whose palette shows the labels, which are its values.

    Args:
      model: see `load_predictor`.
      source: a photo, or a folder with subfolders.
      output_dir: folder to make; it gets the subfolders too.
      batch_size: photos that the model gets at once.
      overlays: "jpg", "png" or "none".

    Returns:
      The exit code: 0, or 42 when some photos could not be read (each is named; the
      others are done).

    Raises:
      SeamlineError: no such photo or model.
    """
    files = find_photos(source, output_dir)
    predictor = load_predictor(model)
    unreadable = 0
    bar = progress.Bar("predicting", total=len(files), unit="photos")
    for problem in label_files(
        files, predictor, output_dir, batch_size=batch_size, overlays=overlays
    ):
        if problem is not None:
            unreadable += 1
            log.info("%s (left out)", problem)
        bar.update(1)
    bar.close()
    left_out = f"; {unreadable} left out" if unreadable else ""
    log.info(
        "Predicted: %d photos -> %s%s", len(files) - unreadable, output_dir, left_out
    )
    return EXIT_USER_ERROR if unreadable else 0


def label_files(
    files: Sequence[PhotoFile],
    predictor: Predictor,
    output_dir: str,
    *,
    batch_size: int,
    overlays: str = "jpg",
) -> Iterator[BadSample | None]:
    """Predicts photos and writes what `predict_photos` does.

    Yields:
      For each photo, in no certain order: None once its files are written, or what is
      wrong with it.
    """
    for folder in sorted({posixpath.dirname(file.target) for file in files}):
        storage.make_folder(_below(output_dir, folder) if folder else output_dir)
    stages = Stages(
        read=_read,
        decode=functools.partial(_decode, size=predictor.size, keep=overlays != "none"),
        label=predictor.label,
        write=functools.partial(
            _write,
            output_dir=output_dir,
            names=list(predictor.names),
            overlays=overlays,
        ),
    )
    remote = any(map(storage.is_remote, (output_dir, files[0].path)))
    # The pool has as many threads as there are processors.
    cv2.setNumThreads(1)
    conveyor = Conveyor(
        stages,
        # Photos as large as they are do not fit into one array.
        batch_size=batch_size if predictor.size else 1,
        threads=_REMOTE_THREADS if remote else machine.cpu_limit(),
        most_pixels=min(
            _MOST_PIXELS, machine.memory_limit() // _SHARE // _BYTES_A_PIXEL
        ),
    )
    return conveyor.run(files)


def _below(folder: str, name: str) -> str:
    return storage.join(folder, *name.split("/"))


def _read(file: PhotoFile) -> pairs.Photo:
    try:
        encoded = storage.read_bytes(file.path)
    except OSError as error:
        raise BadSample(file.path, f"cannot be read ({error.strerror})") from error
    return pairs.open_photo(encoded, file.path, FORMATS)


def _decode(
    file: PhotoFile, photo: pairs.Photo, *, size: int | None, keep: bool
) -> Decoded:
    try:
        picture = photo.decode()
        fitted = images.resize_image(picture, size, size) if size else picture
    except MemoryError as error:
        text = f"{photo.width}x{photo.height} pixels do not fit into memory; shrink it"
        raise BadSample(file.path, text) from error
    height, width = picture.shape[:2]
    return Decoded(file, height, width, picture if keep else None, fitted)


def _write(
    photo: Decoded,
    labels: np.ndarray,
    *,
    output_dir: str,
    names: list[str],
    overlays: str,
) -> None:
    """Label picture, overlay, and last of all the JSON that speaks of them."""
    labels = images.resize_mask(labels, photo.height, photo.width)
    colours = palette(len(names))
    files = {"labels.png": images.encode_indexed(labels, colours)}
    if photo.picture is not None:
        shown = overlay(photo.picture, labels, colours, out=photo.picture)
        draw_names(shown, labels, names)
        if overlays == "png" or max(labels.shape) > images.LONGEST_JPEG:
            files["overlay.png"] = images.encode_lossless(shown)
        else:
            files["overlay.jpg"] = images.encode_image(shown)
    summary = _summary(photo, labels, names)
    files["json"] = (json.dumps(summary, indent=1) + "\n").encode()
    target = _below(output_dir, photo.file.target)
    for ending, content in files.items():
        storage.write_bytes(f"{target}.{ending}", content, durable=False)


def _summary(photo: Decoded, labels: np.ndarray, names: list[str]) -> dict[str, Any]:
    """What the JSON holds: classes that occur, the largest area first."""
    counts = encoding.count_pixels(labels, len(names))
    return {
        "file": photo.file.name,
        "height": photo.height,
        "width": photo.width,
        "classes": {
            names[label]: {
                "label": int(label),
                "pixels": int(counts[label]),
                "share": round(float(counts[label]) / labels.size, 6),
            }
            for label in np.argsort(-counts, kind="stable")
            if counts[label]
        },
    }
