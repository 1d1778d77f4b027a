"""Seamline as a library: what `import trainer` gives, and docs/library.md about it."""

from __future__ import annotations

import ast
import importlib
import inspect
import io
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import trainer
from tests.conftest import ROOT
from trainer import library, pictures, pipeline
from trainer.data.tutorial_ops import TUTORIAL_OPS
from trainer.engine import metrics
from trainer.engine.keras_metrics import RunningScore
from trainer.errors import SeamlineError
from trainer.labels import IGNORE_LABEL
from trainer.results import charts, network
from trainer.results.export import Serving

DOC = (ROOT / "docs" / "library.md").read_text()
FUNCTIONS = [x for x in trainer.__all__ if inspect.isfunction(getattr(trainer, x))]
GENERATOR = np.random.default_rng(7)


@pytest.fixture(scope="module")
def data(records_dir: Path) -> trainer.Data:
    """11 examples to train on, 3 to validate on, in batches of 2."""
    return trainer.open_data(
        records_dir=str(records_dir), image_size=32, batch_size=2, augment="random"
    )


@pytest.fixture(scope="module")
def model(data: trainer.Data) -> keras.Model:
    keras.utils.set_random_seed(0)
    return trainer.build_model(
        "mobilenetv3small", data.label_names, image_size=32, encoder_weights="none"
    )


def tiny(classes: int) -> keras.Model:
    """One convolution."""
    keras.utils.set_random_seed(0)
    image = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(1 / 255)(image)
    return keras.Model(image, keras.layers.Conv2D(classes, 1)(x))


# The package


