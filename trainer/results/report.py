"""The report of a run: one HTML file that needs nothing else, not even a network."""

from __future__ import annotations

from typing import Any

from trainer import storage
from trainer.results import gallery, lines, pages, tables
from trainer.results.finished import Run, read_run
from trainer.results.kept import Collection

_CAPTIONS = {
    "curves": "Loss and scores by epoch; the legends give the last values",
    "predictions": "Photo, truth and predictions of validation examples",
    "samples": "Photos of the data set, their masks, and the masks laid over them",
    "classes": "IoU of each class that occurs in the validation examples",
    "model": "The network: encoder down the left, decoder up the right, skips across",
}


def render_report(
    *,
    config: dict[str, Any],
    history: list[dict[str, Any]],
    scores: dict[str, Any],
    card: dict[str, Any],
    figures: dict[str, bytes],
    notices: list[str],
    kept: Collection | None = None,
) -> str:
    """The report as one HTML page; what is not given is left out or shown as a dash.

    Args:
      config: contents of `config.json`.
      history: lines of `history.jsonl`, one an epoch.
      scores: contents of `scores.json`, with or without `native`.
      card: contents of the dataset card.
      figures: PNG bytes by name. Curves and classes are drawn by the page itself, and
        so are predictions and samples where examples were kept; of other names all are
        shown at the end.
      notices: what must be said before any number is read.
      kept: examples with their predictions, or None.
    """
    pairs = tables.confusions(scores)
    baseline = scores.get("background_baseline") or {}
    drawn = {"curves", "classes"} | ({"predictions", "samples"} if kept else set())
    shown = {name: png for name, png in figures.items() if name not in drawn}
    return pages.render(
        "report.html",
        config=config,
        settings=tables.settings(config),
        headlines=tables.headlines(scores),
        scores=scores,
        rows=tables.class_rows(scores, card),
        absent=tables.absent(scores),
        confusions=pairs,
        spots=gallery.spots(kept, pairs) if kept else {},
        matrix=tables.matrix(scores),
        card=card,
        splits=tables.splits(card),
        training=tables.training(history),
        charts=lines.training_charts([("", history)], baseline.get("pixel_accuracy")),
        gallery=gallery.gallery(kept) if kept and kept.val else None,
        samples=_samples(kept),
        label_names=kept.label_names if kept else [],
        colour=gallery.colour,
        pictures={name: _picture(name, png) for name, png in shown.items()},
        others=[name for name in shown if name not in _CAPTIONS],
        notices=notices,
    )


def render_run(run: Run) -> str:
    """The report of a finished run."""
    return render_report(
        config=run.config,
        history=run.history,
        scores=run.scores,
        card=run.card,
        figures=run.figures,
        notices=run.config.get("notices", []),
        kept=run.kept,
    )


def redraw(run_dir: str, output: str | None) -> str:
    """Draws the report of a finished run again; returns where it was written.

    Args:
      run_dir: of the run.
      output: the file, or None for the run's own `report.html`.

    Raises:
      SeamlineError: not a finished run.
    """
    output = output or storage.join(run_dir, "report.html")
    storage.write_text(output, render_run(read_run(run_dir)))
    return output


def _samples(kept: Collection | None) -> list[dict[str, Any]]:
    if kept is None:
        return []
    return [gallery.sample_view(x, kept.label_names) for x in kept.train]


def _picture(name: str, png: bytes) -> dict[str, str]:
    """Address and text of an embedded picture."""
    text = _CAPTIONS.get(name, name.replace("_", " ").capitalize())
    return {"address": pages.address(png), "text": text}
