"""The input: decoding, augmentation and all of it, beside a bare warp and a bare copy.

Rates a core are images by the processor time of all threads, so that they do not
depend on how many threads there are.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from trainer import dataset, limits, storage
from trainer.benchmarks import rates
from trainer.benchmarks.measurements import Measurement
from trainer.benchmarks.rates import Rate
from trainer.benchmarks.settings import Settings
from trainer.data import augment, examples, inputs
from trainer.data.card import Card
from trainer.data.examples import Examples
from trainer.data.inputs import Stream
from trainer.limits import Limits

_SECONDS = 1.0
_LATE = 10**6
_GROUPS = {
    "geometry": ("flip", "crop", "scale", "stretch", "rotate"),
    "colour": ("hue", "saturation", "grey"),
    "tone": ("brightness", "contrast", "gamma"),
    "cutout": ("cutout",),
}


def measure(settings: Settings) -> list[Measurement]:
    """Measures the training input of a recipe.

    With records on `gs://` reading them there is measured too, beside a local copy.

    Raises:
      SeamlineError: a value, file or folder that only the user can mend.
    """
    recipe = settings.recipe
    augment.find(recipe.augment)
    use = limits.settle(**settings.input_limits)
    prepared = dataset.prepare(**settings.data)
    card = prepared.card
    assert card is not None, "one host alone always seals"

    def stream(found: Examples, policy: str = recipe.augment) -> Stream:
        return inputs.build_stream(
            found,
            policy=policy,
            repeat_threshold=recipe.repeat_threshold,
            batch_size=recipe.batch_size,
            seed=settings.seed,
            limits=use.left(found.held),
        )

    rows = []
    with _places(prepared.records_dir, card) as places:
        for name, records_dir in places.items():
            found = examples.streamed(
                records_dir, card, "train", image_size=recipe.image_size
            )
            rows += _road(name, stream(found, "none"), stream(found), recipe.augment)
        held = _held(places["streamed"], card, recipe.image_size, use)
    plain, full = stream(held, "none"), stream(held)
    rows += _road("memory", plain, full, recipe.augment)
    rows += _beside_references(full, settings.repeats)
    rows += _starts(full, settings.repeats)
    return [*rows, *_profile(held, stream, recipe.augment)]


@contextlib.contextmanager
def _places(records_dir: str, card: Card) -> Iterator[dict[str, str]]:
    """Where to read records from: a local disk, and the bucket they are in if any."""
    if not storage.is_remote(records_dir):
        yield {"streamed": records_dir}
        return
    with tempfile.TemporaryDirectory(prefix="seamline-") as folder:
        yield {"streamed": dataset.stage(records_dir, folder), "gs": records_dir}


def _held(records_dir: str, card: Card, image_size: int, use: Limits) -> Examples:
    [found] = examples.open_splits(
        records_dir, card, ["train"], image_size=image_size, limits=use
    )
    return found


def _road(name: str, plain: Stream, full: Stream, policy: str) -> list[Measurement]:
    """Rates of fetching examples, of augmenting them too, and of the whole pipeline."""
    one, all_threads = "in one thread", f"{full.limits.input_threads} threads"
    stations = {
        "fetch": (_by_hand(plain), f"examples alone, {one}"),
        "fetch_augment": (_by_hand(full), f"augmented by {policy}, {one}"),
        "plain": (_pulls(plain), f"as training gets them, augment none, {all_threads}"),
        "everything": (_pulls(full), f"as training gets them, {policy}, {all_threads}"),
    }
    calls = rates.LONG * rates.made_ahead(full.limits)
    return [
        rates.row(
            f"input.{name}.{station}",
            [rates.measure(work, seconds=_SECONDS, calls=calls)],
            what,
        )
        for station, (work, what) in stations.items()
    ]


def _by_hand(stream: Stream) -> Callable[[], int]:
    """Makes one batch after the other in this thread, without the pipeline."""
    steps = itertools.count()

    def work() -> int:
        numbers, copies = stream.where(next(steps))
        images, masks = stream.examples.fetch(numbers)
        drawn = np.random.default_rng(0).random((len(numbers), stream.policy.amounts))
        stream.policy.apply(
            tf.constant(images),
            tf.constant(masks),
            tf.constant(copies),
            tf.constant(drawn, tf.float32),
        )
        return len(numbers)

    return work


def _pulls(stream: Stream) -> Callable[[], int]:
    """Takes batches from the pipeline, which is at its pace already."""
    batches = iter(stream.batches(0, 1 << 40))

    def work() -> int:
        images, _ = next(batches)
        return int(images.shape[0])

    for _ in range(rates.made_ahead(stream.limits)):
        work()
    return work


def _beside_references(full: Stream, repeats: int) -> list[Measurement]:
    """The input from memory beside TensorFlow's bare warp, and beside a bare copy."""
    works = {
        "everything": _pulls(full),
        "warp": _bare_warp(full),
        "copy": _bare_copy(full),
    }
    found: dict[str, list[Rate]] = {name: [] for name in works}
    # While the others have their turns, the pipeline makes some ahead.
    ahead = rates.made_ahead(full.limits)
    for _ in range(repeats):
        for name, work in works.items():
            rate = rates.measure(work, seconds=_SECONDS, untimed=ahead)
            found[name].append(rate)
    core = sorted(rate.per_core for rate in found["everything"])
    return [
        Measurement(
            "input.images_per_second_per_core",
            core[len(core) // 2],
            "images/s",
            f"from memory, everything; median of {repeats}, {core[0]:,.0f} to "
            f"{core[-1]:,.0f}",
        ),
        rates.row(
            "input.projective_warp",
            found["warp"],
            "ImageProjectiveTransformV3, bilinear, of the images alone",
        ),
        rates.row(
            "input.memory_copy",
            found["copy"],
            "examples gathered and made float32, no more",
        ),
        rates.ratio(
            "input.augmented_vs_plain",
            found["everything"],
            found["warp"],
            "everything from memory / the plain projective warp, a core",
        ),
        rates.ratio(
            "input.augmented_vs_copy",
            found["everything"],
            found["copy"],
            "everything from memory / the memory copy, a core",
        ),
    ]


def _bare_warp(stream: Stream) -> Callable[[], int]:
    images, _ = stream.examples.fetch(stream.where(0)[0])
    count, size, _, _ = images.shape
    floats = tf.constant(images, tf.float32)
    turned = tf.constant([[0.9, -0.05, 3.0, 0.05, 0.9, 3.0, 0.0, 0.0]] * count)

    @tf.function
    def warp() -> tf.Tensor:
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=floats,
            transforms=turned,
            output_shape=[size, size],
            interpolation="BILINEAR",
            fill_mode="CONSTANT",
            fill_value=0.0,
        )

    def work() -> int:
        warp()
        return count

    work()
    return work