def test_the_package_is_imported_without_tensorflow_and_lists_its_names() -> None:
    program = (
        "import sys, trainer\n"
        "assert {*trainer.__all__} <= {*dir(trainer)}\n"
        "print('tensorflow' in sys.modules, 'keras' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False False\n"


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'trainer' has no attribute 'segment'"):
        trainer.segment  # noqa: B018


def test_no_name_is_hidden_by_a_module_of_that_name() -> None:
    modules = {x.name for x in pkgutil.iter_modules(trainer.__path__)}
    assert len(trainer.__all__) > 10
    assert not modules & {*trainer.__all__}


# docs/library.md


def documented() -> dict[str, ast.FunctionDef]:
    """Signatures of the document, by name."""
    blocks = re.findall(r"```python\n(.*?)\n```", DOC, re.DOTALL)
    [*found] = (ast.parse(f"def {block}: ...").body[0] for block in blocks)
    assert all(isinstance(x, ast.FunctionDef) for x in found)
    return {x.name: x for x in found}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_document_has_the_signature_of_every_function(name: str) -> None:
    told = documented()[name]
    function = getattr(trainer, name)
    signature = inspect.signature(function)
    plain = [
        p.replace(annotation=inspect.Parameter.empty)
        for p in signature.parameters.values()
    ]
    assert f"({ast.unparse(told.args)})" == str(
        signature.replace(parameters=plain, return_annotation=inspect.Signature.empty)
    )
    assert told.returns is not None
    assert ast.unparse(told.returns) == signature.return_annotation


def test_the_document_has_no_function_that_is_not_there() -> None:
    assert len(FUNCTIONS) == 13
    assert sorted(documented()) == sorted(FUNCTIONS)


def test_the_document_has_all_that_data_offers() -> None:
    table = DOC[DOC.index("| of `Data`") : DOC.index("Batch k is")]
    cells = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    told = {x for cell in cells for x in re.findall(r"`(\w+)", cell)}
    fields = {*trainer.Data.__dataclass_fields__}
    assert told == fields | {x for x in vars(trainer.Data) if not x.startswith("_")}


def test_every_page_that_the_document_links_is_there() -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", DOC)
    assert len(targets) > 6
    for target in targets:
        assert (ROOT / "docs" / target).exists(), target


# Data


def test_batches_have_the_documented_shapes_types_and_ranges(
    data: trainer.Data,
) -> None:
    images, masks = next(iter(data.training_batches()))
    assert (images.dtype, images.shape) == (tf.float32, (2, 32, 32, 3))
    assert (masks.dtype, masks.shape) == (tf.uint8, (2, 32, 32))
    assert 1 < images.numpy().max() <= 255
    assert images.numpy().min() >= 0
    photos, truths = data.val.fetch([0, 2])
    assert (photos.dtype, photos.shape) == (np.uint8, (2, 32, 32, 3))
    assert (truths.dtype, truths.shape) == (np.uint8, (2, 32, 32))
    assert (len(data.train), len(data.val), data.steps_per_epoch) == (11, 3, 6)


def test_batches_are_those_of_the_training_command(
    data: trainer.Data, records_dir: Path
) -> None:
    recipe = trainer.library.resolve(
        "default", {"image_size": 32, "batch_size": 2, "augment": "random"}
    )
    stream, _ = pipeline.open_input(recipe, str(records_dir), data.card, 0, {})
    for ours, theirs in zip(
        data.training_batches().take(8), stream.batches(0, 8), strict=True
    ):
        np.testing.assert_array_equal(ours[0], theirs[0])
        np.testing.assert_array_equal(ours[1], theirs[1])


def test_batches_may_begin_anywhere(data: trainer.Data) -> None:
    whole = list(data.training_batches().take(5))
    [later] = data.training_batches(4).take(1)
    np.testing.assert_array_equal(whole[4][0], later[0])
    assert not np.array_equal(whole[3][0], later[0])


def test_every_validation_example_comes_once_and_none_is_filled_up(
    data: trainer.Data,
) -> None:
    batches = list(data.validation_batches().as_numpy_iterator())
    assert [len(images) for images, _ in batches] == [2, 1]
    images, masks = (np.concatenate(x) for x in zip(*batches, strict=True))
    photos, truths = data.val.fetch(range(3))
    np.testing.assert_array_equal(images, photos)
    np.testing.assert_array_equal(masks, truths)


def test_a_fallback_to_the_sample_is_said_and_a_choice_is_not(
    records_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = library.datasets.prepare(dataset="auto", records_dir=str(records_dir))
    told = library.dataclasses.replace(found, notice="drawn figures")
    monkeypatch.setattr(library.datasets, "prepare", lambda **values: told)
    trainer.open_data("sample", image_size=32)
    assert not caplog.messages
    trainer.open_data(image_size=32)
    assert caplog.messages == ["Dataset: drawn figures"]


def test_the_tutorial_s_example_i_gets_op_i(data: trainer.Data) -> None:
    images, masks = data.train.fetch([1] * 9)
    changed, moved = trainer.augment_batch(images, masks, "tutorial")
    assert (changed.dtype, moved.dtype) == (np.float32, np.uint8)
    for number, op in enumerate([*TUTORIAL_OPS, TUTORIAL_OPS[0]]):
        image, mask = op(
            tf.cast(images[0], tf.float32) / 255.0, masks[0][..., np.newaxis]
        )
        np.testing.assert_allclose(changed[number], 255 * image.numpy(), atol=1e-3)
        np.testing.assert_array_equal(moved[number], np.asarray(mask)[..., 0])


def test_random_augmentation_follows_its_seed(data: trainer.Data) -> None:
    examples = data.train.fetch([0, 1])
    first, again, other = (
        trainer.augment_batch(*examples, "random", seed=seed)[0] for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


# The model


def test_the_model_is_plain_keras_from_pixels_to_logits(
    data: trainer.Data, model: keras.Model
) -> None:
    assert model.input_shape == (None, 32, 32, 3)
    assert model.output_shape == (None, 32, 32, len(data.label_names))
    assert model.dtype == "float32"
    # Random weights learn in full.
    assert len(model.trainable_variables) > 100


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"image_size": 100}, "--image_size=100: must be a multiple of 32"),
        ({"decoder": "upside"}, "--decoder=upside: choose one of pix2pix, lateral"),
        ({"encoder": "mobilenet"}, "--encoder=mobilenet: no such encoder"),
    ],
)
def test_a_value_that_cannot_work_is_told(values: dict[str, object], text: str) -> None:
    given = {"encoder": "mobilenetv2", "encoder_weights": "none", **values}
    with pytest.raises(SeamlineError, match=re.escape(text)):
        trainer.build_model(label_names=["null", "coat"], **given)


def test_missing_imagenet_weights_are_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pipeline.encoders, "resolve_weights", lambda *a, **k: "none")
    trainer.build_model("mobilenetv3small", ["null", "coat"], image_size=32)
    assert [x.levelname for x in caplog.records] == ["WARNING"]
    assert "no ImageNet weights could be had" in caplog.messages[0]


