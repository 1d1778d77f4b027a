"""Optimizers and the course of their learning rate."""

from __future__ import annotations

import math

import keras
import tensorflow as tf

from trainer.engine import optimizers
from trainer.engine.optimizers import Rates
from trainer.errors import SeamlineError

SCHEDULES = ("constant", "cosine", "polynomial")


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """From a tenth up over the warm-up, then along a curve down to the floor.

    With f the share of the steps after the warm-up that are done, the rate is
    `peak * (floor / peak + (1 - floor / peak) * shape(f))`, where `shape` is

    - constant: 1
    - cosine: `(1 + cos(pi f)) / 2` (Loshchilov, Hutter, "SGDR", 2017)
    - polynomial: `(1 - f) ** power` (Liu, Rabinovich, Berg, "ParseNet", 2015)

    The warm-up is linear (Goyal et al., "Accurate, Large Minibatch SGD", 2017).

    Args:
      name: one of `SCHEDULES`.
      peak: highest learning rate, reached at the end of the warm-up.
      floor: lowest learning rate after it, reached at the last step.
      power: of the polynomial.
      warmup_steps: steps of the warm-up.
      total_steps: of the whole training.
    """

    def __init__(
        self,
        name: str,
        *,
        peak: float,
        floor: float = 0.0,
        power: float = 1.0,
        warmup_steps: int,
        total_steps: int,
    ) -> None:
        self.name, self.peak, self.floor, self.power = name, peak, floor, power
        self.warmup_steps = warmup_steps
        self.decay_steps = max(total_steps - warmup_steps, 1)

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Finished steps, an integer scalar -> the rate of the next, float32."""
        step = tf.cast(step, tf.float32)
        peak, start = tf.constant(self.peak), tf.constant(self.peak / 10)
        warm = tf.cast(self.warmup_steps, tf.float32)
        rising = (peak - start) * tf.math.divide_no_nan(step, warm) + start
        done = tf.minimum((step - warm) / self.decay_steps, 1.0)
        lowest = self.floor / self.peak
        falling = peak * ((1 - lowest) * self._shape(done) + lowest)
        return tf.where(step < warm, rising, falling)

    def _shape(self, done: tf.Tensor) -> tf.Tensor:
        if self.name == "constant":
            return tf.ones_like(done)
        if self.name == "cosine":
            return 0.5 * (1.0 + tf.cos(tf.constant(math.pi) * done))
        return (1 - done) ** self.power


def build_schedule(
    name: str,
    *,
    learning_rate: float,
    floor: float = 0.0,
    power: float = 1.0,
    warmup_steps: int = -1,
    total_steps: int,
) -> float | Schedule:
    """A number for a rate that never changes, else a `Schedule`.

    Args:
      name: one of `SCHEDULES`.
      learning_rate: the highest.
      floor: the lowest.
      power: of the polynomial.
      warmup_steps: -1: none for a constant rate; for others a twentieth of all steps,
        1 to 100 of them.
      total_steps: of the whole training.

    Raises:
      SeamlineError: a warm-up that does not end.
    """
    if warmup_steps < 0:
        usual = min(max(total_steps // 20, 1), 100)
        warmup_steps = 0 if name == "constant" else usual
    elif warmup_steps >= total_steps:
        raise SeamlineError(
            f"--warmup_steps={warmup_steps}: the training has {total_steps} steps in "
            "all; give fewer"
        )
    if name == "constant" and not warmup_steps:
        return learning_rate
    return Schedule(
        name,
        peak=learning_rate,
        floor=floor,
        power=power,
        warmup_steps=warmup_steps,
        total_steps=total_steps,
    )


def build_optimizer(
    name: str,
    *,
    learning_rate: float,
    schedule: str,
    total_steps: int,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    nesterov: bool = False,
    floor: float = 0.0,
    power: float = 1.0,
    warmup_steps: int = -1,
    rates: Rates | None = None,
    loss_scaling: bool = False,
) -> keras.optimizers.Optimizer:
    """A Keras optimizer.

    Args:
      name: rmsprop, adam, adamw or sgd.
      learning_rate, schedule, total_steps, floor, power, warmup_steps: see
        `build_schedule`.
      weight_decay: of adamw, on kernels only (Loshchilov, Hutter, "Decoupled Weight
        Decay Regularization", 2019).
      momentum, nesterov: of sgd (Sutskever et al., "On the importance of
        initialization and momentum in deep learning", 2013).
      rates: of each variable; None: all learn alike.
      loss_scaling: scale the loss so that float16 gradients neither vanish nor
        overflow; a step whose gradients overflow moves nothing (Micikevicius et al.,
        "Mixed Precision Training", 2018).

    Raises:
      SeamlineError: an unknown name, or a warm-up that does not end.
    """
    rate = build_schedule(
        schedule,
        learning_rate=learning_rate,
        floor=floor,
        power=power,
        warmup_steps=warmup_steps,
        total_steps=total_steps,
    )
    optimizer = _named(name, rate, weight_decay, momentum, nesterov)
    optimizer.rates = rates
    return keras.optimizers.LossScaleOptimizer(optimizer) if loss_scaling else optimizer


def _named(
    name: str,
    rate: float | Schedule,
    weight_decay: float,
    momentum: float,
    nesterov: bool,
) -> keras.optimizers.Optimizer:
    if name == "rmsprop":
        return optimizers.RMSprop(rate)
    if name == "adam":
        return optimizers.Adam(rate)
    if name == "sgd":
        return optimizers.SGD(rate, momentum=momentum, nesterov=nesterov)
    if name == "adamw":
        optimizer = optimizers.AdamW(rate, weight_decay=weight_decay)
        # Shrinking biases and batch-norm scales only hurts (He et al., "Bag of
        # Tricks", 2019, section 3.1).
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        return optimizer
    raise SeamlineError(f"--optimizer={name}: choose one of rmsprop, adam, adamw, sgd")
