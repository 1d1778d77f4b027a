"""The report of a run: one HTML file that needs nothing else, not even a network."""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path
from typing import Any

import jinja2

from trainer import storage

_HEADLINES = (
    ("pixel_accuracy", "Pixel accuracy", "share of all labelled pixels that are right"),
    (
        "foreground_accuracy",
        "Foreground accuracy",
        "the same without pixels whose truth is background",
    ),
    ("mean_iou", "Mean IoU", "overlap ÷ union, averaged over classes in the truth"),
    ("mean_recall", "Mean recall", "share found of each class, averaged likewise"),
)
_CAPTIONS = {
    "curves": "Loss and scores by epoch; the legends give the last values",
    "predictions": "Photo, truth and predictions of validation examples",
    "samples": "Photos of the data set, their masks, and the masks laid over them",
    "classes": "IoU of each class that occurs in the validation examples",
    "model": "The network: encoder down the left, decoder up the right, skips across",
}
_MISSING = "–"
_CONFUSIONS_SHOWN = 10


def render_report(
    *,
    config: dict[str, Any],
    history: list[dict[str, Any]],
    scores: dict[str, Any],
    card: dict[str, Any],
    figures: dict[str, bytes],
    notices: list[str],
) -> str:
    """The report as one HTML page; what is not given is left out or shown as a dash.

    Args:
      config: contents of `config.json`.
      history: lines of `history.jsonl`, one an epoch.
      scores: contents of `scores.json`, with or without `native`.
      card: contents of the dataset card.
      figures: PNG bytes named curves, predictions, samples, classes, model; others are
        shown at the end under their names.
      notices: what must be said before any number is read.
    """
    environment = jinja2.Environment(autoescape=True, trim_blocks=True)
    environment.filters |= {
        "number": number,
        "duration": duration,
        "setting": _setting,
    }
    source = storage.read_text(str(Path(__file__).with_name("report.html")))
    rows = _class_rows(scores, card)
    return environment.from_string(source).render(
        config=config,
        settings=_settings(config),
        headlines=_headlines(scores),
        scores=scores,
        rows=rows,
        absent=[
            row["name"] for row in scores.get("per_class", []) if not row.get("pixels")
        ],
        confusions=_confusions(scores),
        card=card,
        splits=_splits(card),
        training=_training(history),
        pictures={name: _picture(name, png) for name, png in figures.items()},
        others=[name for name in figures if name not in _CAPTIONS],
        notices=notices,
    )


def number(value: Any, digits: int = 3) -> str:
    """A number as the report prints it: `0.123`, `1,234`, or a dash for none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return _MISSING
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"


def duration(seconds: float | None) -> str:
    """Seconds in words: `41.2 s`, `3 min 5 s`, `2 h 10 min`."""
    if seconds is None or not math.isfinite(seconds):
        return _MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _picture(name: str, png: bytes) -> dict[str, str]:
    """Address and text of an embedded picture."""
    code = base64.b64encode(png).decode("ascii")
    text = _CAPTIONS.get(name, name.replace("_", " ").capitalize())
    return {"address": f"data:image/png;base64,{code}", "text": text}


def _headlines(scores: dict[str, Any]) -> list[dict[str, Any]]:
    """The headline scores beside those of predicting background everywhere."""
    baseline, native = scores.get("background_baseline", {}), scores.get("native") or {}
    return [
        {
            "name": name,
            "means": means,
            "value": scores.get(key),
            "baseline": baseline.get(key),
            "native": native.get(key),
        }
        for key, name, means in _HEADLINES
    ]


def _class_rows(scores: dict[str, Any], card: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the classes in the truth, the most frequent first.

    In how many training images a class occurs comes from the card: it explains scores.
    """
    known = {row["name"]: row.get("train", {}) for row in card.get("classes", [])}
    rows = [row for row in scores.get("per_class", []) if row.get("pixels")]
    return [
        {**row, "train_images": known.get(row["name"], {}).get("images")}
        for row in sorted(rows, key=lambda row: -row["pixels"])
    ]


def _confusions(scores: dict[str, Any]) -> list[dict[str, Any]]:
    """The most frequent mistakes: truth, predicted, pixels and share of the truth."""
    names = [row["name"] for row in scores.get("per_class", [])]
    pairs = [
        {
            "truth": truth,
            "predicted": predicted,
            "pixels": int(count),
            "share": count / sum(counts),
        }
        for truth, counts in zip(names, scores.get("confusion", []), strict=False)
        for predicted, count in zip(names, counts, strict=False)
        if count and truth != predicted
    ]
    return sorted(pairs, key=lambda pair: -pair["pixels"])[:_CONFUSIONS_SHOWN]


def _splits(card: dict[str, Any]) -> list[dict[str, Any]]:
    """Examples, and classes that occur, by split."""
    classes = card.get("classes", [])
    return [
        {
            "name": name,
            "examples": split.get("examples"),
            "classes": sum(row.get(name, {}).get("images", 0) > 0 for row in classes)
            if classes
            else None,
        }
        for name, split in card.get("splits", {}).items()
    ]


def _training(history: list[dict[str, Any]]) -> dict[str, Any]:
    """Time and throughput over all epochs, and the epoch with the best mean IoU."""
    measured = [row for row in history if row.get("val_mean_iou") is not None]
    seconds = [row["seconds"] for row in history if row.get("seconds") is not None]
    speeds = sorted(
        row["images_per_second"] for row in history if row.get("images_per_second")
    )
    waits = [
        row["input_wait_fraction"] * row["seconds"]
        for row in history
        if row.get("input_wait_fraction") is not None and row.get("seconds") is not None
    ]
    return {
        "epochs": len(history),
        "step": history[-1].get("step") if history else None,
        "seconds": sum(seconds) if seconds else None,
        "speed": speeds[len(speeds) // 2] if speeds else None,
        "wait": sum(waits) / sum(seconds) if waits and sum(seconds) else None,
        "best": max(measured, key=lambda row: row["val_mean_iou"], default=None),
    }


def _setting(value: Any) -> str:
    """Text as it is, anything else as JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration flattened: nested names are joined by dots.

    A nested group that only repeats values from the top is left out.
    """
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if not isinstance(value, dict):
            flat[name] = value
        elif any(config.get(key, value) != part for key, part in value.items()):
            flat |= {f"{name}.{key}": part for key, part in _settings(value).items()}
    return flat
