"""Prediction on photos: from a run or an exported model, at the photo's own size."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import tensorflow as tf

from trainer import progress, storage
from trainer.engine import state
from trainer.errors import EXIT_USER_ERROR, SeamlineError
from trainer.labels import palette
from trainer.results.export import Serving
from trainer.results.figures import overlay
from trainer.results.regions import write_names

log = logging.getLogger("seamline")

_ENDINGS = (".jpg", ".jpeg", ".png")

Predictor = Callable[[np.ndarray], np.ndarray]


def load_predictor(model: str) -> tuple[Predictor, list[str]]:
    """A function uint8 photo `[H, W, 3]` RGB -> uint8 labels `[H, W]`, class names.

    Args:
      model: a run directory, or a SavedModel that `export_model` wrote.

    Raises:
      SeamlineError: neither of the two.
    """
    if storage.exists(storage.join(model, "saved_model.pb")):
        serving = tf.saved_model.load(model)
    else:
        serving = Serving(*state.load_model(model))
    names = [name.decode() for name in serving.label_names.numpy()]
    return lambda photo: serving.serve(photo[np.newaxis])["labels"][0].numpy(), names


def predict_photos(*, model: str, source: str, output_dir: str) -> int:
    """Writes label picture, overlay and JSON for a photo or a folder of photos.

    Args:
      model: see `load_predictor`.
      source: a photo or a folder.
      output_dir: folder to make.

    Returns:
      The exit code: 0, or 42 when some photos could not be read (each is named; the
      others are done).

    Raises:
      SeamlineError: no such photo or model.
    """
    photos = _find_photos(source)
    predict, names = load_predictor(model)
    storage.make_folder(output_dir)
    bar = progress.Bar("predicting", total=len(photos), unit="photos")
    unreadable = 0
    for path in photos:
        photo = _read(path)
        if photo is None:
            unreadable += 1
            log.info("%s: cannot be decoded as an image; left out", path)
        else:
            _write(output_dir, path, photo, predict(photo), names)
        bar.update(1)
    bar.close()
    log.info("Predicted: %d photos -> %s", len(photos) - unreadable, output_dir)
    return EXIT_USER_ERROR if unreadable else 0


def _find_photos(source: str) -> list[str]:
    names = storage.list_folder(source)
    if not names and storage.exists(source) and source.lower().endswith(_ENDINGS):
        return [source]
    photos = [storage.join(source, x) for x in names if x.lower().endswith(_ENDINGS)]
    if not photos:
        raise SeamlineError(
            f"--input={source}: no photo ({', '.join(_ENDINGS)}) there; give a photo "
            "or a folder of photos"
        )
    return photos


def _read(path: str) -> np.ndarray | None:
    content = np.frombuffer(storage.read_bytes(path), np.uint8)
    bgr = cv2.imdecode(content, cv2.IMREAD_COLOR) if content.size else None
    return None if bgr is None else cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def _write(
    output_dir: str, path: str, photo: np.ndarray, labels: np.ndarray, names: list[str]
) -> None:
    colours = palette(len(names))
    stem = os.path.splitext(os.path.basename(path))[0]
    counts = np.bincount(labels.reshape(-1), minlength=len(names))
    summary: dict[str, Any] = {
        "photo": path,
        "classes": {
            names[label]: round(float(counts[label]) / labels.size, 6)
            for label in np.argsort(-counts)
            if counts[label]
        },
    }
    shown = write_names(overlay(photo, labels, colours), labels, names)
    pictures = {
        "labels.png": labels,
        "overlay.png": cv2.cvtColor(shown, cv2.COLOR_RGB2BGR),
    }
    for ending, picture in pictures.items():
        encoded = cv2.imencode(".png", picture)[1].tobytes()
        storage.write_bytes(storage.join(output_dir, f"{stem}.{ending}"), encoded)
    text = json.dumps(summary, indent=1) + "\n"
    storage.write_text(storage.join(output_dir, f"{stem}.json"), text)
