"""Commands as users run them, but that do not each import TensorFlow anew.

The import takes 5 s of a core, and the tests start hundreds of commands. So one server
for each process of pytest has imported what a training needs, and done nothing with it.
For a command it forks, and the child goes on as `python -m MODULE …` does after its
imports: a process with arguments, environment, folder and streams of its own, which can
be killed, and which ends as Python ends. It knows `--encoder=tiny` of tests/tiny.py.

Forking is safe because the server has one thread alone, which it makes sure of. The
child is its grandchild, whose parent has ended; pytest's process adopts such orphans
meanwhile, so that it is the parent and `subprocess.Popen` can wait.

What must be known when Python or TensorFlow starts needs an interpreter of its own.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import inspect
import json
import os
import runpy
import site
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
COMMON = {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
"""Variables of every command."""

_SERVER = {
    **os.environ,
    **COMMON,
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # Else there would be threads before the first fork.
    "OPENBLAS_NUM_THREADS": "1",
    # Of tests/gcs.py: TensorFlow's client reads these when it is imported.
    "GCS_RETRY_CONFIG_MAX_RETRIES": "6",
    "GCS_RETRY_CONFIG_INIT_DELAY_TIME_US": "0",
}
_LONGEST = 1 << 17
_ADOPT_ORPHANS = 36  # PR_SET_CHILD_SUBREAPER of prctl(2).
_one_at_a_time = threading.Lock()


class Command(subprocess.Popen[str]):
    """`python -m` with these arguments, forked.

    Args:
      arguments: module and what follows.
      cwd: its working directory.
      env: its variables; None: those of this process, and `COMMON`.
      unbuffered: whether its output comes line by line.
      popen: streams and `start_new_session`, see `subprocess.Popen`.
    """

    def __init__(
        self,
        *arguments: str,
        cwd: Path,
        env: dict[str, str] | None = None,
        unbuffered: bool = False,
        **popen: Any,
    ) -> None:
        variables = {**os.environ, **COMMON} if env is None else env
        self._request = [arguments, str(cwd), variables, unbuffered]
        super().__init__(arguments, text=True, **popen)

    def _execute_child(self, *values: Any) -> None:
        """Lets the server fork, in place of fork and exec."""
        names = list(inspect.signature(subprocess.Popen._execute_child).parameters)[1:]
        ends = dict(zip(names, values, strict=True))
        given = enumerate(ends[name] for name in ("p2cread", "c2pwrite", "errwrite"))
        streams = [own if end == -1 else end for own, end in given]
        request = [ends["start_new_session"], *self._request]
        self.pid = _fork(json.dumps(request).encode(), streams)
        self._child_created = True
        self._close_pipe_fds(*(ends[x] for x in names if x.endswith(("read", "write"))))


def run(*arguments: str, timeout: float, **given: Any) -> subprocess.CompletedProcess:
    """Runs a `Command` to its end and captures what it writes."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Command(*arguments, **pipes, **given) as process:
        try:
            said = process.communicate(timeout=timeout)
        finally:
            process.kill()
    return subprocess.CompletedProcess(arguments, process.returncode, *said)


@functools.cache
def _server() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """The server of this process, which ends when its socket is closed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        return ours, subprocess.Popen(
            [sys.executable, "-m", "tests.forks", str(theirs.fileno())],
            cwd=ROOT,
            env=_SERVER,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )


def _fork(request: bytes, streams: list[int]) -> int:
    """The number of a process that has become a child of this one."""
    prctl = ctypes.CDLL(None).prctl
    with _one_at_a_time:
        server, _ = _server()
        assert prctl(_ADOPT_ORPHANS, 1, 0, 0, 0) == 0
        socket.send_fds(server, [request], streams)
        number = int(server.recv(_LONGEST))
        assert prctl(_ADOPT_ORPHANS, 0, 0, 0, 0) == 0
    return number


def _serve(requests: socket.socket) -> None:
    """Forks for each request; returns in the children, which have become commands."""
    while True:
        text, streams, _, _ = socket.recv_fds(requests, _LONGEST, 3)
        if not text:
            sys.exit()
        orphaned, told = os.pipe()
        between = os.fork()
        if not between:
            if os.fork():
                os._exit(0)
            os.close(told)
            os.read(orphaned, 1)
            os.close(orphaned)
            new_session, *command = json.loads(text)
            if new_session:
                os.setsid()
            requests.send(str(os.getpid()).encode())
            requests.close()
            return _become(streams, *command)
        os.waitpid(between, 0)
        for each in (told, orphaned, *streams):
            os.close(each)


def _become(
    streams: list[int], argv: list[str], cwd: str, env: dict[str, str], unbuffered: bool
) -> None:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdout.reconfigure(line_buffering=unbuffered)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.path[:1], sys.argv[:] = [cwd, *env["PYTHONPATH"].split(":")], argv
    site.execsitecustomize()


if __name__ == "__main__":
    from trainer import flags

    with flags.quiet_imports():
        import trainer.pipeline  # noqa: F401
        from tests import tiny

    tiny.register()
    tiny.rewrite_no_graphs()
    assert len(os.listdir("/proc/self/task")) == 1
    gc.freeze()
    _serve(socket.socket(fileno=int(sys.argv[1])))
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
