"""Folders that a training writes to: a file is written, read and removed there."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator

from trainer import storage
from trainer.checks.table import Table, Verdict
from trainer.data import staging
from trainer.data.card import Card
from trainer.errors import SeamlineError, Unavailable
from trainer.storage import tf_files

_CONTENT = b"Seamline's preflight wrote this; it may be removed.\n"
_DONE = "written, read and removed"


def probe(folder: str, flag: str) -> None:
    """Writes, reads and removes a file, by the client of `storage`.

    A local folder that is not there yet is not made, since another process may be about
    to use it: the nearest one above it is tried.

    Args:
      folder: local or `gs://`.
      flag: what names it, for the user.

    Raises:
      SeamlineError: it does not work.
      Unavailable: a bucket does not answer.
    """
    try:
        if storage.is_remote(folder):
            # Says so if there is no such bucket.
            storage.make_folder(folder)
        with _trial(_existing(folder)) as path:
            storage.write_bytes(path, _CONTENT)
            _compare(storage.read_bytes(path), folder, flag)
    except OSError as error:
        raise SeamlineError(
            f"--{flag}={folder}: cannot be written ({error.strerror}); mend its "
            "permissions or choose another place"
        ) from error


def probe_with_tensorflow(folder: str, flag: str) -> None:
    """The same through TensorFlow's own client, which writes checkpoints and exports.

    Raises:
      SeamlineError: it does not work.
      Exception: of TensorFlow, where a bucket does not answer.
    """
    tf_files.check(folder)
    with _trial(folder) as path:
        with storage.open_file(path, "wb") as file:
            file.write(_CONTENT)
        with storage.open_file(path, "rb") as file:
            _compare(file.read(), folder, flag)


def _compare(content: bytes, folder: str, flag: str) -> None:
    if content != _CONTENT:
        raise SeamlineError(
            f"--{flag}={folder}: a file reads back other than it was written; choose "
            "another place"
        )


@contextlib.contextmanager
def _trial(folder: str) -> Iterator[str]:
    """Path of a file to try; it is removed afterwards, whatever happens."""
    path = storage.join(folder, f"preflight-{secrets.token_hex(8)}")
    try:
        yield path
    except BaseException:
        # What went wrong first is what is told.
        with contextlib.suppress(SeamlineError, OSError):
            storage.remove_file(path)
        raise
    storage.remove_file(path)


def _existing(folder: str) -> str:
    """The folder itself, or the nearest one above it that is there."""
    if storage.is_remote(folder):
        return folder
    folder = os.path.abspath(folder)
    missing = storage.missing_parents(folder)
    return os.path.dirname(missing[-1]) if missing else folder


def check_run_dir(table: Table, folder: str) -> None:
    """Results can be written, by both clients that write them."""
    with table.checking("run_dir"):
        probe(folder, "run_dir")
        text = f"{folder}: {_DONE}"
        if storage.is_remote(folder):
            probe_with_tensorflow(folder, "run_dir")
            text += ", by TensorFlow too"
        table.add("run_dir", Verdict.OK, text)


def check_records_dir(table: Table, folder: str, card: Card | None) -> None:
    """Records can be written, unless they are there already."""
    with table.checking("records_dir"):
        try:
            probe(folder, "records_dir")
        except SeamlineError as error:
            if card is None or isinstance(error, Unavailable):
                raise
            text = f"{error}. Training only reads the records that are there"
            table.add("records_dir", Verdict.NOTE, text)
            return
        table.add("records_dir", Verdict.OK, f"{folder}: {_DONE}")


def check_stage_dir(table: Table, folder: str, card: Card | None) -> None:
    """The local copy of records has room."""
    with table.checking("stage_dir"):
        staging.check_place(folder)
        probe(folder, "stage_dir")
        if card is None:
            text = f"{folder}: {_DONE}; needs the records to say whether they fit"
            table.add("stage_dir", Verdict.NOTE, text)
            return
        needed = sum(row["bytes"] for row in card.shards)
        there = os.path.isdir(staging.folder_of(folder, card))
        free = shutil.disk_usage(_existing(folder)).free
        if free < needed and not there:
            raise SeamlineError(
                f"--stage_dir={folder}: {free >> 20} MB are free, but the records take "
                f"{needed >> 20} MB; give a larger disk"
            )
        text = f"{folder}: {free >> 20} MB free for {needed >> 20} MB of records"
        table.add("stage_dir", Verdict.OK, text)
