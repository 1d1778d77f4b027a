"""The one exception for mistakes that only the user can mend."""

EXIT_USER_ERROR = 42
"""Exit code that tells a scheduler a retry is pointless (design: exit codes)."""


class SeamlineError(Exception):
    """A configuration or data error: its text names the file, the value and the fix.

    Commands print the text without a traceback and exit with 42.
    """
