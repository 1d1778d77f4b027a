"""What the tables of the report say, from the files of a run."""

from __future__ import annotations

from typing import Any

_HEADLINES = (
    ("mean_iou", "Mean IoU", "overlap ÷ union, averaged over classes in the truth"),
    ("pixel_accuracy", "Pixel accuracy", "share of all labelled pixels that are right"),
    (
        "foreground_accuracy",
        "Foreground accuracy",
        "the same without pixels whose truth is background",
    ),
    ("mean_recall", "Mean recall", "share found of each class, averaged likewise"),
    (
        "boundary_f1",
        "Boundary F1",
        "how well outlines meet, averaged over classes",
    ),
    (
        "frequency_weighted_iou",
        "Frequency-weighted IoU",
        "IoU averaged by the pixels of each class",
    ),
)
_ALWAYS = 4
"""Of the headlines, those that are shown even where a run has no number."""
CONFUSIONS_SHOWN = 10
_MATRIX_CLASSES = 12


def headlines(scores: dict[str, Any]) -> list[dict[str, Any]]:
    """The headline scores beside those of predicting background everywhere."""
    baseline = scores.get("background_baseline") or {}
    native, intervals = scores.get("native") or {}, scores.get("interval") or {}
    return [
        {
            "key": key,
            "name": name,
            "means": means,
            "value": scores.get(key),
            "baseline": baseline.get(key),
            "native": native.get(key),
            "interval": pair(intervals.get(key)),
        }
        for place, (key, name, means) in enumerate(_HEADLINES)
        if place < _ALWAYS or scores.get(key) is not None
    ]


def pair(value: Any) -> tuple[float, float] | None:
    """Both ends of an interval, or None where there is none."""
    if not isinstance(value, list | tuple) or len(value) != 2 or None in value:
        return None
    return float(value[0]), float(value[1])


def class_rows(scores: dict[str, Any], card: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the classes in the truth, the most frequent first.

    In how many training images a class occurs comes from the card: it explains scores.
    """
    known = {row["name"]: row.get("train", {}) for row in card.get("classes", [])}
    rows = [
        {
            **row,
            "label": label,
            "iou_interval": pair(row.get("iou_interval")),
            "train_images": known.get(row["name"], {}).get("images"),
        }
        for label, row in enumerate(scores.get("per_class", []))
        if row.get("pixels")
    ]
    every = sum(row["pixels"] for row in rows)
    rows.sort(key=lambda row: -row["pixels"])
    return [{**row, "share": row["pixels"] / every} for row in rows]


def absent(scores: dict[str, Any]) -> list[str]:
    """Names of the classes in no truth."""
    return [x["name"] for x in scores.get("per_class", []) if not x.get("pixels")]


def confusions(scores: dict[str, Any]) -> list[dict[str, Any]]:
    """The most frequent mistakes: truth, predicted, pixels and share of the truth."""
    names = [row["name"] for row in scores.get("per_class", [])]
    pairs = [
        {
            "truth": names[row],
            "predicted": names[column],
            "labels": (row, column),
            "pixels": int(count),
            "share": count / sum(counts),
        }
        for row, counts in enumerate(scores.get("confusion", [])[: len(names)])
        for column, count in enumerate(counts[: len(names)])
        if count and row != column
    ]
    return sorted(pairs, key=lambda pair: -pair["pixels"])[:CONFUSIONS_SHOWN]


def matrix(scores: dict[str, Any]) -> dict[str, Any] | None:
    """What pixels of the most frequent classes were taken for, in shares of the truth.

    Returns:
      `labels` and `names` of up to 12 classes, and `rows` of (name, share of each,
      share of all others); None without a confusion matrix.
    """
    per_class, counts = scores.get("per_class", []), scores.get("confusion", [])
    if not counts or len(counts) != len(per_class):
        return None
    order = sorted(range(len(counts)), key=lambda label: -sum(counts[label]))
    chosen = [label for label in order if sum(counts[label])][:_MATRIX_CLASSES]
    rows = []
    for label in chosen:
        total = sum(counts[label])
        shares = [counts[label][other] / total for other in chosen]
        rows.append((per_class[label]["name"], shares, max(0.0, 1 - sum(shares))))
    names = [per_class[label]["name"] for label in chosen]
    more = sum(1 for label in order if sum(counts[label])) - len(chosen)
    return {"labels": chosen, "names": names, "rows": rows, "more": more}


def splits(card: dict[str, Any]) -> list[dict[str, Any]]:
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


def training(history: list[dict[str, Any]]) -> dict[str, Any]:
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


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration flattened: nested names are joined by dots.

    A nested group that only repeats values from the top is left out.
    """
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if not isinstance(value, dict):
            flat[name] = value
        elif any(config.get(key, value) != part for key, part in value.items()):
            flat |= {f"{name}.{key}": part for key, part in settings(value).items()}
    return flat
