"""The model for other runtimes: TFLite in float16 and int8, ONNX.

These models see photos at the model's size and label them at that size: who runs them
resizes. Each lies in a folder of its own, `classes.json` and `agreement.json` beside
it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import (
    convert_variables_to_constants_v2,
)

from trainer import storage
from trainer.data import examples
from trainer.data.card import Card, read_card
from trainer.data.images import resize_image
from trainer.engine import runs, state
from trainer.errors import SeamlineError
from trainer.model.stages import head_of
from trainer.model.unet import ModelSpec, as_of_keras, build_model
from trainer.results import agreement
from trainer.results.agreement import Labels
from trainer.results.export import Serving, export_model, write_classes
from trainer.storage import tf_files

_CALIBRATION = 200
_ONNX_PACKAGES = ("tf2onnx", "onnx", "onnxruntime")
_OPSET = 18

Calibration = Callable[[], np.ndarray]
"""Gives training images as the model sees them, uint8 `[N, S, S, 3]`."""


@dataclasses.dataclass(frozen=True)
class _Format:
    """A format.

    Attributes:
      file: name of the model's file.
      convert: network, calibration -> content of that file.
      load: content -> uint8 image `[S, S, 3]` -> uint8 labels `[S, S]`.
      packages: that must be there, none of which Seamline needs otherwise.
    """

    file: str
    convert: Callable[[Network, Calibration], bytes]
    load: Callable[[bytes], Labels]
    packages: tuple[str, ...] = ()


class Network(tf.Module):
    """A model in float32 that gives labels too."""

    def __init__(self, model: keras.Model, spec: ModelSpec) -> None:
        super().__init__()
        self.model, self.size = _for_serving_alone(model, spec), spec.image_size

    def serve(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Images `[B, S, S, 3]` in 0..255 -> `labels` uint8, `logits` float32."""
        logits = self.model(tf.cast(images, tf.float32), training=False)
        labels = tf.argmax(logits, axis=-1, output_type=tf.int32)
        return {"labels": tf.cast(labels, tf.uint8), "logits": logits}

    def traced(self, batch: int | None, dtype: tf.DType) -> Any:
        """`serve` for images of this type, as a `tf.function` of one signature."""
        shape = [batch, self.size, self.size, 3]
        images = tf.TensorSpec(shape, dtype, name="images")
        return tf.function(self.serve, input_signature=[images])


def _for_serving_alone(model: keras.Model, spec: ModelSpec) -> keras.Model:
    """The same of plain layers in float32, its offsets a part of the head's bias.

    These runtimes have no bfloat16 (weights are float32 always). TFLite's converter
    cannot save the gradients of their own that transposed convolutions have, and
    int8 takes the labels from dequantized logits where offsets are added last.
    """
    plain = dataclasses.replace(
        spec, precision="float32", encoder_training="full", logit_adjustment=0.0
    )
    found = as_of_keras(build_model(plain))
    found.set_weights(model.get_weights())
    if spec.logit_offsets:
        # What comes after it, bilinear upsampling at most, keeps constants.
        head_of(found).bias.assign_add(spec.logit_offsets)
    return found


def export_run(
    *,
    run_dir: str,
    records_dir: str | None,
    name: str,
    logit_adjustment: float | None = None,
) -> str:
    """Writes the best model of a run in a format; checks it on validation photos.

    Args:
      run_dir: of the run.
      records_dir: to check on and to calibrate with; None: those it was trained on.
      name: "saved_model" or one of `FORMATS`.
      logit_adjustment: in place of the run's own.

    Returns:
      The folder: `export` in the run directory, `export_` and the format's name for
      others.

    Raises:
      SeamlineError: no such run or records, or a package is missing.
    """
    packages = FORMATS[name].packages if name in FORMATS else ()
    for package in packages:
        _require(package, name)
    tf_files.check(run_dir)
    model, spec = state.load_model(run_dir, logit_adjustment=logit_adjustment)
    records_dir = records_dir or runs.read_config(run_dir)["records_dir"]
    card = _read_card(records_dir)
    photos = agreement.photos_of(records_dir, card)
    if name == "saved_model":
        folder = storage.join(run_dir, "export")
        export_model(model, spec, folder, photos)
        return folder
    folder = storage.join(run_dir, f"export_{name}")
    wanted = FORMATS[name]
    calibration = _calibration_of(records_dir, card, spec.image_size)
    with _quiet():
        content = wanted.convert(Network(model, spec), calibration)
        theirs = wanted.load(content)
    storage.remove_folder(folder)
    storage.make_folder(folder)
    storage.write_bytes(storage.join(folder, wanted.file), content)
    write_classes(folder, spec)
    found = agreement.count(*_at_model_size(model, spec, photos, theirs))
    agreement.write(folder, name, found, *packages)
    return folder


