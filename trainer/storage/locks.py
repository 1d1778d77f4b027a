"""One process at a time in a folder, by a lock that no killed process leaves behind.

On a disk the kernel holds it (`flock` on the file `lock`) and lets go when the process
ends, however it ends. In a bucket it is an object that its holder writes anew every 15
seconds, each time over its own version alone; one that nobody has written for 45
seconds belongs to a process that is gone. No clocks are compared.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

from trainer import storage
from trainer.errors import SeamlineError, Unavailable
from trainer.storage import buckets

log = logging.getLogger("seamline")

_NAME = "lock"
_BEAT_S, _STALE_S = 15, 45
_WAIT_DISK_S, _WAIT_BUCKET_S, _PAUSE_S = 30, 90, 1

# What file systems without locks answer.
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


@contextlib.contextmanager
def exclusive(
    folder: str, *, pause: Callable[[float], None] = time.sleep
) -> Iterator[Callable[[], None]]:
    """Holds the lock of a folder, which is made; for a `with` statement.

    Waits for another holder: 30 seconds on a disk, 90 in a bucket.

    Args:
      folder: local or `gs://`.
      pause: waits so many seconds.

    Yields:
      A function that raises `Unavailable` where another process has taken the lock
      since, because this one was cut off from the bucket for long.

    Raises:
      Unavailable: another process holds it.
    """
    storage.make_folder(folder)
    path = storage.join(folder, _NAME)
    hold = _in_bucket if storage.is_remote(path) else _on_disk
    with hold(path, pause) as still_ours:
        yield still_ours


@contextlib.contextmanager
def _on_disk(path: str, pause: Callable[[float], None]) -> Iterator[Callable[[], None]]:
    try:
        file = _wait_for_file(path, pause)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        log.info("Note: %s: this file system has no locks; start no second run", path)
        yield lambda: None
        return
    try:
        yield lambda: None
    finally:
        os.remove(path)
        os.close(file)


def _wait_for_file(path: str, pause: Callable[[float], None]) -> int:
    """The descriptor of the locked file."""
    for _ in range(0, _WAIT_DISK_S, _PAUSE_S):
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder before may have removed the very file that is locked now.
            if os.path.exists(path) and os.path.samestat(os.fstat(file), os.stat(path)):
                os.truncate(file, 0)
                os.write(file, _ourselves())
                return file
        except BlockingIOError:
            pass  # it is waited for
        except BaseException:
            os.close(file)
            raise
        os.close(file)
        pause(_PAUSE_S)
    raise _held(path, storage.read_bytes(path), _WAIT_DISK_S)


@contextlib.contextmanager
def _in_bucket(
    url: str, pause: Callable[[float], None]
) -> Iterator[Callable[[], None]]:
    lease = _Lease(url, _wait_for_object(url, pause))
    lease.start()
    try:
        yield lease.still_ours
    finally:
        lease.end()


def _wait_for_object(url: str, pause: Callable[[float], None]) -> int:
    """The version of the lock that is ours."""
    seen, unchanged = 0, 0
    for _ in range(0, _WAIT_BUCKET_S, _PAUSE_S):
        there = buckets.info(url)
        version = there.generation if there else 0
        unchanged = unchanged + _PAUSE_S if version == seen else 0
        seen = version
        if not version or unchanged >= _STALE_S or _has_ended(_read(url)):
            ours = buckets.write_over(url, _ourselves(), version)
            if ours is not None:
                return ours
        pause(_PAUSE_S)
    raise _held(url, _read(url), _WAIT_BUCKET_S)


class _Lease:
    """A lock in a bucket, renewed by a thread."""

    def __init__(self, url: str, version: int) -> None:
        self._url, self._version = url, version
        self._renewed = time.monotonic()
        self._lost, self._over = False, threading.Event()
        self._turn = threading.Lock()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Gives the lock back, unless another process has it."""
        self._over.set()
        with self._turn:
            if not self._lost:
                buckets.remove(self._url, self._version)

    def still_ours(self) -> None:
        if time.monotonic() - self._renewed > _STALE_S:
            self._renew()
        if self._lost:
            raise Unavailable(
                f"{self._url}: another process has taken this run, since this one was "
                f"cut off from the bucket for more than {_STALE_S} s"
            )

    def _keep(self) -> None:
        while not self._over.wait(_BEAT_S) and not self._lost:
            try:
                self._renew()
            except SeamlineError as error:
                log.warning("Warning: the lock of this run was not renewed: %s", error)

    def _renew(self) -> None:
        with self._turn:
            if self._over.is_set() or self._lost:
                return
            began = time.monotonic()
            version = buckets.write_over(self._url, _ourselves(), self._version)
            if version is None:
                self._lost = True
            else:
                self._version, self._renewed = version, began


def _read(url: str) -> bytes:
    try:
        return buckets.read(url)
    except FileNotFoundError:
        return b""


def _held(path: str, content: bytes, seconds: int) -> Unavailable:
    who = _owner(content)
    return Unavailable(
        f"{os.path.dirname(path)}: {who.get('process', 'another process')} trains "
        f"here, still after {seconds} s; let it end, or choose another --run_dir"
    )


def _ourselves() -> bytes:
    """Names this process, and tells it from others of its number."""
    process = os.getpid()
    about = {
        "process": f"process {process} on {socket.gethostname()}",
        "space": _space(),
        "number": process,
        "started": _started(process),
    }
    return json.dumps(about).encode()


def _owner(content: bytes) -> dict[str, str | int]:
    try:
        return json.loads(content)
    except ValueError:
        return {}  # it is being written


def _has_ended(content: bytes) -> bool:
    """True for a process that was here, on this machine, and is gone for sure."""
    owner = _owner(content)
    if not _space() or owner.get("space") != _space():
        return False
    return owner.get("started") != _started(int(owner["number"]))


def _space() -> str:
    """Where numbers of processes mean the same: this boot, this container."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(process: int) -> str:
    """When a process started, in ticks since boot; "" where it runs no more."""
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as file:
            state, *fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    # Killed, and nobody has asked for its exit code yet.
    return "" if state in ("Z", "X") else fields[18]