def _bare_copy(stream: Stream) -> Callable[[], int]:
    numbers, _ = stream.where(0)

    def work() -> int:
        images, _ = stream.examples.fetch(numbers)
        images.astype(np.float32)
        return len(numbers)

    return work


def _starts(stream: Stream, repeats: int) -> list[Measurement]:
    """Seconds to the first batch at step 0, and at the start of a late epoch."""
    found: dict[int, list[float]] = {0: [], _LATE * stream.steps: []}
    for _ in range(repeats):
        for step, seconds in found.items():
            start = time.perf_counter()
            next(iter(stream.batches(step, step + 1)))
            seconds.append(time.perf_counter() - start)
    early, late = (statistics.median(seconds) for seconds in found.values())
    return [
        Measurement("input.start_seconds", early, "s", "to the first batch of epoch 1"),
        Measurement(
            "input.late_start_seconds", late, "s", f"to that of epoch {_LATE + 1:,}"
        ),
    ]


def _profile(
    held: Examples, stream: Callable[..., Stream], policy: str
) -> list[Measurement]:
    """Microseconds an image takes in each station of a random policy."""
    if policy in ("none", "tutorial"):
        return []
    strengths = augment.parse(policy)
    parts = {"fetch": "none"}
    for group, names in _GROUPS.items():
        parts[group] = ",".join(f"{name}={strengths[name]:g}" for name in names)
    taken = {}
    for name, text in parts.items():
        rate = rates.measure(_pulls(stream(held, text)), seconds=_SECONDS)
        taken[name] = 1e6 / rate.per_core
    rows = []
    for name, microseconds in taken.items():
        own = microseconds - (0 if name == "fetch" else taken["fetch"])
        what = "order, gather, cast" if name == "fetch" else f"more with {parts[name]}"
        rows.append(Measurement(f"input.profile.{name}", own, "us/image", what))
    return rows
