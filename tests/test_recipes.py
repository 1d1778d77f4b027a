import dataclasses

import pytest

from trainer import recipes
from trainer.errors import SeamlineError


def test_the_tutorial_recipe_has_the_articles_values() -> None:
    recipe = recipes.resolve("tutorial", {})
    assert recipe.encoder == "densenet121"
    assert recipe.encoder_training == "frozen"
    assert recipe.preprocessing == "unit"
    assert (recipe.image_size, recipe.batch_size) == (128, 64)
    assert (recipe.epochs, recipe.steps_per_epoch) == (50, 12)
    assert (recipe.optimizer, recipe.learning_rate) == ("rmsprop", 1e-3)
    assert (recipe.augment, recipe.loss) == ("tutorial", "cross_entropy")
    assert recipe.schedule == "constant"


def test_a_value_that_is_given_overrides_the_recipe_and_none_does_not() -> None:
    recipe = recipes.resolve("tutorial", {"epochs": 3, "batch_size": None})
    assert (recipe.epochs, recipe.batch_size) == (3, 64)


def test_all_images_are_a_share_too() -> None:
    assert recipes.resolve("default", {"repeat_threshold": 1.0}).repeat_threshold == 1


def test_every_knob_explains_itself() -> None:
    for knob in dataclasses.fields(recipes.Recipe):
        assert len(knob.metadata["help"]) > 8


@pytest.mark.parametrize(
    ("knob", "value", "fix"),
    [
        ("image_size", 100, "96 or 128"),
        ("image_size", 0, "32"),
        ("batch_size", 0, "at least 1"),
        ("epochs", -1, "at least 1"),
        ("learning_rate", 0.0, "greater than 0"),
        ("learning_rate", float("nan"), "finite"),
        ("weight_decay", float("inf"), "finite"),
        ("batch_norm_momentum", 1.0, "[0, 1)"),
        ("optimizer", "lion", "rmsprop"),
        ("clip_norm", -1.0, "at least 0"),
        ("repeat_threshold", -0.1, "at least 0"),
        ("repeat_threshold", 1.5, "a share of the images, must lie in 0..1"),
        ("repeat_threshold", float("inf"), "finite"),
        ("warmup_steps", -2, "at least -1"),
        ("schedule_power", 0.0, "greater than 0"),
        ("learning_rate_floor", -0.1, "at least 0"),
        ("momentum", 1.0, "[0, 1)"),
        ("ema", 1.0, "[0, 1)"),
        ("accumulate", 0, "at least 1"),
        ("unfreeze_epoch", -1, "at least 0"),
        ("layer_decay", 0.0, "greater than 0"),
        ("encoder_learning_rate_factor", 0.0, "greater than 0"),
        ("schedule", "exponential", "polynomial"),
        ("focal_gamma", -1.0, "at least 0"),
        ("focal_gamma", float("inf"), "finite"),
        ("label_smoothing", 1.0, "[0, 1)"),
        ("class_weights", "none", "median, effective"),
        ("class_weight_beta", 1.0, "[0, 1)"),
        ("class_weight_floor", -0.1, "at least 0"),
        ("class_weight_cap", 0.0, "greater than 0"),
        ("patience", -1, "at least 0"),
    ],
)
def test_a_value_that_cannot_work_is_refused_with_the_fix(
    knob: str, value: object, fix: str
) -> None:
    with pytest.raises(SeamlineError) as refused:
        recipes.resolve("default", {knob: value})
    assert f"--{knob}={value}" in str(refused.value)
    assert fix in str(refused.value)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"learning_rate_floor": 0.1}, "--learning_rate_floor=0.1: is above"),
        ({"class_weight_floor": 9.0}, "_floor=9.0: is above --class_weight_cap=8.0"),
        ({"accumulate": 3}, "--accumulate=3: does not divide --batch_size=8"),
        (
            {"decoder_dropout": 0.1, "accumulate": 2},
            "--decoder_dropout=0.1: --accumulate with dice",
        ),
        ({"unfreeze_epoch": 50}, "--unfreeze_epoch=50: --epochs=50 end before"),
        ({"nesterov": True}, "--nesterov: is a kind of sgd"),
        (
            {"warmup_steps": 6, "epochs": 2, "steps_per_epoch": 3},
            "--warmup_steps=6: the training has 6 steps in all",
        ),
    ],
)
def test_values_that_cannot_work_together_are_refused(given: dict, line: str) -> None:
    with pytest.raises(SeamlineError, match=line):
        recipes.resolve("default", given)


