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

_PASSING = {"UnavailableError", "DeadlineExceededError", "AbortedError"}
"""Classes of errors with which TensorFlow's client gives up on a server."""


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

    An error that may pass by itself is None too: see `explain_passing`.
    """
    meaning = _MEANINGS.get(type(error).__name__)
    url = _url_in(error)
    return f"{url}: {meaning}" if url and meaning else None


def explain_passing(error: Exception) -> str | None:
    """A line for the user where TensorFlow's client could not reach a server."""
    url = _url_in(error)
    if not url or type(error).__name__ not in _PASSING:
        return None
    return (
        f"{url}: Cloud Storage could not be reached by TensorFlow; check the network "
        "and try again"
    )


def _url_in(error: Exception) -> str | None:
    """The `gs://` url that an error of TensorFlow is about."""
    url = _URL.search(str(error))
    if url is None or not type(error).__module__.startswith("tensorflow."):
        return None
    return url[0].rstrip("/")


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
