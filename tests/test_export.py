"""Exported models: equal to the trainer's own, and of use without Seamline."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import saved_model_pb2

from tests import tiny
from tests.conftest import ROOT, run_command
from trainer.data.images import resize_image, resize_mask
from trainer.engine import evaluation, state
from trainer.errors import SeamlineError
from trainer.labels import palette
from trainer.model.decoders import DECODERS
from trainer.model.encoders import ENCODERS
from trainer.model.unet import ModelSpec, build_model
from trainer.results import agreement, export, formats, prediction

SIZES = [(32, 32), (40, 57), (64, 90), (90, 64), (300, 200), (33, 500), (20, 25)]
NAMES = "null coat dress hair shoes skin".split()


def photo(height: int, width: int) -> np.ndarray:
    """Smooth colours, no two photos alike."""
    coarse = np.random.default_rng(height).integers(0, 256, (6, 6, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


PHOTOS = [photo(*size) for size in SIZES]


@pytest.fixture(scope="module")
def run_dir(
    records_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """What export needs of a run, with a small network of random weights."""
    tiny.register()
    spec = ModelSpec(
        encoder="tiny",
        encoder_training="full",
        preprocessing="unit",
        image_size=32,
        batch_norm_momentum=0.9,
        precision="float32",
        label_names=NAMES,
        decoder="lateral",
        # As the default recipe: seen larger, rare classes lifted.
        test_scale=2.0,
        logit_adjustment=0.002,
        class_shares=[0.8, 0.1, 0.05, 0.02, 0.02, 0.01],
    )
    tf.keras.utils.set_random_seed(1)
    folder = tmp_path_factory.mktemp("export") / "run"
    path = folder / "checkpoints" / "best" / "ckpt-1"
    tf.train.Checkpoint(model=build_model(spec)).write(str(path))
    (folder / "model.json").write_text(spec.to_json())
    config = {"records_dir": str(records_dir), "identity": {}}
    (folder / "config.json").write_text(json.dumps(config))
    yield folder
    del ENCODERS["tiny"]


@pytest.fixture(scope="module")
def exported(run_dir: Path) -> Path:
    return Path(
        formats.export_run(run_dir=str(run_dir), records_dir=None, name="saved_model")
    )


# The SavedModel


def labeller(model: str) -> Callable[[np.ndarray], np.ndarray]:
    """uint8 photo `[H, W, 3]` -> uint8 labels `[H, W]`, as `trainer.predict` has it."""
    predictor = prediction.load_predictor(model)
    assert (predictor.names, predictor.size) == (NAMES, 32)
    return lambda photo: predictor.label(photo[np.newaxis])[0]


def test_a_run_and_its_export_label_photos_of_every_size_alike(
    run_dir: Path, exported: Path
) -> None:
    ours, theirs = map(labeller, (str(run_dir), str(exported)))
    for each in PHOTOS:
        labels = ours(each)
        assert labels.shape == each.shape[:2]
        np.testing.assert_array_equal(labels, theirs(each))
    assert len(np.unique(np.concatenate([ours(x).ravel() for x in PHOTOS]))) > 2


def test_the_saved_models_labels_are_those_of_the_scores_in_every_pixel(
    run_dir: Path, exported: Path
) -> None:
    model, _ = state.load_model(str(run_dir))
    predict = evaluation.compile_predictor(model)
    theirs = labeller(str(exported))
    for each in PHOTOS:
        small = predict(resize_image(each, 32, 32)[None])[0]
        labels = resize_mask(small, *each.shape[:2])
        np.testing.assert_array_equal(labels, theirs(each))


def test_the_saved_model_is_of_use_where_seamline_is_not(
    run_dir: Path, exported: Path, tmp_path: Path
) -> None:
    pair = np.stack([photo(40, 70)] * 2)
    np.save(tmp_path / "photos.npy", pair)
    program = f"""
import sys
sys.modules["trainer"] = None
import numpy as np, tensorflow as tf
model = tf.saved_model.load({str(exported)!r})
photos = tf.constant(np.load("photos.npy"))
labels = model.signatures["serving_default"](images=photos)["labels"]
shares = model.signatures["probabilities"](images=photos)["probabilities"]
names = [name.decode() for name in model.label_names.numpy()]
np.savez("found.npz", labels=labels, shares=shares, names=names,
         palette=model.palette.numpy(), size=model.image_size.numpy())
