"""A forked command is a process as any other."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests import forks

SAYS = """
import atexit, os, sys
atexit.register(print, "last")
has_tensorflow = "tensorflow" in sys.modules
print(__name__, sys.argv[1:], os.getcwd(), os.environ["WHO"], has_tensorflow)
print(os.getppid(), os.getpid() == os.getsid(0), sys.stdin.read(), file=sys.stderr)
sys.exit(7)
"""
WAITS = "import signal; print('here'); signal.pause()"


@pytest.mark.parametrize("new_session", [False, True])
def test_it_has_what_it_was_given_and_ends_as_python_ends(
    new_session: bool, tmp_path: Path
) -> None:
    (tmp_path / "says.py").write_text(SAYS)
    env = {**forks.COMMON, "WHO": "me"}
    popen = {"stdin": subprocess.DEVNULL, "start_new_session": new_session}
    done = forks.run("says", "--a", "b c", cwd=tmp_path, env=env, timeout=60, **popen)
    assert done.returncode == 7, done.stderr
    first = f"__main__ ['--a', 'b c'] {tmp_path} me True"
    assert done.stdout.splitlines() == [first, "last"]
    assert done.stderr == f"{os.getpid()} {new_session} \n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_is_ended_by_signals(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "waits.py").write_text(WAITS)
    silent = {"stdout": subprocess.PIPE}
    with forks.Command("waits", cwd=tmp_path, unbuffered=True, **silent) as process:
        assert process.stdout
        assert process.stdout.readline() == "here\n"
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(60) == -number


def test_a_site_of_its_own_is_imported_first(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text("import sys; sys.x = 5")
    (tmp_path / "asks.py").write_text("import sys; print(sys.x)")
    path = {"PYTHONPATH": str(tmp_path / "site")}
    done = forks.run("asks", cwd=tmp_path, env=path, timeout=60)
    assert (done.stdout, done.stderr) == ("5\n", "")