def test_labels_are_those_of_the_exported_model_at_any_size(
    data: trainer.Data, model: keras.Model
) -> None:
    spec = library.build_spec(
        library.resolve("default", {"image_size": 32}), data.label_names, "float32"
    )
    serving = Serving(model, spec)
    predict = trainer.compile_predictor(model)
    for height, width in ((32, 32), (50, 71)):
        photos = GENERATOR.integers(0, 256, (3, height, width, 3), np.uint8)
        labels = predict(photos)
        assert (labels.dtype, labels.shape) == (np.uint8, (3, height, width))
        agree = labels == serving.serve(photos)["labels"].numpy()
        # Resized pixels differ by 1 at most.
        assert agree.mean() > (0.97 if height > 32 else 0.9999)


def test_a_predictor_follows_the_weights_of_its_model(data: trainer.Data) -> None:
    model = tiny(len(data.label_names))
    predict, (photos, _) = trainer.compile_predictor(model), data.val.fetch([0])
    predict(photos)
    kernel, bias = model.layers[-1].get_weights()
    bias[5] = 1e6
    model.layers[-1].set_weights([kernel, bias])
    assert (predict(photos) == 5).all()


# Loss, metrics, scores


def guesses(data: trainer.Data) -> tuple[np.ndarray, np.ndarray]:
    """Masks with ignored pixels, and logits."""
    _, masks = data.train.fetch(range(4))
    masks = np.where(GENERATOR.random(masks.shape) < 0.1, IGNORE_LABEL, masks)
    classes = len(data.label_names)
    logits = GENERATOR.normal(size=(*masks.shape, classes)).astype(np.float32)
    logits[..., 0] += 2
    return masks.astype(np.uint8), logits


def test_the_loss_is_cross_entropy_over_labelled_pixels(data: trainer.Data) -> None:
    masks, logits = guesses(data)
    shares = logits - np.log(np.exp(logits.astype(np.float64)).sum(-1, keepdims=True))
    valid = masks != IGNORE_LABEL
    own = np.take_along_axis(
        shares, np.where(valid, masks, 0)[..., np.newaxis].astype(int), -1
    )[..., 0]
    loss = trainer.build_loss(data, "cross_entropy")
    assert float(loss(masks, logits)) == pytest.approx(-own[valid].mean(), rel=1e-5)


def test_keras_compiles_the_loss_and_gets_its_value(data: trainer.Data) -> None:
    model = tiny(len(data.label_names))
    loss = trainer.build_loss(data)
    model.compile("sgd", loss=loss)
    images, masks = next(iter(data.training_batches()))
    assert IGNORE_LABEL in masks.numpy()
    expected = float(loss(masks, model(images)))
    assert model.test_on_batch(images, masks) == pytest.approx(expected, rel=1e-5)


def test_an_unknown_loss_is_refused(data: trainer.Data) -> None:
    with pytest.raises(SeamlineError, match="no loss 'hinge'"):
        trainer.build_loss(data, "hinge")


def test_metrics_are_the_scores_of_all_batches_together(data: trainer.Data) -> None:
    masks, logits = guesses(data)
    classes = len(data.label_names)
    expected = metrics.scores(
        metrics.confusion_matrix(masks, logits.argmax(-1), classes)
    )
    expected["accuracy"] = expected["pixel_accuracy"]
    kept = trainer.build_metrics(data.label_names)
    assert [x.name for x in kept] == ["accuracy", "foreground_accuracy", "mean_iou"]
    for metric in kept:
        for part in (slice(0, 3), slice(3, 4)):
            # As Keras hands them over: masks as floats.
            metric.update_state(masks[part].astype(np.float32), logits[part])
        assert float(metric.result()) == pytest.approx(expected[metric.name], rel=1e-5)
        metric.reset_state()
        assert float(metric.result()) == 0


def test_a_metric_can_be_made_again_from_its_configuration() -> None:
    again = RunningScore.from_config(RunningScore("mean_iou", 4).get_config())
    assert (again.name, again.get_config()["classes"]) == ("mean_iou", 4)


