from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from trainer import recipes
from trainer.data.card import Card, read_card
from trainer.engine import options
from trainer.model import class_weights, losses


def test_median_frequency_raises_rare_classes() -> None:
    shares = [0.7, 0.2, 0.1, 0.0, 1e-9]
    weights = class_weights.median_frequency(shares, power=0.5)
    median = np.median([0.7, 0.2, 0.1, 1e-9])
    np.testing.assert_allclose(weights[:3], np.sqrt(median / [0.7, 0.2, 0.1]))
    assert weights[3] == 1
    assert weights[4] == np.sqrt(median / 1e-9)
    np.testing.assert_array_equal(class_weights.median_frequency([0.9, 0.1], 0), [1, 1])


def numpy_effective(images: list[int], beta: float) -> list[float]:
    """Effective numbers by the sum that the paper derives them from."""
    numbers = [sum(beta**k for k in range(n)) for n in images]
    total = sum(1 / x for x in numbers)
    return [len(images) / total / x for x in numbers]


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999])
def test_effective_number_equals_the_sum_of_the_paper(beta: float) -> None:
    images = [800, 3, 1, 90]
    weights = class_weights.effective_number([*images, 0], beta)
    np.testing.assert_allclose(weights[:4], numpy_effective(images, beta), rtol=1e-9)
    assert weights[4] == 1


def test_near_one_the_effective_number_is_the_number() -> None:
    weights = class_weights.effective_number([8, 4, 2], 1 - 1e-9)
    np.testing.assert_allclose(weights * [8, 4, 2] / weights[0], [8, 8, 8], rtol=1e-6)


def test_classes_that_never_occur_all_weigh_one() -> None:
    for weights in (
        class_weights.median_frequency([0.0, 0.0], 1),
        class_weights.effective_number([0, 0], 0.9),
    ):
        np.testing.assert_array_equal(weights, [1, 1])


@pytest.fixture(scope="module")
def card(records_dir: Path) -> Card:
    return read_card(str(records_dir))


@pytest.mark.parametrize(
    ("given", "power", "beta", "bounds"),
    [
        ({}, 0.35, None, (0.25, 8)),
        ({"class_weight_power": 1.0}, 1, None, (0.25, 8)),
        ({"class_weight_floor": 0.6, "class_weight_cap": 1.5}, 0.35, None, (0.6, 1.5)),
        ({"class_weights": "effective"}, None, 0.999, (0.25, 8)),
        (
            {"class_weights": "effective", "class_weight_beta": 0.5},
            *(None, 0.5, (0.25, 8)),
        ),
    ],
)
def test_a_recipe_weighs_classes_as_it_says(
    given: dict,
    power: float | None,
    beta: float | None,
    bounds: tuple[float, float],
    card: Card,
    records_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = {}
    monkeypatch.setattr(
        losses, "build_loss", lambda text, **values: seen.update(values)
    )
    options.build_loss(recipes.resolve("default", given), card)
    rows = json.loads((records_dir / "card.json").read_text())["classes"]
    rows = [row["train"] for row in rows]
    if power is not None:
        shares = np.array([row["pixels"] for row in rows], float)
        shares /= shares.sum()
        expected = class_weights.median_frequency(shares, power)
    else:
        images = [row["images"] for row in rows]
        expected = class_weights.effective_number(images, beta)
    np.testing.assert_allclose(seen["weights"], np.clip(expected, *bounds))
    assert len(set(seen["weights"])) > 3


def test_a_recipe_smooths_and_focuses_as_it_says(
    card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}
    monkeypatch.setattr(losses, "build_loss", lambda *text, **rest: seen.update(rest))
    knobs = {"loss": "focal", "label_smoothing": 0.1, "focal_gamma": 1.5}
    options.build_loss(recipes.resolve("default", knobs), card)
    assert (seen["smoothing"], seen["gamma"]) == (0.1, 1.5)
