"""Prediction of photos beside the bare model: what do reading and writing cost?"""

from __future__ import annotations

import functools
import itertools
import os
import posixpath
import statistics
import tempfile
from collections.abc import Sequence

import numpy as np

from trainer import storage
from trainer.benchmarks import rates, untrained
from trainer.benchmarks.measurements import Measurement
from trainer.benchmarks.rates import Rate
from trainer.benchmarks.settings import Settings
from trainer.data import images, pairs, sources
from trainer.data.sources import Source
from trainer.engine import evaluation
from trainer.errors import SeamlineError
from trainer.results import prediction
from trainer.results.photo_files import PhotoFile
from trainer.results.prediction import Predictor

_BATCHES = 12
_WARM = 2


def measure(settings: Settings) -> list[Measurement]:
    """Measures `trainer.predict` on a dataset's photos: everything from file to files.

    The bare model labels one batch of these photos again and again, ready as a tensor.

    Args:
      settings: of these, dataset, recipe, model and repeats.

    Raises:
      SeamlineError: no such dataset or model, or a remote dataset.
    """
    source = sources.find(settings.data["dataset"], settings.data["layout"])
    if storage.is_remote(source.folder):
        raise SeamlineError(f"{source.folder}: give a local dataset to measure")
    model, batch_size = settings.model, settings.recipe.batch_size
    predictor = (
        prediction.load_predictor(model) if model else _untrained(settings, source)
    )
    if predictor.size is None:
        raise SeamlineError(f"--model={model}: does not say its size; export it again")
    files = _files(source, _BATCHES * batch_size)
    batch = _batch(files[:batch_size], predictor.size)

    def bare(batches: int = _BATCHES) -> int:
        for _ in range(batches):
            predictor.label(batch)
        return batches * len(batch)

    def whole(folder: str, part: Sequence[PhotoFile] = files) -> int:
        for problem in prediction.label_files(
            part, predictor, folder, batch_size=batch_size
        ):
            if problem is not None:
                raise SeamlineError(str(problem))
        return len(part)

    bare(_WARM)
    turns = []
    # Removing files is no part of predicting, nor is writing what it does to a disk.
    with tempfile.TemporaryDirectory(prefix="seamline-") as parent:
        whole(os.path.join(parent, "warm"), files[: _WARM * batch_size])
        for turn in range(settings.repeats):
            run = functools.partial(whole, os.path.join(parent, str(turn)))
            turns.append(
                (rates.measure(run, seconds=0), rates.measure(bare, seconds=0))
            )
    what = f"{model or settings.recipe.encoder}, batch {batch_size}"
    return _rows(turns, f"{what} at {predictor.size}²")


def _rows(turns: Sequence[tuple[Rate, Rate]], what: str) -> list[Measurement]:
    ratios = [whole.per_second / bare.per_second for whole, bare in turns]
    wholes, bares = zip(*turns, strict=True)
    return [
        Measurement(
            "predict.vs_model",
            statistics.median(ratios),
            "",
            "photos/s from files to files / images/s of the bare model on one tensor; "
            f"{len(turns)} turns of {wholes[0].images} photos, {min(ratios):.3f} to "
            f"{max(ratios):.3f}",
        ),
        rates.row("predict.images_per_second", wholes, f"from files to files; {what}"),
        rates.row("predict.model_images_per_second", bares, what),
    ]


def _files(source: Source, count: int) -> list[PhotoFile]:
    """So many photos, the same again where there are fewer; no two results meet."""
    photos = itertools.islice(
        itertools.cycle(photo for photo, _ in source.files.values()), count
    )
    return [
        PhotoFile(
            os.path.join(source.folder, photo),
            photo,
            f"{number:04d}-{posixpath.splitext(posixpath.basename(photo))[0]}",
            source.infos[photo].size,
        )
        for number, photo in enumerate(photos)
    ]


def _batch(files: Sequence[PhotoFile], size: int) -> np.ndarray:
    photos = [
        pairs.open_photo(storage.read_bytes(file.path), file.path).decode()
        for file in files
    ]
    return np.stack([images.resize_image(photo, size, size) for photo in photos])


def _untrained(settings: Settings, source: Source) -> Predictor:
    model, spec = untrained.build(settings, source.label_names)
    labels_of = evaluation.compile_labels(model)
    return Predictor(
        lambda photos: labels_of(photos).numpy(), spec.label_names, spec.image_size
    )
