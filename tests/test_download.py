"""Against a real HTTP server on loopback."""

from __future__ import annotations

import functools
import http.server
import io
import os
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainer.data import download
from trainer.errors import SeamlineError


class Server(http.server.ThreadingHTTPServer):
    """Serves `content`; with ranges if `ranges`; stops after `most` bytes once."""

    content = b""
    ranges = True
    most: int | None = None
    asked: list[str]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        asked = self.headers.get("Range", "bytes=0-")
        server.asked.append(asked)
        start = int(asked[len("bytes=") : -1]) if server.ranges else 0
        if start >= len(server.content):
            self.send_error(416)
            return
        self.send_response(206 if server.ranges else 200)
        self.send_header("Content-Length", str(len(server.content) - start))
        self.end_headers()
        part = server.content[start:]
        most, server.most = server.most, None
        self.wfile.write(part[:most])

    def log_message(self, *unused: object) -> None:
        """Keeps the test's output quiet."""


def archive(**files: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        for name, text in files.items():
            opened.writestr(f"dataset-master/{name}", text)
    return buffer.getvalue()


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        running.content = archive(photo="x" * 5000, label="y")
        running.asked = []
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/master.zip"


def test_the_archives_folder_becomes_the_dataset(
    server: Server, tmp_path: Path
) -> None:
    folder = tmp_path / "data" / "ccp"
    download.fetch_archive(url(server), str(folder))
    assert (folder / "photo").read_text() == "x" * 5000
    assert os.listdir(folder.parent) == ["ccp"]


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_transfer_goes_on_or_starts_anew(
    server: Server, tmp_path: Path, ranges: bool
) -> None:
    server.ranges, server.most = ranges, 300
    folder = tmp_path / "ccp"
    with pytest.raises(SeamlineError, match=r"transfer stopped .* same command again"):
        download.fetch_archive(url(server), str(folder))
    assert not folder.exists()
    download.fetch_archive(url(server), str(folder))
    assert (folder / "photo").read_text() == "x" * 5000
    assert server.asked == ["bytes=0-", "bytes=300-"]


def test_a_complete_archive_whose_unpacking_was_killed_is_used(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "ccp.zip.partial").write_bytes(server.content)
    (tmp_path / "ccp.partial").mkdir()
    (tmp_path / "ccp.partial" / "half").write_text("")
    download.fetch_archive(url(server), str(tmp_path / "ccp"))
    assert sorted(os.listdir(tmp_path / "ccp")) == ["label", "photo"]


def test_a_broken_archive_is_refused_and_removed(
    server: Server, tmp_path: Path
) -> None:
    spoiled = bytearray(server.content)
    spoiled[200] ^= 255
    server.content = bytes(spoiled)
    with pytest.raises(SeamlineError, match="not a sound archive"):
        download.fetch_archive(url(server), str(tmp_path / "ccp"))
    assert os.listdir(tmp_path) in ([], ["ccp.partial"])
    server.content = archive(photo="x", label="y")
    download.fetch_archive(url(server), str(tmp_path / "ccp"))


def test_without_a_network_the_host_is_named(tmp_path: Path) -> None:
    closed = "http://127.0.0.1:9/master.zip"
    fetch = functools.partial(download.fetch_archive, closed, str(tmp_path / "ccp"))
    with pytest.raises(SeamlineError, match="cannot be reached; connect, or put"):
        fetch()
    assert os.listdir(tmp_path) == []
