"""One seam to files, local or `gs://`.

Local paths use the standard library alone, so that commands without TensorFlow stay
quick. Paths with a scheme go through `tf.io.gfile`, whose Linux wheels speak `gs://`.
"""

from __future__ import annotations

import importlib
import os
import shutil
import socket
import threading
import urllib.parse
import urllib.request
from types import ModuleType
from typing import IO, Any

from trainer.errors import SeamlineError


def is_remote(path: str) -> bool:
    """True for paths with a scheme, such as `gs://bucket/folder`."""
    return "://" in path


def _gfile(path: str) -> ModuleType:
    """`tf.io.gfile`, once it is certain that it knows the scheme of `path`.

    Raises:
      SeamlineError: no file system is registered for the scheme. `tensorflow_io`, which
        registers some, is tried first (it loads with some TensorFlow releases only).
    """
    import tensorflow as tf

    scheme = path.split("://")[0]
    if scheme not in tf.io.gfile.get_registered_schemes():
        try:
            importlib.import_module("tensorflow_io")
        except Exception as error:
            raise SeamlineError(
                f"{path}: this TensorFlow has no file system for '{scheme}://' and "
                f"tensorflow-io could not add it ({type(error).__name__}); use gs:// "
                "or a local folder, or: pip install tensorflow-io"
            ) from error
        if scheme not in tf.io.gfile.get_registered_schemes():
            raise SeamlineError(
                f"{path}: no file system for '{scheme}://'; use gs:// or a local folder"
            )
    return tf.io.gfile


def join(folder: str, *names: str) -> str:
    """Joins path parts with `/` on remote paths and the local separator elsewhere."""
    if is_remote(folder):
        return "/".join([folder.rstrip("/"), *names])
    return os.path.join(folder, *names)


def exists(path: str) -> bool:
    """True when a file or folder is there."""
    return _gfile(path).exists(path) if is_remote(path) else os.path.exists(path)


def size(path: str) -> int:
    """Length of a file in bytes."""
    return _gfile(path).stat(path).length if is_remote(path) else os.path.getsize(path)


def list_folder(path: str) -> list[str]:
    """Sorted names in a folder, `[]` when there is no such folder."""
    if is_remote(path):
        if not _gfile(path).isdir(path):
            return []
        return sorted(name.rstrip("/") for name in _gfile(path).listdir(path))
    return sorted(os.listdir(path)) if os.path.isdir(path) else []


def make_folder(path: str) -> None:
    """Makes a folder and its parents; one that exists is fine."""
    if is_remote(path):
        _gfile(path).makedirs(path)
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
    """Removes a file."""
    if is_remote(path):
        _gfile(path).remove(path)
    else:
        os.remove(path)


def remove_folder(path: str) -> None:
    """Removes a folder and all it holds; a missing one is fine."""
    if not is_remote(path):
        shutil.rmtree(path, ignore_errors=True)
    elif _gfile(path).exists(path):
        _gfile(path).rmtree(path)


def rename(old: str, new: str) -> None:
    """Gives a file or folder another name: atomic for local paths."""
    if is_remote(new):
        _gfile(new).rename(old, new, overwrite=True)
    else:
        os.replace(old, new)


def open_file(path: str, mode: str = "rb") -> IO[Any]:
    """Opens a local or remote file."""
    if is_remote(path):
        return _gfile(path).GFile(path, mode)
    return open(path, mode, encoding=None if "b" in mode else "utf-8")


def read_bytes(path: str) -> bytes:
    """The whole file."""
    with open_file(path) as file:
        return file.read()


def read_text(path: str) -> str:
    """The whole file as UTF-8 text."""
    return read_bytes(path).decode("utf-8")


def write_bytes(path: str, content: bytes) -> None:
    """Writes a whole file, so that a reader sees all of it or nothing.

    Local files are written beside their place and renamed; an object in a bucket
    appears only once it is complete.
    """
    if is_remote(path):
        with open_file(path, "wb") as file:
            file.write(content)
        return
    partial = f"{path}.partial"
    with open_file(partial, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


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
