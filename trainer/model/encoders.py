"""Encoder registry: name -> constructor, preprocessing, skip layers by name."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable

import keras

from trainer import storage
from trainer.errors import SeamlineError, Unavailable
from trainer.storage import network

_WEIGHTS_HOST = "https://storage.googleapis.com"

# keras.applications.imagenet_utils.preprocess_input, as (scale, offset) of x in 0..255:
# mode "torch": x / 255, then (x - mean) / std of ImageNet; mode "tf": -1..1.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_TORCH = (
    [1 / 255 / std for std in _STD],
    [-mean / std for mean, std in zip(_MEAN, _STD, strict=True)],
)
_TF = (1 / 127.5, -1.0)


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A classification network of `keras.applications` used as an encoder.

    Attributes:
      constructor: takes `include_top`, `weights`, `input_shape`.
      skips: names of the layers at strides 2, 4, 8, 16, 32.
      rescaling: (scale, offset) that maps 0..255 to what the network was trained on.
      weights_file: how Keras names the cached ImageNet weights without the top;
        `{size}` is the input size they were trained at.
    """

    constructor: Callable[..., keras.Model]
    skips: tuple[str, ...]
    rescaling: tuple[float | list[float], float | list[float]]
    weights_file: str


ENCODERS = {
    "densenet121": Encoder(
        keras.applications.DenseNet121,
        ("conv1_relu", "pool2_relu", "pool3_relu", "pool4_relu", "relu"),
        _TORCH,
        "densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5",
    ),
    "mobilenetv2": Encoder(
        keras.applications.MobileNetV2,
        (
            "block_1_expand_relu",
            "block_3_expand_relu",
            "block_6_expand_relu",
            "block_13_expand_relu",
            "block_16_project",
        ),
        _TF,
        "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_{size}_no_top.h5",
    ),
}


def find(name: str) -> Encoder:
    """The registered encoder.

    Raises:
      SeamlineError: no encoder of that name.
    """
    if name not in ENCODERS:
        raise SeamlineError(
            f"--encoder={name}: no such encoder; choose one of {', '.join(ENCODERS)}"
        )
    return ENCODERS[name]


def _cache_folder() -> str:
    """Where Keras keeps downloaded weights (its documented `KERAS_HOME`)."""
    home = os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras")
    return os.path.join(home, "models")


def _baked(name: str) -> str | None:
    """ImageNet weights that the container image brings along, see docker/."""
    folder = os.environ.get("SEAMLINE_WEIGHTS")
    path = os.path.join(folder, f"{name}.weights.h5") if folder else ""
    return path if os.path.exists(path) else None


def imagenet_available(name: str, *, image_size: int) -> bool:
    """True when the weights are here or their host can be reached."""
    if _baked(name):
        return True
    # keras.applications.MobileNetV2 has weights for these sizes, 224 serves others.
    size = image_size if image_size in (96, 128, 160, 192, 224) else 224
    file = find(name).weights_file.format(size=size)
    if os.path.exists(os.path.join(_cache_folder(), file)):
        return True
    return storage.reachable(_WEIGHTS_HOST)


def resolve_weights(name: str, weights: str, *, image_size: int) -> str:
    """`weights` with "auto" settled as "imagenet" or "none".

    Args:
      name: a key of `ENCODERS`.
      weights: "auto", "imagenet", "none" or a weights file.
      image_size: height and width of the model's input.

    Raises:
      SeamlineError: a weights file that is not there.
      Unavailable: "imagenet" is not at hand and its host cannot be reached.
    """
    find(name)
    if weights == "auto":
        found = imagenet_available(name, image_size=image_size)
        return "imagenet" if found else "none"
    if weights == "imagenet" and not imagenet_available(name, image_size=image_size):
        raise Unavailable(
            f"--encoder_weights=imagenet: the weights of {name} are not in "
            f"{_cache_folder()} and {_WEIGHTS_HOST} cannot be "
            "reached; connect, give a weights file, or use --encoder_weights=none"
        )
    if weights not in ("imagenet", "none") and not storage.exists(weights):
        raise SeamlineError(
            f"--encoder_weights={weights}: no such file; give imagenet, none, auto or "
            "a Keras weights file without the top"
        )
    return weights


def build_encoder(name: str, *, image_size: int, weights: str) -> keras.Model:
    """The encoder with five outputs, float `[B, S/2^k, S/2^k, C_k]` for k = 1..5.

    Args:
      name: a key of `ENCODERS`.
      image_size: S, height and width of the input.
      weights: "imagenet", "none" or a weights file, local or remote.

    Raises:
      SeamlineError: the weights do not fit or cannot be had.
      Unavailable: their host does not answer.
    """
    encoder = find(name)
    # Keras raises a bare Exception where a download fails.
    try:
        at_hand = _baked(name) if weights == "imagenet" else None
        base = _construct(encoder, image_size, at_hand or weights)
    except SeamlineError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        if network.may_pass(error):
            raise Unavailable(
                f"--encoder_weights={weights}: could not be fetched ({reason}); check "
                "the network and try again"
            ) from error
        raise SeamlineError(
            f"--encoder_weights={weights}: cannot be loaded into {name} ({reason}); "
            "give a Keras weights file of this network without its top"
        ) from error
    outputs = [base.get_layer(skip).output for skip in encoder.skips]
    strides = [image_size // output.shape[1] for output in outputs]
    if strides != [2, 4, 8, 16, 32]:
        raise AssertionError(f"{name}: skip strides {strides}")
    return keras.Model(base.input, outputs, name=name)


def _construct(encoder: Encoder, image_size: int, weights: str) -> keras.Model:
    shape = (image_size, image_size, 3)

    def build(source: str | None) -> keras.Model:
        return encoder.constructor(include_top=False, weights=source, input_shape=shape)

    if weights in ("imagenet", "none"):
        return build(None if weights == "none" else weights)
    if not storage.is_remote(weights):
        return build(weights)
    with tempfile.TemporaryDirectory() as folder:
        local = os.path.join(folder, os.path.basename(weights))
        storage.write_bytes(local, storage.read_bytes(weights))
        return build(local)
