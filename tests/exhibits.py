"""Kept examples and whole run directories to draw pages from, made in no time."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from trainer.results import kept
from trainer.results.kept import Collection, Kept

NAMES = ["null", "skin", "cape"]
SIZE = 32


def masks(number: int, wrong: int) -> tuple[np.ndarray, np.ndarray]:
    """A truth of background, skin and cape; the same with `wrong` rows of skin lost."""
    truth = np.zeros((SIZE, SIZE), np.uint8)
    truth[4:24, 6:20] = 1
    truth[4:14, 20 : 22 + number % 8] = 2
    truth[:, 0] = 255
    labels = np.where(truth == 255, 0, truth).astype(np.uint8)
    labels[4 : 4 + wrong, 6:20] = 0
    return truth, labels


def example(number: int, wrong: int) -> Kept:
    """Photos are 48 high and 32 wide."""
    photo = np.random.RandomState(number).randint(0, 256, (48, 32, 3), np.uint8)
    truth, labels = masks(number, wrong)
    return Kept(
        f"{number:02}",
        cv2.imencode(".jpg", photo)[1].tobytes(),
        kept.label_map(truth),
        kept.label_map(labels),
        1 - wrong / 20,
    )


def collection(count: int = 12, shift: int = 0) -> Collection:
    """Example 00 has the most wrong pixels, the last one the fewest."""
    val = [example(x, max(0, 15 - x - shift)) for x in range(count)]
    plain = {"labels": None, "score": None}
    train = [dataclasses.replace(example(50 + x, 0), **plain) for x in range(2)]
    card = {"source": {"name": "drawn"}, "label_names": NAMES, "fingerprint": "f00d"}
    return Collection(NAMES, 2 * count, val, train, card)


def scores(iou: float) -> dict[str, Any]:
    """With skin at this IoU."""
    rows = [("null", 0.9, 500), ("skin", iou, 280), ("cape", 0.3, 40)]
    return {
        "examples": 24,
        "pixel_accuracy": 0.8,
        "foreground_accuracy": 0.5,
        "mean_iou": (1.2 + iou) / 3,
        "mean_recall": 0.5,
        "background_baseline": {"pixel_accuracy": 0.6, "mean_iou": 0.2},
        "per_class": [
            {
                **{"name": name, "iou": value, "recall": value, "precision": 0.5},
                **{"pixels": pixels, "images": 12},
            }
            for name, value, pixels in rows
        ],
        "confusion": [[480, 20, 0], [100, 180, 0], [5, 25, 10]],
    }


def write_run(folder: Path, *, iou: float = 0.5, shift: int = 0, **config: Any) -> Path:
    """A finished run of two epochs."""
    folder.mkdir(parents=True)
    settings = {
        **{"run_dir": str(folder), "encoder": "mobilenetv2", "image_size": SIZE},
        **{"learning_rate": 0.001, "records_fingerprint": "f00d", "notices": []},
        **{"command": "python -m trainer.task", "identity": {"seed": 0}, "seed": 0},
    }
    (folder / "config.json").write_text(json.dumps({**settings, **config}))
    rows = [
        {
            **{"epoch": epoch, "step": 4 * epoch, "seconds": 2.5, "loss": 2 / epoch},
            **{"val_loss": 2.2 / epoch, "val_mean_iou": iou / 3 * epoch},
            **{"accuracy": 0.3 * epoch, "val_accuracy": 0.4 * epoch},
        }
        for epoch in (1, 2)
    ]
    (folder / "history.jsonl").write_text("".join(json.dumps(x) + "\n" for x in rows))
    (folder / "scores.json").write_text(json.dumps(scores(iou)))
    kept.write(str(folder), collection(shift=shift))
    return folder
