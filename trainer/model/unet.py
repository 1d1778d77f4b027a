"""The U-Net: a registered encoder, and a decoder with connections to its stages."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterator

import keras
import tensorflow as tf

from trainer.model import decoders, encoders
from trainer.model.adjustment import LogitAdjustment, rarity_offsets
from trainer.model.enlarging import Enlarging
from trainer.model.folding import fold_batch_norms
from trainer.model.normalization import FusedBatchNorm, fuse_batch_norms
from trainer.model.stages import encoder_of
from trainer.model.transposed import LightTranspose, lighten_transposes


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """All that is needed to build the same model again; saved as `model.json`.

    `precision` is "float32", "bfloat16" or "float16": what layers compute in, not what
    weights and logits are. On a CPU, convolutions alone compute in bfloat16.
    `test_scale` is how many times larger the network sees photos outside of training;
    `logit_adjustment` is how much it lifts rare classes there, by `class_shares`.
    """

    encoder: str
    encoder_training: str
    preprocessing: str
    image_size: int
    batch_norm_momentum: float
    precision: str
    label_names: list[str]
    # Models saved before there was a choice have these.
    decoder: str = "pix2pix"
    decoder_dropout: float = 0.0
    test_scale: float = 1.0
    logit_adjustment: float = 0.0
    class_shares: list[float] | None = None

    @property
    def seen_size(self) -> int:
        """Height and width of photos inside the network, outside of training."""
        return scaled(self.image_size, self.test_scale)

    @property
    def logit_offsets(self) -> list[float] | None:
        """What is added to the logits of each class outside of training."""
        if not self.logit_adjustment or self.class_shares is None:
            return None
        return rarity_offsets(self.class_shares, self.logit_adjustment)

    @property
    def classes(self) -> int:
        """Number of classes, the channels of the logits."""
        return len(self.label_names)

    def to_json(self) -> str:
        """The specification as JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        """Reads what `to_json` wrote."""
        return cls(**json.loads(text))


def scaled(size: int, scale: float) -> int:
    """So many times a size, as a multiple of 32, which the encoder's strides need."""
    return max(1, math.floor(scale * size / 32 + 0.5)) * 32


def build_model(
    spec: ModelSpec, *, encoder_weights: str = "none", synchronized: bool = False
) -> keras.Model:
    """float32 `[B, S, S, 3]` in 0..255 -> logits float32 `[B, S, S, classes]`.

    What is called without `training` is seen enlarged if there is a `test_scale`, and
    its logits are moved if there are `logit_offsets`.

    Args:
      spec: what to build.
      encoder_weights: "imagenet", "none" or a weights file.
      synchronized: batch norm over the global batch; for more than one replica.

    Raises:
      SeamlineError: an unknown encoder, or weights that do not fit.
    """
    before = keras.config.dtype_policy()
    alone = spec.precision == "bfloat16" and not tf.config.list_physical_devices("GPU")
    whole = "float32" if alone or spec.precision == "float32" else spec.precision
    keras.config.set_dtype_policy(whole if whole == "float32" else f"mixed_{whole}")
    try:
        model = _assemble(spec, encoder_weights)
    finally:
        keras.config.set_dtype_policy(before)
    if alone:
        _convolve_in_bfloat16(model)
    # After the above, which knows layers by their exact type.
    fold_batch_norms(encoder_of(model, spec.encoder))
    fuse_batch_norms(batch_norms(model))
    lighten_transposes(model._flatten_layers())
    if synchronized:
        for layer in batch_norms(model):
            layer.synchronized = True
    return model


def as_of_keras(model: keras.Model) -> keras.Model:
    """Has the layers compute by Keras' own code again; for a spec that learns in full.

    Others have layers with no counterpart, see `folding`.
    """
    kinds = {
        FusedBatchNorm: keras.layers.BatchNormalization,
        LightTranspose: keras.layers.Conv2DTranspose,
    }
    for layer in model._flatten_layers():
        layer.__class__ = kinds.get(type(layer), type(layer))
    return model


def _assemble(spec: ModelSpec, encoder_weights: str) -> keras.Model:
    encoder = encoders.build_encoder(
        spec.encoder, image_size=spec.image_size, weights=encoder_weights
    )
    _set_training(encoder, spec)
    image = keras.Input((spec.image_size, spec.image_size, 3), name="image")
    features = encoder(_preprocess(image, spec))
    logits = decoders.DECODERS[spec.decoder](
        # A network that steps over strides does so at its beginning.
        [*[None] * (5 - len(features)), *features],
        classes=spec.classes,
        momentum=spec.batch_norm_momentum,
        dropout=spec.decoder_dropout,
        frozen=spec.encoder_training == "frozen",
    )
    if spec.precision != "float32":
        logits = keras.layers.Activation("linear", dtype="float32")(logits)
    if spec.logit_offsets:
        logits = LogitAdjustment(spec.logit_offsets, dtype="float32")(logits)
    if spec.seen_size == spec.image_size:
        return keras.Model(image, logits, name="unet")
    encoder.input_spec = None  # It would refuse another size than that it was built at.
    return Enlarging(image, logits, name="unet", seen_size=spec.seen_size)


def _convolve_in_bfloat16(model: keras.Model) -> None:
    """Dense convolutions, which is what CPUs with bfloat16 are faster at.

    In the tutorial's decoder also what lies between them: it goes to such convolutions
    alone, which would round it so, and takes half the memory. docs/benchmarks.md has
    what both gain.
    """
    policy = keras.DTypePolicy("mixed_bfloat16")
    dense = (keras.layers.Conv2D, keras.layers.Conv2DTranspose, LightTranspose)
    found = [x for x in model._flatten_layers() if type(x) in dense]
    for layer in model.layers:
        if isinstance(layer, keras.Sequential):
            found += layer.layers
        elif isinstance(layer, keras.layers.Concatenate):
            found.append(layer)
    for layer in found:
        layer.dtype_policy = policy


def _preprocess(image: keras.KerasTensor, spec: ModelSpec) -> keras.KerasTensor:
    """0..255 as the encoder was pretrained, or as the tutorial has it."""
    encoder = encoders.find(spec.encoder)
    scale, offset = encoder.rescaling
    if spec.preprocessing == "unit":
        scale, offset = 1 / 255, 0.0
    elif encoder.bgr:
        image = keras.ops.flip(image, axis=-1)
    return keras.layers.Rescaling(scale, offset, name="preprocessing")(image)


def batch_norms(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """All batch-norm layers of a model, nested ones too."""
    kind = keras.layers.BatchNormalization
    return [x for x in model._flatten_layers() if isinstance(x, kind)]


@contextlib.contextmanager
def still_batch_norms(model: keras.Model) -> Iterator[None]:
    """Batch norms called meanwhile use their statistics, and do not move them."""
    learning = [x for x in batch_norms(model) if x.trainable]
    for layer in learning:
        layer.trainable = False
    try:
        yield
    finally:
        for layer in learning:
            layer.trainable = True


def _set_training(encoder: keras.Model, spec: ModelSpec) -> None:
    encoder.trainable = spec.encoder_training != "frozen"
    for layer in batch_norms(encoder):
        if spec.encoder_training == "full":
            layer.momentum = spec.batch_norm_momentum
        else:
            # Keras runs an untrainable batch norm on its statistics, even in training.
            layer.trainable = False
