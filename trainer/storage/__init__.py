"""One seam to files, local or `gs://`.

Local paths use the standard library alone and `gs://` the Cloud Storage client, so that
commands without TensorFlow stay quick. TensorFlow reads and writes some files itself
(records, checkpoints, exports) through a client for `gs://` of its own, and so do
`open_file` and `rename`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from trainer.errors import SeamlineError
from trainer.storage import bucket_client, buckets, disk, tf_files


class FileInfo(NamedTuple):
    """What is known of a file without reading a bucket's content.

    Attributes:
      size: in bytes.
      crc32c: of its content, big-endian in base64 as Cloud Storage gives it; None in
        listings of local folders, where all files would have to be read.
    """

    size: int
    crc32c: str | None


def is_remote(path: str) -> bool:
    """True for paths with a scheme, such as `gs://bucket/folder`."""
    return "://" in path


def _in_bucket(path: str) -> bool:
    """True for `gs://`, False for local paths.

    Raises:
      SeamlineError: a path with another scheme.
    """
    if is_remote(path) and not path.startswith("gs://"):
        raise SeamlineError(
            f"{path}: no file system for '{path.split('://')[0]}://'; use gs:// or a "
            "local folder"
        )
    return is_remote(path)


def join(folder: str, *names: str) -> str:
    """Joins path parts with `/` on remote paths and the local separator elsewhere.

    Raises:
      SeamlineError: `folder` is a scheme and nothing else.
    """
    if folder.endswith("://"):
        raise SeamlineError(f"{folder}: names no bucket; write gs://BUCKET/FOLDER")
    if is_remote(folder):
        return "/".join([folder.rstrip("/"), *names])
    return os.path.join(folder, *names)


def exists(path: str) -> bool:
    """True when a file or folder is there."""
    return buckets.exists(path) if _in_bucket(path) else os.path.exists(path)


def size(path: str) -> int:
    """Length of a file in bytes.

    Raises:
      FileNotFoundError: it is not there.
    """
    return buckets.require(path).size if _in_bucket(path) else os.path.getsize(path)


def info(path: str) -> FileInfo | None:
    """Size and checksum of a file, None when it is not there.

    Only local files are read for it.
    """
    if _in_bucket(path):
        found = buckets.info(path)
        return None if found is None else FileInfo(found.size, found.crc32c)
    if not os.path.isfile(path):
        return None
    return FileInfo(os.path.getsize(path), disk.crc32c(path))


def list_files(folder: str) -> dict[str, FileInfo]:
    """All files below a folder, `{}` when there is no such folder.

    Returns:
      By name relative to `folder`, with `/` separators, sorted. Linked local folders
      are followed.
    """
    if _in_bucket(folder):
        found = buckets.list_files(folder)
        return {name: FileInfo(x.size, x.crc32c) for name, x in found.items()}
    sizes = disk.list_files(folder)
    return {name: FileInfo(size, None) for name, size in sizes.items()}


def list_folder(path: str) -> list[str]:
    """Sorted names in a folder, `[]` when there is no such folder."""
    if _in_bucket(path):
        return buckets.list_folder(path)
    return sorted(os.listdir(path)) if os.path.isdir(path) else []


def make_folder(path: str) -> None:
    """Makes a folder and its parents; one that exists is fine.

    A bucket has no folders, only files with slashes in their names; there it is checked
    that the bucket exists.

    Raises:
      SeamlineError: it cannot be made, or there is no such bucket.
    """
    if _in_bucket(path):
        bucket_client.check_bucket(path)
        return
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise SeamlineError(
            f"{path}: cannot be made a folder ({error.strerror}); choose another place"
        ) from error


def missing_parents(path: str) -> list[str]:
    """The folders that must be made for `path`, itself first; `[]` for remote ones."""
    missing = []
    while not is_remote(path) and path and not os.path.exists(path):
        missing.append(path)
        path = os.path.dirname(path.rstrip(os.sep))
    return missing


def remove_empty_folders(paths: list[str]) -> None:
    """Removes folders one after the other up to the first that holds something."""
    for path in paths:
        if list_folder(path):
            return
        if os.path.isdir(path):
            os.rmdir(path)


def remove_file(path: str) -> None:
    """Removes a file; a missing one is fine."""
    if _in_bucket(path):
        buckets.remove(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)


def remove_folder(path: str) -> None:
    """Removes a folder and all it holds; a missing one is fine."""
    if _in_bucket(path):
        buckets.remove_all(path)
    else:
        shutil.rmtree(path, ignore_errors=True)


def create(path: str, content: bytes) -> bool:
    """Writes a file unless one is there; a reader sees all of it or nothing.

    Parents are made.

    Returns:
      True when this very call wrote the file, False when one was there: then nothing
      is changed. Of many calls at the same moment one gets True.
    """
    if _in_bucket(path):
        return buckets.create(path, content)
    return disk.create(path, content)


def upload(local_path: str, path: str) -> None:
    """Gets a finished local file to its place; `local_path` may be gone afterwards.

    A local `path` is replaced. Parents are made.

    Raises:
      FileExistsError: `path` is remote and holds other content; the same content is
        fine.
    """
    if _in_bucket(path):
        buckets.upload(local_path, path)
    else:
        disk.upload(local_path, path)


def download(path: str, local_path: str) -> None:
    """Copies a file to a local one, which appears only once it is complete.

    Parents are made.

    Raises:
      FileNotFoundError: `path` is not there.
    """
    if not _in_bucket(path):
        disk.copy(path, local_path)
        return
    disk.make_parents(local_path)
    with disk.partial(local_path) as name:
        buckets.download(path, name)
        os.replace(name, local_path)


def move(old: str, new: str) -> None:
    """Gives a file another name; may be repeated, also by another process.

    Where `old` is gone and `new` is there, it is done already. Another `new` is
    replaced. Both are local, or both are remote.

    Raises:
      FileNotFoundError: neither is there.
    """
    if _in_bucket(old):
        buckets.move(old, new)
    else:
        disk.move(old, new)


def rename(old: str, new: str) -> None:
    """Gives a file or folder another name: atomic for local paths."""
    if _in_bucket(new):
        tf_files.rename(old, new)
    else:
        os.replace(old, new)


@contextlib.contextmanager
def open_file(path: str, mode: str = "rb") -> Iterator[IO[Any]]:
    """Opens a local or remote file, for a `with` statement."""
    if _in_bucket(path):
        with tf_files.open_file(path, mode) as file:
            yield file
    else:
        encoding = None if "b" in mode else "utf-8"
        with open(path, mode, encoding=encoding) as file:
            yield file


def read_bytes(path: str) -> bytes:
    """The whole file."""
    if _in_bucket(path):
        return buckets.read(path)
    with open_file(path) as file:
        return file.read()


def read_range(path: str, offset: int, length: int) -> bytes:
    """Bytes `offset` .. `offset + length - 1` of a file, fewer where it ends before.

    Args:
      path: local or remote.
      offset: of the first byte, from 0.
      length: how many bytes, at least 1.

    Raises:
      FileNotFoundError: it is not there.
      ValueError: no such range.
    """
    if offset < 0 or length < 1:
        raise ValueError(f"no range: {length} bytes at {offset}")
    if _in_bucket(path):
        return buckets.read_range(path, offset, length)
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(length)


def read_text(path: str) -> str:
    """The whole file as UTF-8 text."""
    return read_bytes(path).decode("utf-8")


def write_bytes(path: str, content: bytes, *, durable: bool = True) -> None:
    """Writes a whole file, so that a reader sees all of it or nothing.

    Local files are written beside their place and renamed; an object in a bucket
    appears only once it is complete.

    Args:
      path: local or remote.
      content: of the file.
      durable: wait until a local file is on the disk, so that it outlives the machine
        going down. What can be made again need not.
    """
    if _in_bucket(path):
        buckets.write(path, content)
    else:
        with disk.partial(path) as name:
            disk.write(name, content, durable=durable)
            os.replace(name, path)


def write_text(path: str, content: str) -> None:
    """Writes a whole UTF-8 text file; see `write_bytes`."""
    write_bytes(path, content.encode("utf-8"))


def _first_hop(url: str) -> tuple[str, int]:
    """Host and port that a request for `url` connects to; a proxy's if one is set."""
    parts = urllib.parse.urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        parts = urllib.parse.urlsplit(proxy if "//" in proxy else f"//{proxy}")
    default = 443 if parts.scheme == "https" else 80
    return parts.hostname or "", parts.port or default


def reachable(url: str, seconds: float = 4.0) -> bool:
    """True when the host of `url`, or the proxy for it, answers within `seconds`.

    The attempt runs in a thread, since looking up a name has no time limit of its own:
    on a machine without a network the resolver alone may take 30 s or more.
    """
    address = _first_hop(url)
    answers: list[bool] = []

    def connect() -> None:
        try:
            socket.create_connection(address, timeout=seconds).close()
            answers.append(True)
        except OSError:
            answers.append(False)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(seconds)
    return answers == [True]
