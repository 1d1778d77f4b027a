"""Files on local disks: what the standard library does not do in one call."""

from __future__ import annotations

import base64
import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator

from trainer.errors import SeamlineError

_BLOCK = 1 << 20

# What file systems without hard links answer; ENOSYS comes from some mounted buckets.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


def list_files(folder: str) -> dict[str, int]:
    """Size of every file below `folder`, by name relative to it, sorted by name.

    Names have `/` separators. Links are followed, but never into a folder they are in.
    """
    return dict(sorted(_walk(folder, "", [])))


def _walk(folder: str, prefix: str, above: list[str]) -> Iterator[tuple[str, int]]:
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        entries = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise SeamlineError(
            f"{folder}: cannot be read ({error.strerror}); mend its permissions"
        ) from error
    # One after the other: all of 10^5 at once, with what they remember, take 100 MB.
    with entries:
        for entry in entries:
            name = prefix + entry.name
            if entry.is_dir():
                yield from _walk(entry.path, f"{name}/", [*above, real])
            elif entry.is_file():
                # Another process may remove a file between the two calls.
                with contextlib.suppress(FileNotFoundError):
                    yield name, entry.stat().st_size
            elif entry.is_symlink():
                yield name, 0  # whoever reads it finds what is wrong


def crc32c(path: str) -> str:
    """Checksum of a file as Cloud Storage gives it: big-endian, in base64."""
    import google_crc32c

    checksum = google_crc32c.Checksum()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            checksum.update(block)
    return base64.b64encode(checksum.digest()).decode("ascii")


def make_parents(path: str) -> None:
    """Makes the folders above `path`; those that exist are fine."""
    folder = os.path.dirname(path)
    try:
        os.makedirs(folder or os.curdir, exist_ok=True)
    except OSError as error:
        raise SeamlineError(
            f"{folder}: cannot be made a folder ({error.strerror}); choose another "
            "place"
        ) from error


@contextlib.contextmanager
def partial(path: str) -> Iterator[str]:
    """A name beside `path` to write to; it is gone afterwards, whatever happens."""
    name = f"{path}.{secrets.token_hex(8)}.partial"
    try:
        yield name
    except OSError as error:
        if error.filename == name:
            error.filename = path  # what the user asked for
        raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(name)


def create(path: str, content: bytes) -> bool:
    """Writes a file unless one is there; True when this very call wrote it."""
    make_parents(path)
    with partial(path) as name:
        write_durably(name, content)
        try:
            os.link(name, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return _create_in_place(path, content)
    return True


def _create_in_place(path: str, content: bytes) -> bool:
    # Still one call alone gets True; but readers may see half of the file, also for
    # good where the machine goes down meanwhile.
    try:
        with open(path, "xb") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


def write_durably(path: str, content: bytes) -> None:
    """Writes a file and waits until it is on the disk."""
    write(path, content, durable=True)


def write(path: str, content: bytes, *, durable: bool) -> None:
    """Writes a file; a durable one is on the disk afterwards."""
    with open(path, "wb") as file:
        file.write(content)
        if durable:
            file.flush()
            os.fsync(file.fileno())


def copy(source: str, path: str) -> None:
    """Copies a file, so that a reader of `path` sees all of it or nothing."""
    make_parents(path)
    with partial(path) as name:
        shutil.copyfile(source, name)
        os.replace(name, path)


def upload(local_path: str, path: str) -> None:
    """Moves a file to `path`, which may be on another file system."""
    make_parents(path)
    try:
        os.replace(local_path, path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copy(local_path, path)


def move(old: str, new: str) -> None:
    """Renames a file; an old one that is gone while the new one is there is fine."""
    if os.path.exists(old):
        make_parents(new)
    try:
        os.replace(old, new)
    except FileNotFoundError:
        if not os.path.exists(new):
            raise