def _read_card(records_dir: str) -> Card:
    try:
        return read_card(records_dir)
    except SeamlineError as error:
        raise SeamlineError(
            f"--records_dir={records_dir}: photos to check the export on are needed "
            f"({error})"
        ) from error


def _require(package: str, name: str) -> None:
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise SeamlineError(
            f"--format={name}: the package {package} cannot be imported ({error}); "
            "pip install -e '.[onnx]'"
        ) from error


def _calibration_of(records_dir: str, card: Card, size: int) -> Calibration:
    """Up to 200 training examples, not augmented."""

    def images() -> np.ndarray:
        train = examples.streamed(records_dir, card, "train", image_size=size)
        return train.fetch(agreement.spread(len(train), _CALIBRATION))[0]

    return images


def _at_model_size(
    model: keras.Model, spec: ModelSpec, photos: list[np.ndarray], theirs: Labels
) -> tuple[list[np.ndarray], Labels, Labels]:
    """Arguments of `agreement.count`: both label photos resized as for the training."""
    ours = Serving(model, spec)

    def shrunk(photo: np.ndarray) -> np.ndarray:
        return resize_image(photo, spec.image_size, spec.image_size)

    return (
        photos,
        lambda photo: ours.serve(shrunk(photo)[np.newaxis])["labels"][0].numpy(),
        lambda photo: theirs(shrunk(photo)),
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what converters note of their own steps off the terminal."""
    logger = logging.getLogger("tf2onnx")
    before = logger.level
    logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # TensorFlow's interpreter is to move to another package; this release has it.
        warnings.filterwarnings("ignore", "(?s).*tf.lite.Interpreter is deprecated")
        yield
    logger.setLevel(before)


def _converter(network: Network, dtype: tf.DType) -> Any:
    function = network.traced(1, dtype)
    # The converter would leave weights as variables that no interpreter fills.
    frozen = convert_variables_to_constants_v2(function.get_concrete_function())
    constant = tf.Module()
    constant.serve = tf.function(
        lambda images: dict(zip(("labels", "logits"), frozen(images), strict=True)),
        input_signature=function.input_signature,
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [constant.serve.get_concrete_function()], constant
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return converter


def _to_float16(network: Network, calibration: Calibration) -> bytes:
    converter = _converter(network, tf.uint8)
    converter.target_spec.supported_types = [tf.float16]
    return converter.convert()


def _to_int8(network: Network, calibration: Calibration) -> bytes:
    """Post-training quantization of weights, by channel, and activations, by tensor.

    Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", 2018.
    """
    images = calibration()
    # The range of these values becomes that of the input: a step of exactly 1.
    images[0, 0, :2] = [[0] * 3, [255] * 3]
    converter = _converter(network, tf.float32)
    converter.representative_dataset = lambda: (
        {"images": image[np.newaxis].astype(np.float32)} for image in images
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.uint8
    converter.inference_output_type = tf.int8
    return converter.convert()


def _load_tflite(content: bytes) -> Labels:
    interpreter = tf.lite.Interpreter(model_content=content)
    run = interpreter.get_signature_runner()
    return lambda image: run(images=image[np.newaxis])["labels"][0]


def _to_onnx(network: Network, calibration: Calibration) -> bytes:
    import tf2onnx

    function = network.traced(None, tf.uint8)
    model, _ = tf2onnx.convert.from_function(
        function, input_signature=function.input_signature, opset=_OPSET
    )
    return model.SerializeToString()


def _load_onnx(content: bytes) -> Labels:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda image: session.run(["labels"], {"images": image[np.newaxis]})[0][0]


FORMATS = {
    "tflite": _Format("model.tflite", _to_float16, _load_tflite),
    "tflite_int8": _Format("model.tflite", _to_int8, _load_tflite),
    "onnx": _Format("model.onnx", _to_onnx, _load_onnx, _ONNX_PACKAGES),
}
"""By name on the command line; the SavedModel is `export_model`'s."""