def test_fit_keeps_what_the_curves_show(
    data: trainer.Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(len(data.label_names))
    model.compile(
        "sgd",
        loss=trainer.build_loss(data),
        metrics=trainer.build_metrics(data.label_names),
    )
    history = model.fit(
        data.training_batches(),
        steps_per_epoch=3,
        epochs=2,
        validation_data=data.validation_batches(),
        shuffle=False,
        verbose=0,
    ).history
    drawn: dict[str, list[dict[str, float]]] = {}
    plain = charts.curves

    def curves(rows: list[dict[str, float]], **options: object) -> bytes:
        drawn["rows"] = rows
        return plain(rows, **options)

    monkeypatch.setattr(charts, "curves", curves)
    trainer.draw_curves(history, background_accuracy=0.7)
    assert [row["epoch"] for row in drawn["rows"]] == [1, 2]
    named = set(re.findall(r'"(val_\w+|loss|accuracy)"', inspect.getsource(charts)))
    named |= {f"val_{x}" for x in ("loss", "accuracy")}
    assert named <= drawn["rows"][0].keys()
    assert drawn["rows"][1]["val_mean_iou"] == history["val_mean_iou"][1]


def test_scores_are_those_of_all_validation_examples(
    data: trainer.Data, model: keras.Model
) -> None:
    scores = trainer.score_model(model, data)
    photos, truths = data.val.fetch(range(3))
    labels = trainer.compile_predictor(model)(photos)
    valid = truths != IGNORE_LABEL
    assert scores["pixel_accuracy"] == pytest.approx((labels == truths)[valid].mean())
    background = scores["background_baseline"]["pixel_accuracy"]
    assert background == pytest.approx((truths == 0)[valid].mean())
    assert scores["examples"] == 3


# Pictures


def test_a_picture_shows_itself_in_notebooks_and_is_not_spelled_out() -> None:
    picture = trainer.Picture(b"\x89PNG and more")
    assert picture._repr_png_() == b"\x89PNG and more"
    assert type(picture._repr_png_()) is bytes
    assert repr(picture) == "<Picture: PNG of 13 bytes>"


def test_pictures_keep_every_pixel_in_fewer_bytes(
    data: trainer.Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, masks = data.train.fetch([0, 1])
    whole: list[bytes] = []
    plain = pictures.figures.sample_sheet

    def sheet(*args: object, **options: object) -> bytes:
        whole.append(plain(*args, **options))
        return whole[0]

    monkeypatch.setattr(pictures.figures, "sample_sheet", sheet)
    picture = trainer.draw_examples(images, masks, data.label_names)
    assert len(picture) < len(whole[0])
    before, after = (Image.open(io.BytesIO(x)) for x in (whole[0], picture))
    np.testing.assert_array_equal(np.asarray(before.convert("RGB")), np.asarray(after))


def test_all_kinds_of_pictures_are_drawn_as_wide_as_a_page(
    data: trainer.Data, model: keras.Model
) -> None:
    names = data.label_names
    images, masks = next(iter(data.training_batches()))
    photos, truths = data.val.fetch(range(3))
    for picture in (
        trainer.draw_batch(images, masks, names, ["one", "two"], title="A"),
        trainer.draw_batch(photos, truths, names),
        trainer.draw_predictions(photos, truths, {"model": truths}, names),
        trainer.draw_model(model),
    ):
        with Image.open(io.BytesIO(picture)) as shown:
            assert shown.mode == "RGB"
            assert 400 < shown.width < 2000


@pytest.mark.parametrize(
    ("decoder", "joined"), [("lateral", "add"), ("pix2pix", "concatenate")]
)
def test_the_picture_of_the_network_says_what_is_done_with_skips(
    decoder: str, joined: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, object] = {}
    plain = network.model_diagram

    def diagram(stages: list[dict], **options: object) -> bytes:
        told.update(options)
        return plain(stages, **options)

    monkeypatch.setattr(network, "model_diagram", diagram)
    built = trainer.build_model(
        "mobilenetv3small",
        ["null", "coat"],
        image_size=32,
        encoder_weights="none",
        decoder=decoder,
    )
    trainer.draw_model(built)
    assert told["joined"] == joined


def test_the_names_of_the_package_are_those_of_its_two_modules() -> None:
    for name in trainer.__all__:
        homes = [x for x in (library, pictures) if getattr(x, name, None)]
        assert [x.__name__ for x in homes] == [getattr(trainer, name).__module__]
    assert importlib.import_module("trainer") is trainer