def test_augmentation_is_free_text_that_data_code_checks() -> None:
    knobs = {knob.name: knob for knob in dataclasses.fields(recipes.Recipe)}
    assert knobs["augment"].metadata["choices"] == ()
    text = knobs["augment"].metadata["help"]
    assert "none, tutorial, random" in text
    assert "flip=0.5,rotate=10" in text
    assert "docs/augmentation.md" in text
    recipe = recipes.resolve("default", {"augment": "flip=0.5,rotate=10"})
    assert recipe.augment == "flip=0.5,rotate=10"


def test_an_unknown_recipe_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SeamlineError, match="default, tutorial"):
        recipes.resolve("secret", {})


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"weight_decay": 0.01, "optimizer": "sgd"}, "--weight_decay=0.01"),
        ({"momentum": 0.5}, "--momentum=0.5: does nothing with --optimizer=adamw"),
        ({"nesterov": True, "optimizer": "sgd", "momentum": 0.0}, "--nesterov=True"),
        ({"schedule_power": 2.0}, "--schedule_power=2.0: .* --schedule=cosine"),
        ({"learning_rate_floor": 1e-5, "schedule": "constant"}, "_floor=1e-05"),
        ({"class_weight_power": 0.2, "loss": "dice"}, "--class_weight_power=0.2"),
        ({"label_smoothing": 0.1, "loss": "dice"}, "_smoothing=0.1: .* --loss=dice"),
        ({"focal_gamma": 1.0}, "--focal_gamma=1.0: .* --loss=weighted_cross_entropy"),
        ({"class_weights": "effective", "loss": "dice"}, "--class_weights=effective: "),
        ({"class_weight_beta": 0.9, "loss": "dice"}, "_beta=0.9: .* --loss=dice"),
        ({"class_weight_floor": 0.1, "loss": "dice"}, "_floor=0.1: .* --loss=dice"),
        ({"class_weight_cap": 9.0, "loss": "dice"}, "_cap=9.0: .* --loss=dice"),
        ({"class_weight_beta": 0.9}, "--class_weight_beta=0.9: .* --class_weights=m"),
        *(
            (
                {knob: value, "encoder_training": "frozen"},
                f"--{knob}={value}: .*=frozen",
            )
            for knob, value in (
                *(("unfreeze_epoch", 2), ("layer_decay", 0.5)),
                ("encoder_learning_rate_factor", 0.5),
            )
        ),
        (
            {"class_weight_power": 0.2, "class_weights": "effective"},
            "--class_weight_power=0.2: does nothing with --class_weights=effective",
        ),
    ],
)
def test_a_value_that_does_nothing_beside_another_is_refused(
    values: dict, text: str
) -> None:
    with pytest.raises(SeamlineError, match=text):
        recipes.resolve("default", values)


def test_values_that_are_off_or_the_recipes_own_stand_beside_any_other() -> None:
    values = {"weight_decay": 0.0, "momentum": 0.9, "schedule_power": 1.0}
    adam = recipes.resolve("default", {**values, "optimizer": "adam"})
    assert (adam.optimizer, adam.weight_decay, adam.momentum) == ("adam", 0.0, 0.9)
    smooth = recipes.resolve("default", {"label_smoothing": 0.1, "loss": "focal"})
    assert (smooth.label_smoothing, smooth.focal_gamma) == (0.1, 2.0)
    frozen = recipes.resolve("default", {"encoder_training": "frozen"})
    assert frozen.encoder_learning_rate_factor != 1
    alike = {"encoder_training": "frozen", "encoder_learning_rate_factor": 1.0}
    assert recipes.resolve("default", alike).encoder_learning_rate_factor == 1
    other = recipes.resolve("default", {"weight_decay": 0.1, "schedule": "polynomial"})
    assert (other.weight_decay, other.schedule) == (0.1, "polynomial")
