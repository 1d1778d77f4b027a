"""The article's script: the peer of `python -m trainer.task --recipe=tutorial`.

    python -m trainer.benchmarks.article --dataset=FOLDER --output=FOLDER ...

Source: "Getting Started With Semantic Segmentation Using TensorFlow Keras". In the
article's order: all photos and masks are read into lists at full size and resized there
one by one, seven augmented copies of the training set are concatenated to it, and Keras
fits a U-Net on them. Nothing of Seamline's input or training is used. The lists live as
long as the script, as they do in the article's notebook.

The network is the one that `trainer.task` trains: the encoder of `keras.applications`,
cut at the same layers, and pix2pix's blocks, which both take from `trainer.model`. So
are six of the seven ops; cropped masks are resized bilinearly, as the article has it.

What differs from the article, and why:

- Photos and masks are those of a folder in CCP's layout, not 1000 known by number; JPEG
  files are decoded by OpenCV, `.mat` files by SciPy.
- The split is scikit-learn's `train_test_split`, spelled out: that is no dependency.
- Encoder, weights, size, batch, steps and epochs are arguments, for equal terms.
- Each epoch validates on all validation photos, as `trainer.task` does; the article
  leaves out those that do not fill a batch.
- Where there is a GPU, Keras of today compiles the step by XLA; the article's did not.
- A seed is set. Nothing is plotted. The model is saved, so that it outlives the script.
"""

from __future__ import annotations

import argparse
import glob
import math
import os
from collections.abc import Sequence
from typing import Any

import cv2
import keras
import numpy as np
import scipy.io
import tensorflow as tf

from trainer.data import tutorial_ops
from trainer.data.tutorial_ops import Pair
from trainer.model import decoders, encoders

TRAINED = "The model is trained"
"""What is printed then; `fit` itself may return up to a minute later, see `steps._fit`.
"""

LABELS_FILE = "labels.npz"
"""In the output folder: `ids`, strings `[N]`, and `labels`, uint8 `[N, S, S]`: what the
model says of the validation photos, as the script reads and resizes them."""

_SHUFFLE_BUFFER = 1000


def read_pairs(folder: str) -> tuple[list[str], list[tf.Tensor], list[tf.Tensor]]:
    """Names, photos and masks, at full size.

    Returns:
      Names in order; photos uint8 `[H, W, 3]` RGB; masks uint8 `[H, W]`.
    """
    names, images, masks = [], [], []
    for path in sorted(glob.glob(f"{folder}/annotations/pixel-level/*.mat")):
        name = os.path.splitext(os.path.basename(path))[0]
        photo = cv2.imread(f"{folder}/photos/{name}.jpg")
        names.append(name)
        images.append(tf.convert_to_tensor(cv2.cvtColor(photo, cv2.COLOR_BGR2RGB)))
        masks.append(tf.convert_to_tensor(scipy.io.loadmat(path)["groundtruth"]))
    return names, images, masks


def resize_image(image: tf.Tensor, size: int) -> tf.Tensor:
    """uint8 `[H, W, 3]` in 0..255 -> float32 `[S, S, 3]` in 0..1."""
    return tf.image.resize(tf.cast(image, tf.float32) / 255.0, (size, size))


def resize_mask(mask: tf.Tensor, size: int) -> tf.Tensor:
    """uint8 `[H, W]` -> uint8 `[S, S, 1]`, bilinearly, which invents labels."""
    mask = tf.image.resize(tf.expand_dims(mask, axis=-1), (size, size))
    return tf.cast(mask, tf.uint8)


def crop(image: tf.Tensor, mask: tf.Tensor) -> Pair:
    """The central 0.7 of height and width, enlarged to the old size."""
    size = image.shape[:2]
    image = tf.image.resize(tf.image.central_crop(image, 0.7), size)
    mask = tf.image.resize(tf.image.central_crop(mask, 0.7), size)
    return image, tf.cast(mask, tf.uint8)


