"""What an error means to a user: one line, and the exit code of a command it ends."""

from __future__ import annotations

import errno

from trainer.errors import EXIT_TRY_AGAIN, EXIT_USER_ERROR, SeamlineError
from trainer.storage import tf_files

_FULL = {errno.ENOSPC, errno.EDQUOT}

# A file that is not there, may not be read or written, or is of the wrong kind.
_USER_ERRNOS = {
    *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, *_FULL),
}


def explain(error: Exception) -> tuple[str, int] | None:
    """The line and the exit code; None for an error that only its traceback explains.

    Codes: 42 for what only the user can mend, 75 for what may pass by itself.
    """
    if isinstance(error, SeamlineError):
        return str(error), error.exit_code
    if isinstance(error, OSError):
        # A full disk is told where something is written, without its name.
        named = error.filename or error.errno in _FULL
        if error.errno not in _USER_ERRNOS or not named:
            return None
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}", EXIT_USER_ERROR
    # TensorFlow's own client for gs:// answers by exceptions of TensorFlow.
    if line := tf_files.explain(error):
        return line, EXIT_USER_ERROR
    if line := tf_files.explain_passing(error):
        return line, EXIT_TRY_AGAIN
    return None
