"""What ends a command with one line and an exit code of its own."""

EXIT_USER_ERROR = 42
"""Exit code that tells a scheduler a retry is pointless (design: exit codes)."""

EXIT_TRY_AGAIN = 75
"""Exit code for what may pass by itself (`EX_TEMPFAIL` of sysexits.h)."""


class SeamlineError(Exception):
    """A configuration or data error: its text names the file, the value and the fix.

    Commands print the text without a traceback and exit with 42.
    """

    exit_code = EXIT_USER_ERROR


class Unavailable(SeamlineError):
    """What may pass by itself: the same command may work later.

    Commands print the text without a traceback and exit with 75.
    """

    exit_code = EXIT_TRY_AGAIN


class Stopped(BaseException):
    """A signal ended the command; what was done is saved.

    No mistake, so no handler of `Exception` may take it for one.

    Commands print the text and exit with 128 + the signal's number, as shells do: 143
    for SIGTERM, 130 for SIGINT.
    """

    def __init__(self, signal_number: int, text: str) -> None:
        super().__init__(text)
        self.exit_code = 128 + signal_number