AUGMENTATIONS = (
    tutorial_ops.brightness,
    tutorial_ops.gamma,
    tutorial_ops.hue,
    crop,
    tutorial_ops.flip_horizontal,
    tutorial_ops.flip_vertical,
    tutorial_ops.rotate,
)


def augmented(train: tf.data.Dataset) -> tf.data.Dataset:
    """All pairs as they are, then all of them by each of the seven ops in turn."""
    copies = [train.map(op) for op in AUGMENTATIONS]
    for copy in copies:
        train = train.concatenate(copy)
    return train


def split(count: int, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Numbers of (train, val), in scikit-learn's order."""
    order = np.random.RandomState(seed).permutation(count).tolist()
    held_out = math.ceil(fraction * count)
    return order[held_out:], order[:held_out]


def pairs_of(
    images: Sequence[tf.Tensor], masks: Sequence[tf.Tensor], numbers: Sequence[int]
) -> tf.data.Dataset:
    """The pairs with these numbers, in their order."""
    return tf.data.Dataset.zip(
        tf.data.Dataset.from_tensor_slices([images[number] for number in numbers]),
        tf.data.Dataset.from_tensor_slices([masks[number] for number in numbers]),
    )


def build_unet(encoder: str, weights: str, size: int, classes: int) -> keras.Model:
    """float32 `[B, S, S, 3]` in 0..1 -> logits; the encoder is frozen."""
    down = encoders.build_encoder(encoder, image_size=size, weights=weights)
    down.trainable = False
    inputs = keras.Input((size, size, 3))
    skips = down(inputs)
    missing = [None] * (5 - len(skips))
    outputs = decoders.pix2pix(
        [*missing, *skips], classes=classes, momentum=0.99, dropout=0.0
    )
    return keras.Model(inputs, outputs)


def main(
    *,
    dataset: str,
    output: str,
    encoder: str,
    encoder_weights: str,
    image_size: int,
    batch_size: int,
    steps_per_epoch: int,
    epochs: int,
    split_fraction: float,
    split_seed: int,
    seed: int,
) -> None:
    """The script: raw files in, a trained model out; see `LABELS_FILE`."""
    keras.utils.set_random_seed(seed)
    classes = scipy.io.loadmat(f"{dataset}/label_list.mat")["label_list"].size
    unet = build_unet(encoder, encoder_weights, image_size, classes)

    names, images, masks = read_pairs(dataset)
    small_images = [resize_image(image, image_size) for image in images]
    small_masks = [resize_mask(mask, image_size) for mask in masks]

    train_numbers, val_numbers = split(len(names), split_fraction, split_seed)
    train = augmented(pairs_of(small_images, small_masks, train_numbers))
    train = train.cache().shuffle(_SHUFFLE_BUFFER).batch(batch_size).repeat()
    train = train.prefetch(tf.data.AUTOTUNE)
    val = pairs_of(small_images, small_masks, val_numbers).batch(batch_size)

    unet.compile(
        optimizer=keras.optimizers.RMSprop(learning_rate=0.001),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    unet.fit(
        train,
        validation_data=val,
        steps_per_epoch=steps_per_epoch,
        epochs=epochs,
        verbose=2,
        callbacks=[
            keras.callbacks.LambdaCallback(
                on_train_end=lambda logs: print(TRAINED, flush=True)
            )
        ],
    )
    os.makedirs(output)
    unet.save(f"{output}/unet.keras")

    labels = [unet.predict_on_batch(batch).argmax(axis=-1) for batch, _ in val]
    np.savez(
        f"{output}/{LABELS_FILE}",
        ids=[names[number] for number in val_numbers],
        labels=np.concatenate(labels).astype(np.uint8),
    )


def _arguments() -> dict[str, Any]:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("dataset", "output", "encoder", "encoder_weights"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("image_size", "batch_size", "steps_per_epoch", "epochs"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--split_fraction", type=float, required=True)
    parser.add_argument("--split_seed", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    return vars(parser.parse_args())


if __name__ == "__main__":
    main(**_arguments())
