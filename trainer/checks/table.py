"""The table of a preflight: what was checked, what was found, what follows."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import enum
from collections.abc import Iterator

from trainer import endings
from trainer.errors import EXIT_TRY_AGAIN, EXIT_USER_ERROR


class Verdict(enum.Enum):
    """What a row says of the training."""

    OK = "ok"
    NOTE = "note"
    """It works, perhaps not as meant."""
    FAIL = "fail"
    """It cannot work until someone mends this."""
    RETRY = "retry"
    """It cannot work now, but may later."""
    UNCHECKED = "not checked"


@dataclasses.dataclass(frozen=True)
class Row:
    """One check: its name, its verdict, and what was found, with the fix."""

    check: str
    verdict: Verdict
    found: str


class Table:
    """Rows in the order in which they were added."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def add(self, check: str, verdict: Verdict, found: str) -> None:
        """Adds a row."""
        self.rows.append(Row(check, verdict, found))

    @contextlib.contextmanager
    def checking(self, check: str) -> Iterator[None]:
        """An error that would end the training becomes a row; for a `with` statement.

        Raises:
          Exception: one that would end the training with a traceback.
        """
        try:
            yield
        except Exception as error:
            ending = endings.explain(error)
            if ending is None:
                raise
            line, code = ending
            verdict = Verdict.RETRY if code == EXIT_TRY_AGAIN else Verdict.FAIL
            self.add(check, verdict, line)

    @property
    def exit_code(self) -> int:
        """0, 42 where a row fails, 75 where nothing is wrong but what may pass."""
        found = {row.verdict for row in self.rows}
        if Verdict.FAIL in found:
            return EXIT_USER_ERROR
        return EXIT_TRY_AGAIN if Verdict.RETRY in found else 0

    def lines(self) -> list[str]:
        """A heading, one line a row so that each can be searched for, and the verdict.

        What was found in several lines goes on below its first.
        """
        wide = max(len(row.check) for row in self.rows)
        indent = "\n" + " " * (wide + 15)
        table = [f"{'check':{wide}}  {'':11}  found"]
        for row in self.rows:
            found = indent.join(line.strip() for line in row.found.splitlines())
            table.append(f"{row.check:{wide}}  {row.verdict.value:11}  {found}")
        return [*table, f"verdict: {self._verdict()}"]

    def _verdict(self) -> str:
        code = self.exit_code
        if code == EXIT_USER_ERROR:
            return f"will not work: {self._names(Verdict.FAIL)} (exit code {code})"
        if code == EXIT_TRY_AGAIN:
            return f"try again later: {self._names(Verdict.RETRY)} (exit code {code})"
        counts = collections.Counter(row.verdict for row in self.rows)
        told = [f"{counts[x]} {x.value}" for x in Verdict if counts[x]]
        return f"nothing found that would stop the training ({', '.join(told)})"

    def _names(self, verdict: Verdict) -> str:
        return ", ".join(row.check for row in self.rows if row.verdict is verdict)
