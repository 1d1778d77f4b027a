"""Named recipes: bundles of defaults, one declaration per knob.

Every field of `Recipe` is a flag of the commands that train (see `trainer.flags`); a
flag that is given overrides the recipe's value. What cannot work is refused in
`recipe_checks`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from trainer import recipe_checks
from trainer.errors import SeamlineError


def _knob(text: str, *choices: str, before: Any = None) -> Any:
    """`before`: what the knob stands at in runs of releases that did not have it."""
    return dataclasses.field(
        metadata={"help": text, "choices": choices, "before": before}
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that shapes a training besides its data, seed and devices."""

    encoder: str = _knob("pretrained network that reads the image; see docs/models.md")
    encoder_weights: str = _knob(
        "imagenet, none, a weights file (local or gs://), or auto: imagenet if it can "
        "be had, else random weights and an encoder that learns in full"
    )
    encoder_training: str = _knob(
        "frozen: the encoder stays as it is; finetune: its kernels learn, its batch "
        "norms stay; full: all of it learns; auto: finetune with given weights, full "
        "with random ones",
        *("auto", "frozen", "finetune", "full"),
    )
    unfreeze_epoch: int = _knob(
        "epochs in which the decoder learns alone, the encoder frozen; then "
        "encoder_training holds"
    )
    encoder_learning_rate_factor: float = _knob(
        "times the learning rate: that of the encoder"
    )
    layer_decay: float = _knob(
        "each of the encoder's five stages learns so many times as fast as the next "
        "deeper one; 1: all alike"
    )
    preprocessing: str = _knob(
        "what the model does with pixels first: encoder: as the encoder was "
        "pretrained; unit: divide by 255, as the tutorial does",
        *("encoder", "unit"),
    )
    decoder: str = _knob(
        "pix2pix: the tutorial's upsampling blocks; lateral: bilinear upsampling and "
        "1x1 lateral connections, about half the time a step",
        *("pix2pix", "lateral"),
        before="pix2pix",
    )
    decoder_dropout: float = _knob(
        "share of channels dropped before the logits while learning", before=0.0
    )
    image_size: int = _knob("height and width of the model's input, a multiple of 32")
    test_scale: float = _knob(
        "how many times larger the network sees photos outside of training, 1..2, to "
        "the nearest multiple of 32; 0: as crops of the augmentation are enlarged on "
        "average, 1.25 for strong",
        before=1.0,
    )
    logit_adjustment: float = _knob(
        "outside of training, lift the logits of each class by so many times -log of "
        "its share of pixels: rare classes are found oftener, also wrongly; 0: off",
        before=0.0,
    )
    batch_size: int = _knob("global batch: examples a step over all replicas")
    accumulate: int = _knob(
        "cut each batch into so many parts that go through the model one after the "
        "other, in less memory; batch norm sees one part at a time"
    )
    epochs: int = _knob("how many times to train, validate, log and save")
    steps_per_epoch: int = _knob("steps an epoch; 0: as many as see all examples once")
    patience: int = _knob(
        "end after so many epochs without a better validation mean IoU; 0: never"
    )
    augment: str = _knob(
        "augmentation policy: none, tutorial, random, strong, or own choice such as "
        "flip=0.5,rotate=10 (see docs/augmentation.md)"
    )
    repeat_threshold: float = _knob(
        "show images of rare classes more often: one that holds a class found in a "
        "share f of the images comes sqrt(repeat_threshold / f) times where that is "
        "more than once; 0: all alike"
    )
    loss: str = _knob(
        "sum of terms joined by +, each with a factor if need be, such as "
        "cross_entropy+0.5*dice: cross_entropy, weighted_cross_entropy, focal, dice, "
        "lovasz; see docs/training.md"
    )
    label_smoothing: float = _knob(
        "share of the truth that all classes have alike, in losses of cross-entropy "
        "and focal; 0: off",
        before=0.0,
    )
    focal_gamma: float = _knob(
        "how little the focal loss counts pixels that are right already; 0: "
        "cross-entropy",
        before=2.0,
    )
    class_weights: str = _knob(
        "how weighted_cross_entropy weighs a class: median: by (median / its share of "
        "pixels) ** class_weight_power; effective: by one over the effective number of "
        "images that hold it",
        *("median", "effective"),
        before="median",
    )
    class_weight_power: float = _knob(
        "how much class_weights=median does; 0: all classes weigh alike"
    )
    class_weight_beta: float = _knob(
        "how much class_weights=effective does; 0: all classes weigh alike, near 1: by "
        "one over the number of images",
        before=0.999,
    )
    class_weight_floor: float = _knob(
        "least weight of a class; 0: no limit", before=0.25
    )
    class_weight_cap: float = _knob("greatest weight of a class", before=8.0)
    optimizer: str = _knob("optimizer", "rmsprop", "adam", "adamw", "sgd")
    learning_rate: float = _knob("learning rate, the highest one of a schedule")
    schedule: str = _knob(
        "course of the learning rate after the warm-up: constant, or down to the floor "
        "at the last step: cosine, polynomial",
        *("constant", "cosine", "polynomial"),
    )
    warmup_steps: int = _knob(
        "steps in which the learning rate rises from a tenth; -1: a twentieth of all "
        "steps, 100 at most, and none for a constant rate"
    )
    schedule_power: float = _knob("power of the polynomial schedule; 1: a line")
    learning_rate_floor: float = _knob("lowest learning rate of a schedule")
    momentum: float = _knob("momentum of sgd")
    nesterov: bool = _knob("Nesterov's momentum for sgd")
    weight_decay: float = _knob("decoupled weight decay of adamw")
    ema: float = _knob(
        "validate, keep and export exponential moving averages of the weights; how "
        "much of the old average each step keeps, such as 0.999; 0: off"
    )
    clip_norm: float = _knob("greatest norm of all gradients together; 0: no limit")
    batch_norm_momentum: float = _knob(
        "how much of the old batch-norm statistics each step keeps"
    )


