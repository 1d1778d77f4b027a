"""What anyone would write to make one step of a model: the peer of our start-up.

python -m trainer.benchmarks.bare_step --encoder=densenet121 --image_size=128 ...
"""

from __future__ import annotations

import sys

import keras
import tensorflow as tf

from trainer.engine.pace import FIRST_STEP
from trainer.model.unet import ModelSpec, build_model

_CLASSES = 59


def main(
    encoder: str, decoder: str, image_size: int, batch_size: int, optimizer_name: str
) -> None:
    """Builds a U-Net and makes one step on zeros."""
    spec = ModelSpec(
        encoder=encoder,
        encoder_training="full",
        preprocessing="encoder",
        image_size=image_size,
        batch_norm_momentum=0.9,
        precision="float32",
        label_names=[str(label) for label in range(_CLASSES)],
        decoder=decoder,
    )
    model = build_model(spec)
    optimizer = keras.optimizers.get(optimizer_name)
    optimizer.build(model.trainable_variables)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    images = tf.zeros([batch_size, image_size, image_size, 3])
    masks = tf.zeros([batch_size, image_size, image_size], tf.int32)

    @tf.function
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = cross_entropy(masks, model(images, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    print(f"{FIRST_STEP}: loss {float(step()):.3f}", flush=True)


if __name__ == "__main__":
    values = dict(argument[2:].split("=") for argument in sys.argv[1:])
    size, batch = int(values["image_size"]), int(values["batch_size"])
    network = (values["encoder"], values["decoder"])
    main(*network, size, batch, values["optimizer"])
