"""The gate in front of the Cloud Storage server of the tests; see `tests/gcs.py`."""

from __future__ import annotations

import dataclasses
import http.client
import http.server
import json
import re
import socket
import socketserver
import ssl
import threading
import urllib.parse
from collections.abc import Callable
from typing import Any

HOSTS = ("www.googleapis.com", "storage.googleapis.com")
_HOP_BY_HOP = {"transfer-encoding", "connection", "expect", "content-length"}

# Requests that carry a condition which fake-gcs-server does not check.
_COPY = re.compile(r"/b/[^/]+/o/[^/]+/(?:rewriteTo|copyTo)/b/([^/]+)/o/([^/]+)$")
_BUCKET = re.compile(r"/storage/v1/b/[^/?]+(?:\?|$)")
_OBJECT = re.compile(r"/storage/v1/b/([^/]+)/o/([^/]+)$")
_UPLOAD = re.compile(r"/upload/storage/v1/b/([^/]+)/o$")


@dataclasses.dataclass(frozen=True)
class Request:
    """What a client asks for.

    Attributes:
      method: such as "GET".
      path: with its query, unquoted.
      by_tensorflow: False for the Google client.
      body: of the request; an upload begins with the object's name in it.
      range: the header that asks for part of an object, or "".
    """

    method: str
    path: str
    by_tensorflow: bool
    body: bytes = dataclasses.field(default=b"", repr=False)
    range: str = ""

    def makes(self, pattern: str) -> bool:
        """True for an upload or a copy that begins an object named like this."""
        begins = "/upload/" in self.path or "/rewriteTo/" in self.path
        text = self.path.encode() + self.body[:2000]
        return begins and bool(re.search(pattern.encode(), text, re.DOTALL))


Answer = tuple[int, dict[str, str], bytes]
"""Status, headers and body."""

Hook = Callable[[Request], int | None]
"""Sees a request before the server does; a status to answer it with, or None."""


class _Handler(http.server.BaseHTTPRequestHandler):
    """Serves one connection of a client; plain, or TLS within CONNECT."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Gate
    _upstream: http.client.HTTPConnection | None = None

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_CONNECT(self) -> None:
        if self.path.rsplit(":", 1)[0] not in HOSTS:
            self.send_error(403)
            return
        self.send_response(200, "Connection established")
        self.end_headers()
        self.wfile.flush()
        self.connection = self.server.tls.wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb", -1)
        self.wfile = socketserver._SocketWriter(self.connection)  # type: ignore
        self.close_connection = False

    def _handle(self) -> None:
        body = self._read_body()
        by_tensorflow = isinstance(self.connection, ssl.SSLSocket)
        path = urllib.parse.unquote(self.path)
        part = self.headers.get("Range") or ""
        request = Request(self.command, path, by_tensorflow, body, part)
        status, lost = self.server.decide(request)
        if status is not None and not lost:
            self._answer(status, {}, b"")
            return
        answer = self.server.serve(self, body)
        self._answer(*((status, {}, b"") if status is not None else answer))

    do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = do_HEAD = _handle

    def _read_body(self) -> bytes:
        # TensorFlow sends both headers; the chunks are what comes.
        if "chunked" not in (self.headers.get("Transfer-Encoding") or ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while length := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(length))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def ask(
        self, method: str, path: str, headers: dict[str, str], body: bytes = b""
    ) -> Answer:
        """Asks the server itself."""
        if self._upstream is None:
            self._upstream = http.client.HTTPConnection(*self.server.upstream)
            self._upstream.connect()
            self._upstream.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._upstream.request(method, path, body=body, headers=headers)
        answer = self._upstream.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()

    def forward(self, body: bytes) -> Answer:
        """The server's answer to this very request."""
        headers = {
            k: v for k, v in self.headers.items() if k.lower() not in _HOP_BY_HOP
        }
        headers["Content-Length"] = str(len(body))
        return self.ask(self.command, self.path, headers, body)

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() == "location":
                value = self._own_address(value)
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        length = headers.get("Content-Length", "0")
        self.send_header(
            "Content-Length", length if self.command == "HEAD" else str(len(body))
        )
        self.end_headers()
        self.wfile.write(body)

    def _own_address(self, url: str) -> str:
        """The same place, as this client reaches it."""
        scheme = "https" if isinstance(self.connection, ssl.SSLSocket) else "http"
        host = self.headers["Host"]
        return urllib.parse.urlsplit(url)._replace(scheme=scheme, netloc=host).geturl()