"""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**environment, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = np.load(tmp_path / "found.npz")
    predict = labeller(str(run_dir))
    np.testing.assert_array_equal(found["labels"], [predict(pair[0])] * 2)
    assert (found["labels"].dtype, found["shares"].dtype) == (np.uint8, np.float32)
    assert found["shares"].shape == (2, 40, 70, 6)
    np.testing.assert_allclose(found["shares"].sum(-1), 1, atol=1e-5)
    assert (found["names"].tolist(), found["size"]) == (NAMES, 32)
    np.testing.assert_array_equal(found["palette"], palette(6))


def test_probabilities_of_photos_of_the_models_size_are_its_own(
    run_dir: Path,
) -> None:
    model, spec = state.load_model(str(run_dir))
    serving, image = export.Serving(model, spec), photo(32, 32)[np.newaxis]
    logits = model.predict(image.astype(np.float32), verbose=0).astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    found = serving.probabilities(image)["probabilities"].numpy()
    np.testing.assert_allclose(found, shares, atol=1e-5)
    labels = serving.serve(image)["labels"].numpy()
    np.testing.assert_array_equal(found.argmax(-1), labels)


def test_tensorflow_serving_finds_both_signatures(exported: Path) -> None:
    saved = saved_model_pb2.SavedModel.FromString(
        (exported / "saved_model.pb").read_bytes()
    )
    [graph] = saved.meta_graphs
    assert list(graph.meta_info_def.tags) == ["serve"]
    told = {}
    for name in ("serving_default", "probabilities"):
        signature = graph.signature_def[name]
        assert signature.method_name == "tensorflow/serving/predict"
        for side in (signature.inputs, signature.outputs):
            for key, info in side.items():
                shape = [dim.size for dim in info.tensor_shape.dim]
                told[name, key] = (types_pb2.DataType.Name(info.dtype), shape)
    assert told == {
        ("serving_default", "images"): ("DT_UINT8", [-1, -1, -1, 3]),
        ("serving_default", "labels"): ("DT_UINT8", [-1, -1, -1]),
        ("probabilities", "images"): ("DT_UINT8", [-1, -1, -1, 3]),
        ("probabilities", "probabilities"): ("DT_FLOAT", [-1, -1, -1, 6]),
    }


# Other formats


BARS = {"saved_model": 1, "tflite": 0.995, "tflite_int8": 0.97, "onnx": 0.999}


@pytest.fixture(scope="module", params=formats.FORMATS)
def converted(request: pytest.FixtureRequest, run_dir: Path) -> tuple[str, Path]:
    if request.param == "onnx":
        for package in ("tf2onnx", "onnxruntime"):
            pytest.importorskip(package, reason="pip install -e '.[onnx]'")
    folder = formats.export_run(
        run_dir=str(run_dir), records_dir=None, name=request.param
    )
    return request.param, Path(folder)


def test_a_converted_model_agrees_and_says_how_far(converted: tuple[str, Path]) -> None:
    name, folder = converted
    assert folder.name == f"export_{name}"
    told = json.loads((folder / "agreement.json").read_text())
    assert told["format"] == name
    assert (told["images"], told["pixels"]) == (3, 3 * 32 * 32)
    assert BARS[name] <= told["equal"] <= 1
    assert {"seamline", "tensorflow", "keras"} <= set(told["versions"])
    assert ("onnxruntime" in told["versions"]) == (name == "onnx")
    classes = json.loads((folder / "classes.json").read_text())
    assert classes["label_names"] == NAMES
    assert classes["palette"] == palette(6)[:6].tolist()
    assert classes["image_size"] == 32


def test_a_converted_model_takes_and_gives_what_is_documented(
    converted: tuple[str, Path],
) -> None:
    name, folder = converted
    image = photo(32, 32)[np.newaxis]
    if name == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(folder / "model.onnx")
        twice = {"images": np.concatenate([image] * 2)}
        labels, logits = session.run(["labels", "logits"], twice)
        assert (labels.shape, logits.shape) == ((2, 32, 32), (2, 32, 32, 6))
        assert (labels.dtype, logits.dtype) == (np.uint8, np.float32)
        return
    interpreter = tf.lite.Interpreter(str(folder / "model.tflite"))
    runner = interpreter.get_signature_runner("serving_default")
    taken, given = runner.get_input_details(), runner.get_output_details()
    assert list(taken) == ["images"]
    assert taken["images"]["dtype"] is np.uint8
    assert taken["images"]["shape"].tolist() == [1, 32, 32, 3]
    integers = name == "tflite_int8"
    assert taken["images"]["quantization"] == ((1, 0) if integers else (0, 0))
    assert given["logits"]["dtype"] is (np.int8 if integers else np.float32)
    found = runner(images=image)
    assert (found["labels"].shape, found["labels"].dtype) == ((1, 32, 32), np.uint8)
    np.testing.assert_array_equal(found["labels"], found["logits"].argmax(-1))


def test_int8_computes_in_integers_throughout(converted: tuple[str, Path]) -> None:
    name, folder = converted
    if name != "tflite_int8":
        pytest.skip(f"{name} computes in floating point")
    interpreter = tf.lite.Interpreter(str(folder / "model.tflite"))
    kinds = {x["dtype"] for x in interpreter.get_tensor_details()}
    assert kinds <= {np.uint8, np.int8, np.int32, np.int64}


def test_the_saved_model_stays_when_other_formats_come(
    exported: Path, converted: tuple[str, Path]
) -> None:
    told = json.loads((exported / "agreement.json").read_text())
    assert (told["format"], told["equal"], told["images"]) == ("saved_model", 1, 3)
    assert (exported / "classes.json").exists()
    assert (exported / "saved_model.pb").exists()


def test_a_model_of_low_precision_is_converted_in_float32(run_dir: Path) -> None:
    spec = json.loads((run_dir / "model.json").read_text())
    spec = ModelSpec(**{**spec, "precision": "bfloat16"})
    model = build_model(spec)
    network, image = formats.Network(model, spec), photo(32, 32)[np.newaxis]
    assert {layer.compute_dtype for layer in network.model.layers} == {"float32"}
    found = network.serve(image)["logits"].numpy()
    own = model(image.astype(np.float32)).numpy()
    assert 0 < np.abs(found - own).max() < 0.1 * np.abs(own).max()


def test_a_run_that_does_not_know_how_often_classes_occur_cannot_lift_them(
    run_dir: Path, tmp_path: Path
) -> None:
    spec = json.loads((run_dir / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**spec, "class_shares": None}))
    message = r"^--logit_adjustment=0\.5: .*model\.json has no class_shares"
    with pytest.raises(SeamlineError, match=message):
        state.load_model(str(tmp_path), logit_adjustment=0.5)


@pytest.mark.parametrize("name", ["tflite", "onnx"])
def test_the_tutorials_network_is_converted(run_dir: Path, name: str) -> None:
    """Its decoder takes features that get no gradient by a layer of our own."""
    spec = ModelSpec.from_json((run_dir / "model.json").read_text())
    plain = {"test_scale": 1.0, "logit_adjustment": 0.0, "decoder": "pix2pix"}
    spec = dataclasses.replace(spec, encoder_training="frozen", **plain)
    model, wanted = build_model(spec), formats.FORMATS[name]
    kinds = {type(layer).__name__ for layer in model.layers}
    assert "LightTranspose" in kinds
    content = wanted.convert(formats.Network(model, spec), lambda: np.zeros(0))
    image = photo(32, 32)
    logits = model(image[np.newaxis].astype(np.float32), training=False)[0]
    found = wanted.load(content)(image)
    assert np.mean(found == np.argmax(logits, axis=-1)) > 0.99


@pytest.mark.parametrize("decoder", DECODERS)
def test_offsets_of_logits_become_a_part_of_the_converted_head(
    run_dir: Path, decoder: str
) -> None:
    spec = ModelSpec.from_json((run_dir / "model.json").read_text())
    spec = dataclasses.replace(spec, decoder=decoder, logit_adjustment=2.0)
    model, image = build_model(spec), photo(32, 32)[np.newaxis]
    network = formats.Network(model, spec)
    kinds = {type(layer).__name__ for layer in network.model.layers}
    assert "LogitAdjustment" not in kinds
    expected = model(image.astype(np.float32)).numpy()
    np.testing.assert_allclose(network.serve(image)["logits"], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("number", "name"), [(0, "saved_model"), (1, "tflite")], ids=["python", "tflite"]
)
def test_documented_examples_run(
    number: int,
    name: str,
    run_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = (ROOT / "docs" / "export.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    folder = formats.export_run(run_dir=str(run_dir), records_dir=None, name=name)
    program = blocks[number].replace(f"runs/first/{Path(folder).name}", folder)
    assert folder in program
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", tf.lite)
    monkeypatch.setitem(sys.modules, "ai_edge_litert", tf)
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("photo.jpg", photo(50, 80))
    found: dict[str, np.ndarray] = {}
    exec(program, found)
    assert found["labels"].shape == (50, 80)
    assert len(blocks) == 2
    if name == "saved_model":
        assert cv2.imread("labels.png").shape == (50, 80, 3)


# Agreement


def test_agreement_counts_pixels_over_photos_of_all_sizes() -> None:
    some = [np.zeros(size, np.uint8) for size in ((2, 5, 3), (10, 3, 3), (2, 5, 3))]

    def theirs(picture: np.ndarray) -> np.ndarray:
        labels = picture[..., 0].copy()
        labels[0, 0] = 1
        return labels

    found = agreement.count(some, lambda picture: picture[..., 0], theirs)
    assert found == agreement.Agreement(3, 2, 50, 47 / 50)


def test_a_single_other_pixel_is_never_rounded_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = agreement.Agreement(50, 9, 10**7, 1 - 1e-7)
    with caplog.at_level(logging.INFO, "seamline"):
        agreement.write(str(tmp_path), "tflite", found)
    assert "Export: tflite, 99.999 % of 10000000 pixels" in caplog.text


@pytest.mark.parametrize(("count", "most", "first"), [(3, 50, [0, 1, 2]), (0, 5, [])])
def test_few_examples_are_all_taken(count: int, most: int, first: list[int]) -> None:
    assert agreement.spread(count, most).tolist() == first


def test_many_examples_are_spread_over_the_whole_split() -> None:
    numbers = agreement.spread(1000, 50)
    assert (numbers[0], numbers[-1], len(set(numbers))) == (0, 999, 50)


# Wrong use


@pytest.mark.parametrize("package", ["tf2onnx", "onnx", "onnxruntime"])
def test_a_missing_package_is_named_with_the_command_that_brings_it(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in formats.FORMATS["onnx"].packages:
        there = None if name == package else sys.modules["json"]
        monkeypatch.setitem(sys.modules, name, there)
    with pytest.raises(SeamlineError) as caught:
        formats.export_run(run_dir="none", records_dir=None, name="onnx")
    assert caught.value.exit_code == 42
    text = str(caught.value)
    assert text.startswith(f"--format=onnx: the package {package} cannot be imported")
    assert text.endswith("pip install -e '.[onnx]'")
    assert "\n" not in text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--run_dir=none", "--format=coreml"], "--format=coreml: "),
        (["--run_dir=none"], "none is not a run directory; give the --run_dir of"),
        (["--format=tflite"], "--run_dir: not given"),
        (["--run_dir=none", "tflite"], "tflite: not a flag"),
    ],
)
def test_wrong_use_is_one_line(
    arguments: list[str], expected: str, tmp_path: Path
) -> None:
    done = run_command("trainer.export", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (42, "")
    [line] = done.stderr.splitlines()
    assert expected in line
    assert list(tmp_path.iterdir()) == []


def test_records_that_moved_are_named(run_dir: Path, tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    with pytest.raises(SeamlineError, match=f"^--records_dir={gone}: photos to check"):
        formats.export_run(run_dir=str(run_dir), records_dir=gone, name="tflite")
