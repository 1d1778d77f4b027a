"""Pictures and report of a finished run, written into its directory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from trainer import storage
from trainer.data.card import Card
from trainer.data.examples import Examples
from trainer.data.reader import Reader
from trainer.engine.runs import read_config
from trainer.engine.state import read_history
from trainer.model.unet import ModelSpec
from trainer.results import charts, figures, kept, network, report

EXAMPLES_SHOWN = 6


def shown_examples(count: int) -> np.ndarray:
    """Which of `count` examples pictures show: evenly spread, int `[<= 6]`."""
    return kept.spread(count, EXAMPLES_SHOWN)


def publish(
    run_dir: str,
    *,
    model: keras.Model,
    spec: ModelSpec,
    records_dir: str,
    card: Card,
    contents: dict[str, Any],
    scores: dict[str, Any],
    train: Examples,
    val: Examples,
    predict: Callable[[np.ndarray], np.ndarray],
    untrained: np.ndarray,
    trained: np.ndarray,
    notices: list[str],
) -> None:
    """Writes `figures/*.png`, `examples.zip` and `report.html`.

    Args:
      run_dir: of the run.
      model, spec: the trained model.
      records_dir, card: the dataset.
      contents: of the card, as the model's classes see it.
      scores: contents of `scores.json`.
      train, val: the examples.
      predict: uint8 images `[B, S, S, 3]` -> uint8 labels `[B, S, S]`.
      untrained, trained: uint8 labels `[K, S, S]` of the model before and after
        training, for the `shown_examples` of `val`.
      notices: what must be said of the results.
    """
    history = read_history(run_dir)
    names = spec.label_names
    sheet = figures.prediction_sheet(
        *val.fetch(shown_examples(len(val))),
        {"untrained": untrained, "trained": trained},
        names,
        title="Validation examples",
    )
    pictures = {**_pictures(model, spec, scores, history, train), "predictions": sheet}
    folder = storage.join(run_dir, "figures")
    storage.make_folder(folder)
    for name, picture in pictures.items():
        storage.write_bytes(storage.join(folder, f"{name}.png"), picture)
    collection = kept.collect(
        predict,
        *(
            (examples, Reader(records_dir, card, split).stream)
            for examples, split in ((val, "val"), (train, "train"))
        ),
        label_names=names,
        card=contents,
    )
    kept.write(run_dir, collection)
    page = report.render_report(
        config=read_config(run_dir),
        history=history,
        scores=scores,
        card=contents,
        figures=pictures,
        notices=notices,
        kept=collection,
    )
    storage.write_text(storage.join(run_dir, "report.html"), page)


def _pictures(
    model: keras.Model,
    spec: ModelSpec,
    scores: dict[str, Any],
    history: list[dict[str, Any]],
    train: Examples,
) -> dict[str, bytes]:
    """PNG bytes of samples, curves, classes and model."""
    return {
        "samples": figures.sample_sheet(
            *train.fetch(shown_examples(len(train))),
            spec.label_names,
            title="Training examples",
        ),
        "curves": charts.curves(
            history,
            background_accuracy=scores["background_baseline"]["pixel_accuracy"],
            title="Training",
        ),
        "classes": charts.class_bars(scores["per_class"], title="IoU by class"),
        "model": network.draw_network(model),
    }
