"""Numbered checkpoints in a folder: written whole, and the newest readable one found.

TensorFlow writes the data first, then an index, then the list `checkpoint`. A process
may be killed between any two, a disk may lose what it had taken, and files may be
damaged later. TensorFlow finds out when it reads: every tensor and the index have a
CRC32C.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator

import tensorflow as tf

from trainer import storage
from trainer.errors import SeamlineError, Unavailable

log = logging.getLogger("seamline")

_FILE = re.compile(r"ckpt-(\d+)\.(?:index|data-\d+-of-\d+)")
_LIST = "checkpoint"

# What TensorFlow raises for files that are missing, short or changed; for some of it no
# class of its own but the general one.
_DAMAGE = (
    *(tf.errors.DataLossError, tf.errors.NotFoundError, tf.errors.OutOfRangeError),
    *(tf.errors.InvalidArgumentError, IndexError, ValueError, AssertionError),
)
# TensorFlow takes a bucket that does not answer for a missing file now and then.
_PASSING = re.compile(
    r"retry attempts|HTTP response code (?!404)|[Pp]ermission denied|[Uu]navailable"
)


class Shelf:
    """The last few checkpoints of one kind.

    Attributes:
      numbers: of the checkpoints there, ascending; one may prove unreadable.
    """

    def __init__(
        self, checkpoint: tf.train.Checkpoint, folder: str, *, keep: int
    ) -> None:
        self._checkpoint, self._folder, self._keep = checkpoint, folder, keep
        names = storage.list_folder(folder)
        _remove_unfinished(folder, names)
        self.numbers = sorted({int(m[1]) for m in map(_FILE.fullmatch, names) if m})
        self._listed = _LIST in names

    def path(self, number: int) -> str:
        """Of a checkpoint, without the endings of its files."""
        return storage.join(self._folder, f"ckpt-{number}")

    def save(self, number: int) -> None:
        """Writes a checkpoint, then removes those beyond the last few.

        One of that number that is there stays: files are never written over, since
        half of the old with half of the new would be neither.

        Raises:
          Unavailable: the bucket does not answer.
        """
        if number in self.numbers:
            return
        with _passing(self.path(number)):
            self._checkpoint.write(self.path(number))
            self._settle([*self.numbers, number][-self._keep :])

    def restore(self) -> int | None:
        """Restores the newest checkpoint that can be read; newer ones are removed.

        Returns:
          Its number; None where there is nothing to go on from.

        Raises:
          SeamlineError: there are some, but none can be read; nothing is changed.
          Unavailable: the bucket does not answer.
        """
        broken: list[str] = []
        for number in reversed(self.numbers):
            damage = self._read(number)
            if damage is None:
                if broken:
                    self._go_back_to(number, broken)
                return number
            broken.append(f"{self.path(number)} cannot be read ({damage})")
        if not broken:
            return None
        if not self._listed and len(broken) == 1:
            # The list follows the first checkpoint; without it that one was never done.
            log.warning("Warning: %s: a first save that was cut off", broken[0])
            self._settle([])
            return None
        raise SeamlineError(
            f"{self._folder}: holds no checkpoint that can be read ({broken[0]}); put "
            "its files back from a copy, or start anew with another --run_dir"
        )

    def remove_after(self, number: int) -> None:
        """Removes all checkpoints of higher numbers."""
        kept = [x for x in self.numbers if x <= number]
        if kept != self.numbers:
            self._settle(kept)

    def _go_back_to(self, number: int, broken: list[str]) -> None:
        log.warning(
            "Warning: %s; going on from %s", "; ".join(broken), self.path(number)
        )
        self.remove_after(number)

    def _read(self, number: int) -> str | None:
        """Restores one checkpoint; what is wrong with it if that fails."""
        try:
            with _passing(self.path(number)):
                status = self._checkpoint.read(self.path(number))
                status.assert_existing_objects_matched()
        except _DAMAGE as error:
            return _first_line(error)
        except tf.errors.OpError as error:
            if type(error) is not tf.errors.OpError:
                raise
            return _first_line(error)
        return None

    def _settle(self, numbers: list[int]) -> None:
        """Lists these checkpoints and removes the files of all others."""
        self.numbers = numbers
        path = storage.join(self._folder, _LIST)
        if numbers:
            storage.write_text(path, _list_text(numbers))
        else:
            storage.remove_file(path)
        self._listed = bool(numbers)
        for name in storage.list_folder(self._folder):
            match = _FILE.fullmatch(name)
            if match and int(match[1]) not in numbers:
                storage.remove_file(storage.join(self._folder, name))


def read_newest(checkpoint: tf.train.Checkpoint, folder: str) -> bool:
    """Restores the newest checkpoint of a folder that nobody writes to.

    Returns:
      False where there is none.

    Raises:
      SeamlineError: it cannot be read.
      Unavailable: the bucket does not answer.
    """
    names = storage.list_folder(folder)
    numbers = [int(m[1]) for m in map(_FILE.fullmatch, names) if m]
    if not numbers:
        return False
    path = storage.join(folder, f"ckpt-{max(numbers)}")
    try:
        with _passing(path):
            status = checkpoint.read(path)
            status.assert_existing_objects_matched().expect_partial()
    except (*_DAMAGE, tf.errors.OpError) as error:
        raise SeamlineError(
            f"{path}: cannot be read ({_first_line(error)}); put its files back from a "
            "copy, or train again with another --run_dir"
        ) from error
    return True


def holds_any(folder: str) -> bool:
    """True where at least one checkpoint has been finished."""
    names = storage.list_folder(folder)
    return any(name == _LIST or name.endswith(".index") for name in names)


def _list_text(numbers: list[int]) -> str:
    """The text of a `CheckpointState` proto, which `tf.train.latest_checkpoint` reads.

    Names without a folder are of the list's own.
    """
    lines = [f'model_checkpoint_path: "ckpt-{numbers[-1]}"']
    lines += [f'all_model_checkpoint_paths: "ckpt-{number}"' for number in numbers]
    return "".join(f"{line}\n" for line in lines)


def _remove_unfinished(folder: str, names: list[str]) -> None:
    """Removes what a save that was killed has left; nothing refers to it."""
    for name in names:
        path = storage.join(folder, name)
        if name.endswith("_temp"):
            storage.remove_folder(path)
        elif name.startswith(f"{_LIST}."):
            storage.remove_file(path)


@contextlib.contextmanager
def _passing(path: str) -> Iterator[None]:
    """Tells a bucket that does not answer from files that are damaged."""
    try:
        yield
    except (*_DAMAGE, tf.errors.OpError) as error:
        if _PASSING.search(str(error)):
            raise Unavailable(
                f"{path}: cannot be reached now; the same command goes on later "
                f"({_first_line(error)})"
            ) from error
        raise


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    # The op that failed says nothing to the reader.
    return re.sub(r"^\{\{.*?\}\} ", "", lines[0])
