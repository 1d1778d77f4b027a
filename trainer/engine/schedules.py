"""Optimizers and the course of their learning rate."""

from __future__ import annotations

import keras

from trainer.errors import SeamlineError


def build_optimizer(
    name: str,
    *,
    learning_rate: float,
    schedule: str,
    total_steps: int,
    weight_decay: float,
) -> keras.optimizers.Optimizer:
    """A Keras optimizer.

    Args:
      name: rmsprop, adam, adamw or sgd (momentum 0.9).
      learning_rate: constant, or the highest of the schedule.
      schedule: "constant"; or "cosine": from a tenth up over the first twentieth of
        the steps (100 at most), then down to zero at the last along half a cosine
        (Loshchilov, Hutter, "SGDR", 2017).
      total_steps: of the whole training.
      weight_decay: of adamw, on kernels only.

    Raises:
      SeamlineError: an unknown name.
    """
    rate = learning_rate
    if schedule == "cosine":
        warm = min(max(total_steps // 20, 1), 100)
        rate = keras.optimizers.schedules.CosineDecay(
            learning_rate / 10,
            decay_steps=max(total_steps - warm, 1),
            warmup_target=learning_rate,
            warmup_steps=warm,
        )
    if name == "rmsprop":
        return keras.optimizers.RMSprop(rate)
    if name == "adam":
        return keras.optimizers.Adam(rate)
    if name == "sgd":
        return keras.optimizers.SGD(rate, momentum=0.9)
    if name == "adamw":
        optimizer = keras.optimizers.AdamW(rate, weight_decay=weight_decay)
        # Shrinking biases and batch-norm scales only hurts (He et al., "Bag of
        # Tricks", 2019, section 3.1).
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        return optimizer
    raise SeamlineError(f"--optimizer={name}: choose one of rmsprop, adam, adamw, sgd")
