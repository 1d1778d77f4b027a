"""What is told of scores, and what `trainer.evaluate` can be asked for."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from trainer import scoring
from trainer.engine.tally import Tally


def test_scores_are_told_with_their_intervals_beside_all_background(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tally = Tally(["null", "hat"])
    random = np.random.default_rng(1)
    for _ in range(3):
        truth = random.integers(0, 2, (8, 8)).astype(np.uint8)
        tally.add(truth, np.where(random.random((8, 8)) < 0.3, 0, truth))
    scores = tally.summary()
    with caplog.at_level(logging.INFO, "seamline"):
        scoring.log_scores({**scores, "native": scores}, split="val")
    model, nothing, further, native = caplog.messages
    low, high = scores["interval"]["mean_iou"]
    assert low < scores["mean_iou"] < high
    assert f"mean IoU {scores['mean_iou']:.3f} [{low:.3f}, {high:.3f}], mean" in model
    assert model.startswith("Scores on 3 val examples, model: accuracy 0.")
    assert (
        f"accuracy {scores['background_baseline']['pixel_accuracy']:.3f}, " in nothing
    )
    assert "[" not in nothing
    assert f"boundary F1 {scores['boundary_f1']:.3f} [" in further
    assert native == model.replace("model:", "model at original size:")


def test_scores_of_one_image_are_told_without_intervals(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tally = Tally(["null", "hat"])
    tally.add(np.eye(4, dtype=np.uint8), np.eye(4, dtype=np.uint8))
    with caplog.at_level(logging.INFO, "seamline"):
        scoring.log_scores({**tally.summary(), "native": tally.summary()}, split="val")
    assert len(caplog.messages) == 4
    assert not any("[" in line for line in caplog.messages)
