"""TensorFlow without the notes of its C++ side. No TensorFlow here."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

# TensorFlow reads this when it is imported. Without a GPU driver it reports at error
# level that it found none.
_DRIVER = os.path.exists("/proc/driver/nvidia")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2" if _DRIVER else "3")


@contextlib.contextmanager
def quiet_imports() -> Iterator[None]:
    """Keeps what TensorFlow's C++ side says while it is imported off the terminal.

    Those notes come before its log level is honoured. Import errors are exceptions and
    still show.
    """
    sys.stderr.flush()
    saved, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nothing)
