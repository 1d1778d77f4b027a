"""TensorFlow's own client for `gs://`, which it reads and writes its files with."""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Iterator
from typing import IO, Any

from trainer.errors import SeamlineError

_URL = re.compile(r"gs://[^\s'\",;)]+")

_LOGIN = (
    "run gcloud auth application-default login, or give the machine a service account"
)

_MEANINGS = {
    "NotFoundError": "not there; check the name and that its bucket exists",
    "PermissionDeniedError": "no permission, or no valid Google credentials; give this "
    f"account the role Storage Object User on the bucket, or {_LOGIN}",
    "UnauthenticatedError": f"no valid Google credentials; {_LOGIN}",
}
"""By class of error. TensorFlow takes the answers 401 and 403 for one."""


def check(path: str) -> None:
    """Makes sure that TensorFlow itself can read and write `path`.

    Raises:
      SeamlineError: this TensorFlow has no client for `gs://`. `tensorflow_io`, which
        brings one, is tried first (it loads with some TensorFlow releases only).
    """
    if not path.startswith("gs://"):
        return
    import tensorflow as tf

    if "gs" in tf.io.gfile.get_registered_schemes():
        return
    try:
        importlib.import_module("tensorflow_io")
    except Exception as error:
        raise SeamlineError(
            f"{path}: this TensorFlow cannot read gs:// and tensorflow-io could not "
            f"add it ({type(error).__name__}); use a local folder, or: pip install "
            "tensorflow-io"
        ) from error


def explain(error: Exception) -> str | None:
    """A line for the user on an error of TensorFlow's client; None for any other one.

    An error that may pass by itself, such as a server that is away, is None too.
    """
    url = _URL.search(str(error))
    meaning = _MEANINGS.get(type(error).__name__)
    if url is None or not type(error).__module__.startswith("tensorflow."):
        return None
    return meaning and f"{url[0].rstrip('/')}: {meaning}"


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Raises `SeamlineError` for the errors that `explain` knows."""
    try:
        yield
    except Exception as error:
        line = explain(error)
        if line is None:
            raise
        raise SeamlineError(line) from error


@contextlib.contextmanager
def open_file(path: str, mode: str) -> Iterator[IO[Any]]:
    """Opens a file, for a `with` statement."""
    import tensorflow as tf

    check(path)
    with explained(), tf.io.gfile.GFile(path, mode) as file:
        yield file


def rename(old: str, new: str) -> None:
    """Gives a file or folder another name, over what is there; file by file."""
    import tensorflow as tf

    check(new)
    with explained():
        tf.io.gfile.rename(old, new, overwrite=True)