BEFORE = {
    knob.name: knob.metadata["before"]
    for knob in dataclasses.fields(Recipe)
    if knob.metadata["before"] is not None
}
"""Knobs that older releases did not have -> where they stand in runs of those."""

_DEFAULT = Recipe(
    encoder="densenet121",
    encoder_weights="auto",
    encoder_training="auto",
    unfreeze_epoch=0,
    # The decoder starts from nothing and wants more than what is pretrained bears.
    encoder_learning_rate_factor=0.3,
    layer_decay=1.0,
    preprocessing="encoder",
    decoder="lateral",
    decoder_dropout=0.0,
    image_size=128,
    test_scale=0.0,
    logit_adjustment=0.1,
    batch_size=8,
    accumulate=1,
    epochs=50,
    steps_per_epoch=0,
    patience=0,
    augment="strong",
    repeat_threshold=0.0,
    loss="weighted_cross_entropy+dice",
    label_smoothing=0.0,
    focal_gamma=2.0,
    class_weights="median",
    class_weight_power=0.35,
    class_weight_beta=0.999,
    class_weight_floor=0.25,
    class_weight_cap=8.0,
    optimizer="adamw",
    learning_rate=1.4e-3,
    schedule="cosine",
    warmup_steps=-1,
    schedule_power=1.0,
    learning_rate_floor=0.0,
    momentum=0.9,
    nesterov=False,
    weight_decay=0.05,
    ema=0.998,
    clip_norm=1.0,
    # Statistics kept at 0.99 need some 500 steps to forget their start; a short run on
    # a small set has 100.
    batch_norm_momentum=0.9,
)

RECIPES = {
    "default": _DEFAULT,
    # The article's own values: "Getting Started With Semantic Segmentation Using
    # TensorFlow Keras"; 12 steps are 800 // 64 of its training photos.
    "tutorial": dataclasses.replace(
        _DEFAULT,
        encoder_training="frozen",
        encoder_learning_rate_factor=1.0,
        preprocessing="unit",
        decoder="pix2pix",
        decoder_dropout=0.0,
        test_scale=1.0,
        logit_adjustment=0.0,
        batch_size=64,
        steps_per_epoch=12,
        augment="tutorial",
        loss="cross_entropy",
        optimizer="rmsprop",
        learning_rate=1e-3,
        schedule="constant",
        weight_decay=0.0,
        ema=0.0,
        clip_norm=0.0,
        batch_norm_momentum=0.99,
    ),
}


def resolve(name: str, overrides: dict[str, Any]) -> Recipe:
    """The recipe of that name with `overrides` (None: keep the recipe's value).

    Raises:
      SeamlineError: an unknown recipe or a value that cannot work.
    """
    if name not in RECIPES:
        raise SeamlineError(
            f"--recipe={name}: no such recipe; choose one of {', '.join(RECIPES)}"
        )
    given = {knob: value for knob, value in overrides.items() if value is not None}
    recipe = dataclasses.replace(RECIPES[name], **given)
    recipe_checks.check(recipe)
    changed = [x for x in given if given[x] not in (0, getattr(RECIPES[name], x))]
    recipe_checks.refuse_idle(recipe, changed)
    return recipe
