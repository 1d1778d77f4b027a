"""Data, models, losses and scores for a Keras program; `import trainer` has them all.

What comes out is plain: `tf.data.Dataset`, `keras.Model`, NumPy. Every function names
what it takes from the default recipe; see docs/library.md.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer import dataset as datasets
from trainer import pipeline, scoring
from trainer.data import augment as policies
from trainer.data import inputs
from trainer.data.card import Card
from trainer.data.examples import Examples
from trainer.data.images import resize_image, resize_mask
from trainer.data.inputs import Stream
from trainer.engine import evaluation, options, state
from trainer.engine.job import build_spec
from trainer.engine.keras_metrics import RunningScore
from trainer.model import unet
from trainer.recipes import RECIPES, resolve

log = logging.getLogger("seamline")

_DEFAULT = RECIPES["default"]
_ENDLESS = 2**40
"""Steps; positions in the stream, steps times batch size, are int64."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """Records at a model's size, split in two.

    Attributes:
      records_dir: where they are.
      card: what they hold.
      stream: the training examples in order and augmented.
      val: the validation examples, see `train`.
    """

    records_dir: str
    card: Card
    stream: Stream
    val: Examples

    @property
    def train(self) -> Examples:
        """The training examples as they are.

        `len(...)`, `.ids`, and `.fetch(numbers)` -> images uint8 `[N, S, S, 3]` RGB,
        masks uint8 `[N, S, S]`, where 255 is ignored.
        """
        return self.stream.examples

    @property
    def label_names(self) -> list[str]:
        """Names of label 0, 1, ...; 0 is the background."""
        return self.card.label_names

    @property
    def steps_per_epoch(self) -> int:
        """Batches that see every training example once, with all its copies."""
        return self.stream.steps

    def training_batches(self, start: int = 0) -> tf.data.Dataset:
        """Batch `start` and all that follow: `fit` must be told `steps_per_epoch`.

        Batch k is the same in every process, and the one that step k of `trainer.task`
        sees with the same records, seed and recipe.

        Returns:
          Images float32 `[B, S, S, 3]` RGB in 0..255, masks uint8 `[B, S, S]`.
        """
        return self.stream.batches(start, start + _ENDLESS)

    def validation_batches(self) -> tf.data.Dataset:
        """All validation examples once, in order; the last batch may be smaller.

        Returns:
          Images and masks as `training_batches`, not augmented.
        """
        size, count = self.stream.batch_size, len(self.val)
        filled = inputs.ordered_batches(
            self.val, batch_size=size, limits=self.stream.limits
        )

        def cut(number: tf.Tensor, pair: inputs.Pair) -> inputs.Pair:
            rest = tf.minimum(count - number * size, size)
            return pair[0][:rest], pair[1][:rest]

        return filled.enumerate().map(cut)


def open_data(
    dataset: str = "auto",
    *,
    records_dir: str | None = None,
    image_size: int = _DEFAULT.image_size,
    batch_size: int = _DEFAULT.batch_size,
    augment: str = _DEFAULT.augment,
    seed: int = 0,
    workers: int = 1,
) -> Data:
    """Finds records or makes them, and opens both splits.

    Args:
      dataset: a folder in CCP's layout, "ccp", "sample" or "auto", as the flag.
      records_dir: where records are or go; None: a folder under `records/`.
      image_size: S, a multiple of 32.
      batch_size: B.
      augment: policy of the training batches, see docs/augmentation.md.
      seed: of order and augmentation.
      workers: processes that make records; 0: one a processor. More than one start
        the program anew, which then must be guarded by `if __name__ == "__main__"`.

    Raises:
      SeamlineError: no such dataset, bad pairs, damaged records, or a value that
        cannot work.
    """
    values = {"image_size": image_size, "batch_size": batch_size, "augment": augment}
    recipe = resolve("default", values)
    prepared = datasets.prepare(
        dataset=dataset, records_dir=records_dir, workers=workers
    )
    assert prepared.card is not None, "one host alone always seals"
    if dataset == "auto" and prepared.notice:
        log.warning("Dataset: %s", prepared.notice)
    place = (prepared.records_dir, prepared.card)
    stream, val = pipeline.open_input(recipe, *place, seed, {})
    return Data(records_dir=place[0], card=place[1], stream=stream, val=val)


def build_model(
    encoder: str,
    label_names: list[str],
    *,
    image_size: int = _DEFAULT.image_size,
    encoder_weights: str = _DEFAULT.encoder_weights,
    encoder_training: str = _DEFAULT.encoder_training,
    decoder: str = _DEFAULT.decoder,
    preprocessing: str = _DEFAULT.preprocessing,
    test_scale: float = 1.0,
) -> keras.Model:
    """A U-Net: images float32 `[B, S, S, 3]` in 0..255 -> logits `[B, S, S, C]`.

    What the encoder wants done with pixels first is a part of the model.

    Args:
      encoder: name of a pretrained network, see docs/models.md.
      label_names: C names.
      image_size: S, a multiple of 32.
      encoder_weights: "imagenet", "none", a weights file, or "auto": ImageNet if it can
        be had, else random weights and a warning.
      encoder_training: "frozen", "finetune" (its batch norms stay), "full", or "auto":
        "finetune" with given weights, "full" with random ones.
      decoder: "lateral" or "pix2pix".
      preprocessing: "encoder" or "unit", the tutorial's.
      test_scale: how many times larger the network sees photos without `training`;
        1.25 suits crops of the augmentation `strong`.

    Raises:
      SeamlineError: an unknown name, or weights that do not fit or cannot be had.
    """
    asked = {
        "encoder": encoder,
        "encoder_weights": encoder_weights,
        "encoder_training": encoder_training,
        "decoder": decoder,
        "preprocessing": preprocessing,
        "image_size": image_size,
        "test_scale": test_scale,
    }
    recipe, fallback = pipeline.settle(resolve("default", asked))
    if fallback:
        log.warning("Encoder: %s", fallback)
    spec = build_spec(recipe, label_names, "float32")
    return unet.build_model(spec, encoder_weights=recipe.encoder_weights)


def load_model(run_dir: str) -> tuple[keras.Model, list[str]]:
    """The best model that a run of `trainer.task` has so far, and its label names.

    Raises:
      SeamlineError: not a run directory, or nothing trained in it yet.
    """
    model, spec = state.load_model(run_dir)
    return model, spec.label_names


def build_loss(
    data: Data, loss: str = _DEFAULT.loss
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """A loss for `model.compile`, without the pixels that are labelled 255.

    Class weights are those of the default recipe, from the training examples.

    Args:
      data: says which classes there are, and how often.
      loss: terms joined by "+", see docs/training.md.

    Returns:
      (masks `[B, H, W]`, logits float32 `[B, H, W, C]`) -> float32 scalar, a mean over
      the labelled pixels of the batch.

    Raises:
      SeamlineError: no such loss.
    """
    terms = options.build_loss(resolve("default", {"loss": loss}), data.card)

    def value(masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        # Keras makes floats of masks.
        return terms.value(terms.sums(logits, tf.cast(masks, tf.uint8)))

    return value


def build_metrics(label_names: list[str]) -> list[keras.metrics.Metric]:
    """For `model.compile`: "accuracy", "foreground_accuracy" and "mean_iou".

    Over all batches of an epoch, without the pixels that are labelled 255; see
    docs/scores.md.
    """
    return [RunningScore(name, len(label_names)) for name in RunningScore.NAMES]


def augment_batch(
    images: np.ndarray, masks: np.ndarray, policy: str, *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Augments examples as a training batch is.

    Args:
      images: uint8 `[N, S, S, 3]` RGB.
      masks: uint8 `[N, S, S]`.
      policy: see docs/augmentation.md. Of "tutorial", example i gets op i, the first of
        its eight being none.
      seed: of random policies.

    Returns:
      Images float32 `[N, S, S, 3]`, about 0..255 (the tutorial's brightness is not
      clipped), and masks uint8 `[N, S, S]`.

    Raises:
      SeamlineError: no such policy.
    """
    found, count = policies.find(policy), len(images)
    copies = tf.range(count, dtype=tf.int64) % found.copies
    first = tf.constant(0, tf.int64)
    drawn = inputs.amounts(first, count, found.amounts, seed=seed)
    changed, moved = found.apply(
        tf.convert_to_tensor(images), tf.convert_to_tensor(masks), copies, drawn
    )
    return changed.numpy(), moved.numpy()


