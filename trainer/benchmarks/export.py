"""An export beside a bare one: what do resizing inside and its check cost?"""

from __future__ import annotations

import functools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from trainer import dataset
from trainer.benchmarks import rates, untrained
from trainer.benchmarks.measurements import Measurement
from trainer.benchmarks.settings import Settings
from trainer.data.images import resize_image
from trainer.engine import evaluation
from trainer.results import agreement
from trainer.results.export import export_model

_BATCHES = 6


def measure(settings: Settings) -> list[Measurement]:
    """Measures what every training exports at its end, of a model with random weights.

    Beside it Keras writes its own SavedModel of the same model, which takes images of
    the model's size and is not looked at again. Then both label one batch of photos of
    that size: the loaded export, and the model in this process.

    Raises:
      SeamlineError: a value, file or folder that only the user can mend.
    """
    recipe = settings.recipe
    prepared = dataset.prepare(**settings.data)
    assert prepared.card is not None, "one host alone always seals"
    model, spec = untrained.build(settings, prepared.card.label_names)
    photos = agreement.photos_of(prepared.records_dir, prepared.card)
    with tempfile.TemporaryDirectory(prefix="seamline-") as folder:
        ours, bare = (os.path.join(folder, name) for name in ("ours", "bare"))
        times = [
            (
                _seconds(lambda: export_model(model, spec, ours, photos)),
                _seconds(lambda: model.export(bare, verbose=False)),
            )
            for _ in range(settings.repeats)
        ]
        size = sum(x.stat().st_size for x in Path(ours).rglob("*") if x.is_file())
        loaded = tf.saved_model.load(ours)
    exporting, saving = (statistics.median(x) for x in zip(*times, strict=True))
    found = [own / other for own, other in times]
    what = f"{recipe.encoder}, {recipe.decoder}, at {recipe.image_size}²"
    return [
        Measurement(
            "export.vs_bare",
            statistics.median(found),
            "",
            "seconds of an export / of Keras's own SavedModel; "
            f"{len(found)} turns, {min(found):.2f} to {max(found):.2f}",
        ),
        Measurement(
            "export.seconds",
            exporting,
            "s",
            f"written, loaded and checked on {len(photos)} photos; {what}",
        ),
        Measurement("export.bare_seconds", saving, "s", f"written; {what}"),
        Measurement("export.megabytes", size / 1e6, "MB", what),
        _serving(
            lambda images: loaded.serve(images)["labels"],
            evaluation.compile_labels(model),
            _batch(photos, recipe.batch_size, recipe.image_size),
            settings.repeats,
        ),
    ]


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _batch(photos: list[np.ndarray], count: int, size: int) -> np.ndarray:
    """So many photos at the model's size, the same again where there are fewer."""
    small = [resize_image(photo, size, size) for photo in photos]
    return np.stack([small[number % len(small)] for number in range(count)])


def _serving(
    served: Callable[[np.ndarray], tf.Tensor],
    bare: Callable[[np.ndarray], tf.Tensor],
    batch: np.ndarray,
    repeats: int,
) -> Measurement:
    def label(by: Callable[[np.ndarray], tf.Tensor], batches: int = _BATCHES) -> int:
        for _ in range(batches):
            by(batch).numpy()
        return batches * len(batch)

    for by in (served, bare):
        label(by, 1)
    turns = [
        [
            rates.measure(functools.partial(label, by), seconds=0)
            for by in (served, bare)
        ]
        for _ in range(repeats)
    ]
    found = [one.per_second / other.per_second for one, other in turns]
    return Measurement(
        "export.serving_vs_model",
        statistics.median(found),
        "",
        f"images/s of the loaded export / of the model, batch {len(batch)}; "
        f"{repeats} turns, {min(found):.3f} to {max(found):.3f}",
    )
