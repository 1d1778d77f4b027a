"""Files in Google Cloud Storage, by url: `gs://bucket/path`. No TensorFlow here.

Every function retries what may be tried again for two minutes, and raises
`SeamlineError` for what only the user can mend: a bucket that does not exist, missing
rights or credentials, a url that names no bucket or file. A server that cannot be
reached in that time is one too. A file that is not there is `FileNotFoundError`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import uuid
from typing import TYPE_CHECKING

from trainer.errors import SeamlineError
from trainer.storage import disk
from trainer.storage.bucket_client import (
    check_bucket,
    client,
    explained,
    file_error,
    split,
    steady,
)

if TYPE_CHECKING:
    from google.cloud.storage import Blob

_CHUNK = 8 << 20
_ATTEMPTS = 5
_WRITER = "seamline-writer"


@dataclasses.dataclass(frozen=True)
class Found:
    """A file in a bucket.

    Attributes:
      size: in bytes.
      crc32c: of its content, big-endian in base64.
      generation: the number of this version of it.
    """

    size: int
    crc32c: str
    generation: int


def list_files(url: str) -> dict[str, Found]:
    """Every file below `url`, by name relative to it, sorted; `{}` when none is."""
    bucket, prefix = _below(url)
    with explained(url):
        blobs = client().list_blobs(
            bucket,
            prefix=prefix,
            fields="items(name,size,crc32c,generation),nextPageToken",
            **steady(),
        )
        # A name that ends in a slash marks an empty folder; TensorFlow writes such.
        found = {
            blob.name[len(prefix) :]: _found(blob)
            for blob in blobs
            if not blob.name.endswith("/")
        }
    return dict(sorted(found.items()))


def list_folder(url: str) -> list[str]:
    """Sorted names of the files and folders right in `url`."""
    bucket, prefix = _below(url)
    with explained(url):
        blobs = client().list_blobs(
            bucket,
            prefix=prefix,
            delimiter="/",
            fields="items(name),prefixes,nextPageToken",
            **steady(),
        )
        names = {blob.name[len(prefix) :] for blob in blobs}
        names |= {folder[len(prefix) :].rstrip("/") for folder in blobs.prefixes}
    return sorted(names - {""})


def exists(url: str) -> bool:
    """True when a file or a folder is there."""
    if not split(url)[1].rstrip("/"):
        check_bucket(url)
        return True
    return info(url) is not None or _list_first(url, *_below(url))


def info(url: str) -> Found | None:
    """Size and checksum of one file, None when it is not there."""
    blob = _get(url)
    return None if blob is None else _found(blob)


def require(url: str) -> Found:
    """Like `info`.

    Raises:
      FileNotFoundError: it is not there.
    """
    found = info(url)
    if found is None:
        raise file_error(errno.ENOENT, url)
    return found


def read(url: str) -> bytes:
    """The whole file, its checksum verified.

    Raises:
      FileNotFoundError: it is not there.
    """
    with explained(url):
        return _blob(url).download_as_bytes(checksum="crc32c", **steady())


def read_range(url: str, offset: int, length: int) -> bytes:
    """Part of a file, fewer bytes where it ends before; no checksum covers them.

    Raises:
      FileNotFoundError: it is not there.
    """
    from google.api_core.exceptions import RequestRangeNotSatisfiable

    try:
        with explained(url):
            return _blob(url).download_as_bytes(
                start=offset, end=offset + length - 1, checksum=None, **steady()
            )
    except RequestRangeNotSatisfiable:
        return b""  # it ends before the first byte asked for


def download(url: str, local_path: str) -> None:
    """Writes a file to `local_path`, its checksum verified.

    Raises:
      FileNotFoundError: it is not there.
    """
    with explained(url):
        _blob(url).download_to_filename(local_path, checksum="crc32c", **steady())


def write(url: str, content: bytes) -> None:
    """Writes a whole file, over one that may be there."""
    with explained(url):
        _blob(url).upload_from_string(
            content,
            content_type="application/octet-stream",
            checksum="crc32c",
            **steady(),
        )


def create(url: str, content: bytes) -> bool:
    """Writes a file unless one is there; True when this very call wrote it."""
    return write_over(url, content, 0) is not None


def write_over(url: str, content: bytes, generation: int) -> int | None:
    """Writes a file over this version of it and no other; 0: unless one is there.

    Returns:
      The new version's number; None when another version was there.
    """
    blob = _blob(url)
    # A request may succeed and its answer be lost: then the retry finds a file, which
    # may be this call's own or a rival's of the same content. The mark tells which.
    mark = uuid.uuid4().hex
    blob.metadata = {_WRITER: mark}
    try:
        with explained(url):
            blob.upload_from_string(
                content,
                content_type="application/octet-stream",
                if_generation_match=generation,
                checksum="crc32c",
                **steady(),
            )
    except FileExistsError:
        there = _get(url)
        if there is None or (there.metadata or {}).get(_WRITER) != mark:
            return None
        return there.generation
    return blob.generation


def upload(local_path: str, url: str) -> None:
    """Gets a local file to `url`; the same content already there is fine.

    Files above 8 MiB go in several requests, each of them retried.

    Raises:
      FileExistsError: other content is there.
    """
    if (there := info(url)) is not None:
        _check_same(local_path, there, url)
        return
    blob = _blob(url)
    blob.chunk_size = _CHUNK
    try:
        with explained(url):
            blob.upload_from_filename(
                local_path,
                content_type="application/octet-stream",
                if_generation_match=0,
                checksum="crc32c",
                **steady(),
            )
    except FileExistsError:
        _check_same(local_path, info(url), url)


def move(old: str, new: str) -> None:
    """Copies a file within the service, then removes the old one.

    May be repeated: an old one that is gone while the new one is there is fine. Other
    content at `new` is replaced.

    Raises:
      FileNotFoundError: neither is there.
      FileExistsError: others write `new` again and again.
    """
    source = _get(old)
    if source is None:
        if info(new) is None:
            raise file_error(errno.ENOENT, old)
        return
    try:
        _replace(source, new)
    except FileNotFoundError:
        # Someone else moved it between the two requests.
        if info(new) is None:
            raise
    with contextlib.suppress(FileNotFoundError, FileExistsError), explained(old):
        source.delete(if_generation_match=source.generation, **steady())


def remove(url: str, generation: int | None = None) -> None:
    """Removes a file, or this version of it alone; a missing one is fine."""
    gone = (FileNotFoundError, FileExistsError)
    with contextlib.suppress(*gone), explained(url):
        _blob(url).delete(if_generation_match=generation, **steady())


def remove_all(url: str) -> None:
    """Removes all below `url`; nothing there is fine."""
    bucket, prefix = _below(url)
    with explained(url):
        blobs = client().list_blobs(bucket, prefix=prefix, **steady())
        client().bucket(bucket).delete_blobs(
            list(blobs), on_error=lambda _: None, **steady()
        )


def _replace(source: Blob, new: str) -> None:
    """Copies to `new`; only what was seen there is replaced, never a newer one.

    Two processes that move the same file must not undo each other's work.
    """
    generation = 0
    for attempt in range(_ATTEMPTS):
        try:
            with explained(new):
                _copy(source, _blob(new), generation)
            return
        except FileExistsError:
            there = info(new)
            if _same(_found(source), there):
                return
            if attempt + 1 == _ATTEMPTS:
                raise
            generation = there.generation if there else 0


def _copy(source: Blob, target: Blob, generation: int) -> None:
    """Copies in as many requests as the service asks for; large files need several."""
    token, more = None, True
    while more:
        token, *_ = target.rewrite(
            source,
            token=token,
            if_generation_match=generation,
            **steady(),
        )
        more = token is not None


def _same(one: Found, other: Found | None) -> bool:
    return other is not None and (one.size, one.crc32c) == (other.size, other.crc32c)


def _check_same(local_path: str, there: Found | None, url: str) -> None:
    size, crc32c = os.path.getsize(local_path), disk.crc32c(local_path)
    if there is None or (there.size, there.crc32c) != (size, crc32c):
        raise file_error(errno.EEXIST, url)


def _list_first(url: str, bucket: str, prefix: str) -> bool:
    """True when anything is below `prefix`."""
    with explained(url):
        blobs = client().list_blobs(bucket, prefix=prefix, max_results=1, **steady())
        return any(True for _ in blobs)


def _get(url: str) -> Blob | None:
    blob = _blob(url)
    try:
        with explained(url):
            blob.reload(**steady())
    except FileNotFoundError:
        return None
    return blob


def _found(blob: Blob) -> Found:
    return Found(size=blob.size, crc32c=blob.crc32c, generation=blob.generation)


def _blob(url: str) -> Blob:
    bucket, name = split(url)
    if not name:
        raise SeamlineError(f"{url}: names no file; write gs://{bucket}/FILE")
    with explained(url):
        return client().bucket(bucket).blob(name)


def _below(url: str) -> tuple[str, str]:
    """Bucket of a folder, and what the names of all files in it start with."""
    bucket, name = split(url)
    name = name.rstrip("/")
    return bucket, f"{name}/" if name else ""