def compile_predictor(model: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """Photos uint8 `[N, H, W, 3]` RGB of any size -> labels uint8 `[N, H, W]`.

    As `trainer.predict`: photos are shrunk to the model's size, labels enlarged by
    nearest neighbour. Weights may change between calls.

    Args:
      model: of `build_model` or `load_model`.
    """
    label, size = evaluation.compile_predictor(model), model.input_shape[1]

    def predict(photos: np.ndarray) -> np.ndarray:
        height, width = photos.shape[1:3]
        seen = np.stack([resize_image(photo, size, size) for photo in photos])
        return np.stack([resize_mask(x, height, width) for x in label(seen)])

    return predict


def score_model(model: keras.Model, data: Data) -> dict[str, Any]:
    """Scores on all validation examples: what `scores.json` holds.

    `pixel_accuracy`, `foreground_accuracy`, `mean_iou` and more, `per_class`, the same
    of background everywhere as `background_baseline`, and at the photos' own size as
    `native`; see docs/scores.md.

    Args:
      model: with the classes and the size of `data`.
      data: of `open_data`.
    """
    label = evaluation.compile_predictor(model)

    def predict(photos: np.ndarray) -> evaluation.Labels:
        labels = label(photos)
        return labels, labels

    return scoring.score(predict, data.val, (data.records_dir, data.card, "val"))
