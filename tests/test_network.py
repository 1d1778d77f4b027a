"""Network failures that may pass by themselves end in 75, definite answers in 42."""

from __future__ import annotations

import http.client
import http.server
import ssl
import threading
import urllib.error
from collections.abc import Callable, Iterator
from email.message import Message
from pathlib import Path

import keras
import pytest

from trainer import endings
from trainer.data import download, sources
from trainer.errors import Unavailable
from trainer.model import encoders
from trainer.storage import network


def answer(code: int) -> urllib.error.HTTPError:
    return urllib.error.HTTPError("https://host/file", code, "", Message(), None)


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        *((answer(code), True) for code in (408, 429, 500, 503)),
        *((answer(code), False) for code in (400, 401, 403, 404, 410)),
        (urllib.error.URLError(OSError("no route to host")), True),
        (urllib.error.URLError(ssl.SSLCertVerificationError("self-signed")), False),
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (http.client.IncompleteRead(b""), True),
        (PermissionError("disk"), False),
        (ValueError("Incomplete or corrupted file detected"), False),
    ],
    ids=repr,
)
def test_what_may_pass_is_told_from_a_definite_answer(
    error: Exception, passes: bool
) -> None:
    assert network.may_pass(error) == passes


def test_the_cause_of_an_error_that_says_nothing_decides() -> None:
    for code, passes in ((503, True), (404, False)):
        error = Exception("URL fetch failure")
        error.__context__ = answer(code)
        assert network.may_pass(error) == passes


class Refusing(http.server.BaseHTTPRequestHandler):
    """Answers everything with the status of its server."""

    def do_GET(self) -> None:
        self.send_error(self.server.status)  # type: ignore[attr-defined]

    def log_message(self, *unused: object) -> None:
        """Keeps the test's output quiet."""


@pytest.fixture
def serve() -> Iterator[Callable[[int], str]]:
    """Status -> the address of a server that always answers so."""
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()

    def at(status: int) -> str:
        running.status = status  # type: ignore[attr-defined]
        return f"http://127.0.0.1:{running.server_address[1]}/file"

    yield at
    running.shutdown()
    thread.join()
    running.server_close()


def code_of(action: Callable[[], object]) -> tuple[str, int]:
    """The line and the exit code with which an action ends."""
    with pytest.raises(Exception) as raised:  # noqa: PT011
        action()
    ending = endings.explain(raised.value)
    assert ending is not None, raised.value
    return ending


@pytest.mark.parametrize(("status", "code"), [(404, 42), (503, 75)])
def test_a_dataset_that_is_not_served_is_definite_and_an_ill_server_is_not(
    status: int, code: int, serve: Callable[[int], str], tmp_path: Path
) -> None:
    url = serve(status)
    line, found = code_of(lambda: download.fetch_archive(url, str(tmp_path / "ccp")))
    assert found == code, line
    assert line.startswith(f"{url}: ")
    assert str(status) in line


def test_ccp_asked_for_by_name_without_a_network_may_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources.storage, "reachable", lambda url: False)
    line, code = code_of(lambda: sources.find("ccp"))
    assert code == 75
    assert "github.com cannot be reached" in line
    assert list(tmp_path.iterdir()) == []


def test_imagenet_asked_for_by_name_without_a_network_may_be_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encoders, "imagenet_available", lambda name, **_: False)
    line, code = code_of(
        lambda: encoders.resolve_weights("mobilenetv2", "imagenet", image_size=32)
    )
    assert code == 75
    assert line.startswith("--encoder_weights=imagenet: ")


@pytest.mark.parametrize(("status", "code"), [(404, 42), (503, 75)])
def test_weights_that_keras_cannot_fetch_end_by_what_their_server_says(
    status: int,
    code: int,
    serve: Callable[[int], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = serve(status)

    def construct(*unused: object) -> keras.Model:
        place = {"cache_dir": str(tmp_path), "cache_subdir": "models"}
        return keras.utils.get_file("weights.h5", url, **place)

    monkeypatch.setattr(encoders, "_construct", construct)
    line, found = code_of(
        lambda: encoders.build_encoder("mobilenetv2", image_size=32, weights="imagenet")
    )
    assert found == code, line
    assert str(status) in line


def test_a_bucket_of_weights_that_is_away_may_be_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def away(path: str) -> bytes:
        raise Unavailable(f"{path}: Cloud Storage could not be reached")

    monkeypatch.setattr(encoders.storage, "read_bytes", away)
    line, code = code_of(
        lambda: encoders.build_encoder(
            "mobilenetv2", image_size=32, weights="gs://bucket/weights.h5"
        )
    )
    assert (line, code) == (
        "gs://bucket/weights.h5: Cloud Storage could not be reached",
        75,
    )
