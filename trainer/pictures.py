"""Pictures for notebooks and programs: PNG bytes that a notebook shows by itself."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import keras
import numpy as np
from PIL import Image

from trainer.results import charts, figures, network, preview

_SIDE = 192
"""Pixels of a photo's side, about: a sheet is as wide as a notebook's page."""
_PAIRS = 2


class Picture(bytes):
    """PNG bytes. As the last value of a cell, a notebook shows them.

    `pathlib.Path("picture.png").write_bytes(picture)` keeps them.
    """

    def _repr_png_(self) -> bytes:
        return bytes(self)

    def __repr__(self) -> str:
        return f"<Picture: PNG of {len(self):,} bytes>"


def _small(png: bytes) -> Picture:
    """The same pixels in fewer bytes: notebooks that are kept hold all their pictures.

    Figures are opaque, so their alpha says nothing.
    """
    with Image.open(io.BytesIO(png)) as picture, io.BytesIO() as buffer:
        picture.convert("RGB").save(buffer, "PNG", optimize=True)
        return Picture(buffer.getvalue())


def draw_examples(
    images: np.ndarray,
    masks: np.ndarray,
    label_names: Sequence[str],
    *,
    title: str = "Examples",
) -> Picture:
    """Photo, mask, and one laid over the other with names, of up to 8 examples.

    Args:
      images: uint8 `[N, S, S, 3]` RGB, N at least 1.
      masks: uint8 `[N, S, S]` labels, 255 = ignored.
      label_names: name of label 0, 1, ...
      title: heading.
    """
    return _small(
        figures.sample_sheet(images, masks, label_names, title=title, side=_SIDE)
    )


def draw_batch(
    images: np.ndarray,
    masks: np.ndarray,
    label_names: Sequence[str],
    captions: Sequence[str] = (),
    *,
    title: str = "Batch",
) -> Picture:
    """Image and overlay of each example of a batch, as the network sees them.

    Args:
      images: float32 or uint8 `[B, S, S, 3]` RGB, B at least 1; what lies beyond 0..255
        is clipped.
      masks: uint8 `[B, S, S]` labels, 255 = ignored (hatched).
      label_names: name of label 0, 1, ...
      captions: a line below each example, or none at all.
      title: heading.
    """
    count = len(images)
    sheet = preview.batch_sheet(
        np.asarray(images),
        np.asarray(masks),
        captions or [""] * count,
        [0] * count,
        label_names,
        title=title,
        note="left: the image; right: its labels laid over it",
        layout=(_SIDE, _PAIRS),
    )
    return _small(sheet)


def draw_predictions(
    images: np.ndarray,
    truths: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    label_names: Sequence[str],
    *,
    title: str = "Predictions",
) -> Picture:
    """Photo, truth and each prediction side by side, of up to 8 examples.

    Args:
      images: uint8 `[N, S, S, 3]` RGB, N at least 1.
      truths: uint8 `[N, S, S]` labels, 255 = ignored.
      predictions: heading of a column -> labels, uint8 `[N, S, S]`. The legend holds
        the classes of the truth and of the last column.
      label_names: name of label 0, 1, ...
      title: heading.
    """
    sheet = figures.prediction_sheet(
        images, truths, dict(predictions), label_names, title=title, side=_SIDE
    )
    return _small(sheet)


def draw_model(model: keras.Model, *, title: str = "The network") -> Picture:
    """The U: the encoder down the left, the decoder up the right, with all shapes.

    Args:
      model: of `build_model` or `load_model`.
      title: heading.
    """
    return _small(network.draw_network(model, title=title))


def draw_curves(
    history: Mapping[str, Sequence[float]],
    *,
    background_accuracy: float | None = None,
    title: str = "Training",
) -> Picture:
    """Loss, accuracy and validation scores over the epochs.

    Args:
      history: `model.fit(...).history` of a model with `build_metrics`: one value an
        epoch for each name. What is missing is left out.
      background_accuracy: pixel accuracy 0..1 of predicting background everywhere, a
        dashed line; None: no line.
      title: heading.
    """
    epochs = range(max(map(len, history.values()), default=0))
    rows = [{"epoch": k + 1, **{x: history[x][k] for x in history}} for k in epochs]
    return _small(
        charts.curves(rows, background_accuracy=background_accuracy, title=title)
    )