class Gate(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, tls: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.tls = tls
        self.upstream = ("127.0.0.1", 0)
        self.seen: list[Request] = []
        self.hook: Hook = lambda request: None
        self.share = 0.0
        self._count = self._faults = 0
        self._lock = threading.Lock()
        self._conditions = threading.Lock()
        self._uploads: dict[str, tuple[str, str, int]] = {}
        self._parts: dict[str, dict[str, Answer]] = {}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: clients that are killed close their connections."""

    def decide(self, request: Request) -> tuple[int | None, bool]:
        """A status to answer with instead of the server, and whether it still works."""
        # The Google client asks for the bucket in the background, now and then.
        if _BUCKET.search(request.path):
            return None, False
        status = self.hook(request)
        with self._lock:
            self.seen.append(request)
            if status is not None:
                return status, False
            before, self._count = self._count, self._count + 1
            if int(self._count * self.share) == int(before * self.share):
                return None, False
            self._faults += 1
            # Every other time the work is done and only its answer is lost.
            return 503, self._faults % 2 == 0

    def fail(self, share: float) -> None:
        with self._lock:
            self.share, self._count, self._faults = share, 0, 0

    def serve(self, handler: _Handler, body: bytes) -> Answer:
        """What Cloud Storage would answer, where fake-gcs-server falls short of it.

        It ignores some conditions, which give 412 here; it adds a part of an upload
        twice that came twice, since the first answer was lost; and it takes the
        question how much of an upload has come for its end.
        """
        content_range = handler.headers.get("Content-Range")
        if handler.command != "PUT" or content_range is None:
            return self._serve_once(handler, body)
        parts = self._parts.setdefault(handler.path, {})
        if content_range.startswith("bytes */"):
            return self._upload_so_far(parts)
        if content_range not in parts:
            parts[content_range] = self._serve_once(handler, body)
        return parts[content_range]

    def _upload_so_far(self, parts: dict[str, Answer]) -> Answer:
        """How much of an upload has come: the answer to its last part."""
        if parts:
            return list(parts.values())[-1]
        return 308, {}, b""

    def _serve_once(self, handler: _Handler, body: bytes) -> Answer:
        condition = self._condition(handler, body)
        if condition is None:
            return handler.forward(body)
        bucket, name, generation = condition
        with self._conditions:
            there = handler.ask("GET", f"/storage/v1/b/{bucket}/o/{name}", {})
            now = int(json.loads(there[2])["generation"]) if there[0] == 200 else 0
            if now != generation and not (there[0] == 404 and generation):
                return 412, {}, b"{}"
            answer = handler.forward(body)
        if "X-Goog-Upload-Url" in answer[1] or "Location" in answer[1]:
            self._uploads[_upload_id(answer[1]["Location"])] = condition
        return answer

    def _condition(self, handler: _Handler, body: bytes) -> tuple[str, str, int] | None:
        """Bucket, quoted name and generation that must be there (0: none)."""
        url = urllib.parse.urlsplit(handler.path)
        query = {k: v[0] for k, v in urllib.parse.parse_qs(url.query).items()}
        if upload := self._uploads.get(query.get("upload_id", "")):
            return upload
        generation = query.get("ifGenerationMatch")
        if generation is None:
            return None
        if match := _COPY.search(url.path):
            return match[1], match[2], int(generation)
        if handler.command == "DELETE" and (match := _OBJECT.search(url.path)):
            return match[1], match[2], int(generation)
        if query.get("uploadType") == "resumable" and (
            match := _UPLOAD.search(url.path)
        ):
            name = query.get("name") or json.loads(body)["name"]
            return match[1], urllib.parse.quote(name, safe=""), int(generation)
        return None


def _upload_id(url: str) -> str:
    return urllib.parse.parse_qs(urllib.parse.urlsplit(url).query)["upload_id"][0]
