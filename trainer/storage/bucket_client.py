"""The client for Google Cloud Storage, and what its errors mean to a user."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trainer.errors import SeamlineError, Unavailable

if TYPE_CHECKING:
    from google.cloud.storage import Client

DEADLINE = 120.0
"""Seconds for which requests that may be tried again are."""

_HOSTS, _CONNECTIONS = 10, 64
"""Connections kept open: to so many hosts, so many to each. The usual ten are fewer
than the threads that ask at once; the others would connect anew for every request."""

_URL = re.compile(r"gs://([a-z0-9][a-z0-9._-]{1,220}[a-z0-9])(?:/(.*))?", re.DOTALL)


_there: set[str] = set()
"""Buckets that have answered; each is asked for once, not for every missing file."""


def split(url: str) -> tuple[str, str]:
    """Bucket and name within it, "" for the bucket itself.

    Raises:
      SeamlineError: `url` names no bucket.
    """
    match = _URL.fullmatch(url)
    if match is None:
        raise SeamlineError(
            f"{url}: names no bucket; write gs://BUCKET/FOLDER, BUCKET in lower case"
        )
    return match[1], match[2] or ""


def client() -> Client:
    """This process's client."""
    # Connections must not be shared with a forked process.
    return _client_of(os.getpid(), os.environ.get("STORAGE_EMULATOR_HOST"))


@functools.lru_cache(maxsize=4)
def _client_of(process: int, emulator: str | None) -> Client:
    from google.cloud import storage

    # Without a project: only making and listing buckets needs one. The client itself
    # turns to STORAGE_EMULATOR_HOST, without credentials, where that is set.
    made = storage.Client(project=None)
    for adapter in made._http.adapters.values():
        adapter.init_poolmanager(_HOSTS, _CONNECTIONS)
    return made


def steady() -> dict[str, Any]:
    """Arguments of every request: how it is tried again, and for how long."""
    from google.cloud.storage.retry import DEFAULT_RETRY

    retry = DEFAULT_RETRY.with_timeout(DEADLINE).with_delay(initial=0.2, maximum=15.0)
    return {"retry": retry, "timeout": 60.0}


def file_error(number: int, url: str) -> OSError:
    """The error that a local file in the same state gives."""
    return OSError(number, os.strerror(number), url)


@contextlib.contextmanager
def explained(url: str) -> Iterator[None]:
    """Turns what the service answers into `OSError` or a line for the user.

    Raises:
      FileNotFoundError: no such file.
      FileExistsError: a file is there that must not be.
      SeamlineError: no such bucket, no rights or no credentials.
      Unavailable: no answer.
    """
    import requests
    from google.api_core import exceptions as answers
    from google.auth import exceptions as auth

    bucket = split(url)[0]
    try:
        yield
    except answers.NotFound as error:
        # The answer does not tell a missing file from a missing bucket.
        check_bucket(url)
        raise file_error(errno.ENOENT, url) from error
    except answers.PreconditionFailed as error:
        raise file_error(errno.EEXIST, url) from error
    except answers.Forbidden as error:
        raise SeamlineError(
            f"{url}: no permission; give this account the role Storage Object User on "
            f"the bucket '{bucket}' (the service says: {_first_line(error)})"
        ) from error
    except (
        answers.Unauthorized,
        auth.DefaultCredentialsError,
        auth.RefreshError,
    ) as error:
        if _is_silent(error.__cause__):
            raise Unavailable(
                f"{url}: the machine's metadata server, which gives credentials, does "
                f"not answer; try again (it said: {_first_line(error)})"
            ) from error
        raise SeamlineError(
            f"{url}: no valid Google credentials; run gcloud auth application-default "
            "login, or give the machine a service account (in Kubernetes: workload "
            "identity)"
        ) from error
    except (
        answers.RetryError,
        answers.ServerError,
        auth.TransportError,
        requests.ConnectionError,
    ) as error:
        raise Unavailable(
            f"{url}: Cloud Storage could not be reached for {DEADLINE:.0f} s; check "
            f"the network and try again (last answer: {_first_line(error)})"
        ) from error


def _is_silent(cause: BaseException | None) -> bool:
    """Whether a server that gives credentials failed, rather than refused."""
    from google.auth.exceptions import TransportError

    refused = re.search(r"Status: 4\d\d", str(cause))
    return isinstance(cause, TransportError) and not refused


def check_bucket(url: str) -> None:
    """Does nothing where the bucket of `url` exists and may be read.

    Raises:
      SeamlineError: it does not, or it may not.
    """
    bucket = split(url)[0]
    if bucket in _there:
        return
    with explained(url):
        if not _is_there(bucket):
            raise SeamlineError(
                f"{url}: there is no bucket '{bucket}'; check the name, or make it: "
                f"gcloud storage buckets create gs://{bucket}"
            )
    _there.add(bucket)


def _is_there(bucket: str) -> bool:
    from google.api_core.exceptions import NotFound

    # Listing asks for no other right than the rest of the work does; reading the
    # bucket's own settings would.
    try:
        list(client().list_blobs(bucket, max_results=1, **steady()))
    except NotFound:
        return False
    return True


def _first_line(error: Exception) -> str:
    cause = getattr(error, "cause", None) or error
    return (str(cause).splitlines() or [type(cause).__name__])[0]
