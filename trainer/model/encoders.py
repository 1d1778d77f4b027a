"""Registered encoders: found by name, given weights, cut at their skips."""

from __future__ import annotations

import difflib
import os
import tempfile

import keras

from trainer import storage
from trainer.errors import SeamlineError, Unavailable
from trainer.model.registry import ENCODERS, Encoder
from trainer.storage import network

# Of an HDF5 file, and of the zip that a .keras file is.
_STARTS = (b"\x89HDF\r\n\x1a\n", b"PK")
_WEIGHTS_HOST = "https://storage.googleapis.com"


def find(name: str) -> Encoder:
    """The registered encoder.

    Raises:
      SeamlineError: no encoder of that name.
    """
    if name not in ENCODERS:
        close = difflib.get_close_matches(name.lower(), ENCODERS, n=5)
        choices = ", ".join(dict.fromkeys([*close, *ENCODERS]))
        raise SeamlineError(
            f"--encoder={name}: no such encoder; choose one of {choices}"
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
      SeamlineError: a weights file that is not there, or is none.
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
    if weights not in ("imagenet", "none"):
        _check_file(weights)
    return weights


def _check_file(path: str) -> None:
    """A weights file that Keras could have written; its tensors are read much later."""
    fault = None
    if not storage.exists(path):
        fault = "no such file"
    elif not storage.read_range(path, 0, 8).startswith(_STARTS):
        fault = "neither an HDF5 nor a .keras file, as Keras writes them"
    if fault:
        raise SeamlineError(
            f"--encoder_weights={path}: {fault}; give imagenet, none, auto or a Keras "
            "weights file without the top"
        )


def build_encoder(name: str, *, image_size: int, weights: str) -> keras.Model:
    """The encoder with outputs float `[B, S/2^k, S/2^k, C_k]` for k = 1..5.

    A network that steps over stride 2 has no output for k = 1.

    Args:
      name: a key of `ENCODERS`.
      image_size: S, height and width of the input, a multiple of 32.
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
    layers = _layers(base)
    for layer in layers.values():
        if isinstance(layer, keras.layers.Dropout):
            # EfficientNet's stochastic depth. Its masks are in no checkpoint, so a run
            # that was interrupted would not get the weights of one that was not.
            layer.rate = 0.0
    skips = {2**k: skip for k, skip in enumerate(encoder.skips, 1) if skip}
    outputs = [layers[skip].output for skip in skips.values()]
    sizes = [image_size / stride for stride in skips]
    if [x.shape[1] for x in outputs] != sizes or [x.shape[2] for x in outputs] != sizes:
        raise AssertionError(f"{name}: skips {[x.shape for x in outputs]}, not {sizes}")
    start = layers[encoder.first].input if encoder.first else base.input
    return keras.Model(start, outputs, name=name)


def _layers(network: keras.Model) -> dict[str, keras.Operation]:
    """Layers by the names that they have in a process that has built nothing else.

    Keras numbers unnamed layers over all that a process builds: "activation_41".
    """
    named: dict[str, keras.Operation] = {}
    unnamed: dict[str, dict[int, keras.Operation]] = {}
    for layer in network.operations:
        stem, _, number = layer.name.rpartition("_")
        kind, place = (stem, int(number)) if number.isdigit() else (layer.name, 0)
        if kind.replace("_", "") == type(layer).__name__.lower():
            unnamed.setdefault(kind, {})[place] = layer
        else:
            named[layer.name] = layer
    for kind, layers in unnamed.items():
        for place, number in enumerate(sorted(layers)):
            named[f"{kind}_{place}" if place else kind] = layers[number]
    return named


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
