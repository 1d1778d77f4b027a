"""Photos through a model: threads read, decode and write while it runs.

Memory is bounded by pixels: photos on the way hold so many at most, or are alone.
"""

from __future__ import annotations

import collections
import dataclasses
import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from trainer.data.pairs import BadSample, Photo
from trainer.results.photo_files import PhotoFile

_AHEAD_FILES, _AHEAD_BYTES = 32, 64 << 20
_AT_ONCE = 2
"""Batches in the model at once: while operations of one wait for the slowest thread or
cannot be divided, the other's go on. On two cores two gave 1.02 to 1.25 times as many
images a second as one."""


@dataclasses.dataclass(frozen=True)
class Decoded:
    """A photo before its prediction.

    Attributes:
      file: where it came from.
      height, width: of the photo, upright, in pixels.
      picture: uint8 `[height, width, 3]` RGB, or None where nobody needs it any more.
      model_input: uint8 `[h, w, 3]` RGB.
    """

    file: PhotoFile
    height: int
    width: int
    picture: np.ndarray | None
    model_input: np.ndarray


@dataclasses.dataclass(frozen=True)
class Stages:
    """What is done to photos, one stage after the other.

    Attributes:
      read: file -> encoded photo; raises BadSample.
      decode: file, encoded photo -> pixels; raises BadSample.
      label: uint8 `[N, h, w, 3]` -> uint8 labels `[N, h, w]`; called by two threads.
      write: pixels, labels `[h, w]` -> results at their place.
    """

    read: Callable[[PhotoFile], Photo]
    decode: Callable[[PhotoFile, Photo], Decoded]
    label: Callable[[np.ndarray], np.ndarray]
    write: Callable[[Decoded, np.ndarray], None]


class Conveyor:
    """Batches of photos, some at each stage at once.

    Args:
      stages: what is done.
      batch_size: photos that the model gets at once at most.
      threads: that read, decode and write.
      most_pixels: of all photos between decoding and writing together; a larger photo
        is alone.
    """

    def __init__(
        self, stages: Stages, *, batch_size: int, threads: int, most_pixels: int
    ) -> None:
        self._stages, self._batch_size = stages, batch_size
        self._most = most_pixels
        self._pool = ThreadPoolExecutor(threads, "photos")
        self._model = ThreadPoolExecutor(_AT_ONCE, "model")
        self._labelling: collections.deque[Future] = collections.deque()
        self._writing: collections.deque[tuple[int, Future]] = collections.deque()
        self._pixels = 0

    def run(self, files: Iterable[PhotoFile]) -> Iterator[BadSample | None]:
        """Does all photos in order; for each one that is done None, or its problem."""
        # A model is many objects, none of them garbage: looking through them again and
        # again took 0.7 ms of processor time a photo.
        gc.freeze()
        try:
            for group in self._groups(files):
                yield from self._send(group)
            while self._labelling:
                yield from self._pass_on()
            while self._writing:
                self._finish()
                yield None
        finally:
            gc.unfreeze()
            self._pool.shutdown(cancel_futures=True)
            self._model.shutdown(cancel_futures=True)

    def _send(
        self, group: Sequence[tuple[PhotoFile, Photo] | BadSample]
    ) -> Iterator[BadSample | None]:
        """Has a group decoded and labelled, while those before it are on their way."""
        yield from (item for item in group if isinstance(item, BadSample))
        photos = [item for item in group if not isinstance(item, BadSample)]
        pixels = sum(photo.height * photo.width for _, photo in photos)
        while self._pixels and self._pixels + pixels > self._most:
            if self._writing:
                self._finish()
                yield None
            else:
                yield from self._pass_on()
        self._pixels += pixels
        decoding = [
            (photo.height * photo.width, self._pool.submit(self._decode, file, photo))
            for file, photo in photos
        ]
        self._labelling.append(self._model.submit(self._label, decoding))
        # One more is decoded meanwhile.
        if len(self._labelling) > _AT_ONCE + 1:
            yield from self._pass_on()

    def _pass_on(self) -> Iterator[BadSample | None]:
        """Waits for the oldest group's labels and has them written."""
        for pixels, decoded, labels in self._labelling.popleft().result():
            if isinstance(decoded, BadSample):
                self._pixels -= pixels
                yield decoded
                continue
            written = self._pool.submit(self._stages.write, decoded, labels)
            self._writing.append((pixels, written))
        while self._writing and self._writing[0][1].done():
            self._finish()
            yield None

    def _label(
        self, decoding: list[tuple[int, Future]]
    ) -> list[tuple[int, Decoded | BadSample, np.ndarray | None]]:
        """Puts a group through the model once it is decoded: pixels, photo, labels."""
        done = [(pixels, future.result()) for pixels, future in decoding]
        batch = [x.model_input for _, x in done if not isinstance(x, BadSample)]
        labelled = iter(self._stages.label(np.stack(batch)) if batch else ())
        return [
            (pixels, x, None if isinstance(x, BadSample) else next(labelled))
            for pixels, x in done
        ]

    def _finish(self) -> None:
        """Waits until the oldest photo being written is."""
        pixels, written = self._writing.popleft()
        written.result()
        self._pixels -= pixels

    def _groups(
        self, files: Iterable[PhotoFile]
    ) -> Iterator[list[tuple[PhotoFile, Photo] | BadSample]]:
        """Neighbours: a batch at most, and a third of all pixels, or one alone."""
        group: list[tuple[PhotoFile, Photo] | BadSample] = []
        pixels = 0
        for item in self._opened(files):
            more = 0 if isinstance(item, BadSample) else item[1].height * item[1].width
            full = len(group) == self._batch_size or pixels + more > self._most // 3
            if group and full:
                yield group
                group, pixels = [], 0
            group.append(item)
            pixels += more
        if group:
            yield group

    def _opened(
        self, files: Iterable[PhotoFile]
    ) -> Iterator[tuple[PhotoFile, Photo] | BadSample]:
        """Reads some files ahead."""
        waiting: collections.deque[tuple[int, Future]] = collections.deque()
        held = 0
        for file in files:
            while waiting and (
                len(waiting) == _AHEAD_FILES or held + file.size > _AHEAD_BYTES
            ):
                size, future = waiting.popleft()
                held -= size
                yield future.result()
            waiting.append((file.size, self._pool.submit(self._read, file)))
            held += file.size
        while waiting:
            yield waiting.popleft()[1].result()

    def _read(self, file: PhotoFile) -> tuple[PhotoFile, Photo] | BadSample:
        try:
            return file, self._stages.read(file)
        except BadSample as problem:
            return problem

    def _decode(self, file: PhotoFile, photo: Photo) -> Decoded | BadSample:
        try:
            return self._stages.decode(file, photo)
        except BadSample as problem:
            return problem
