import base64
import errno
import http.server
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google.auth._exponential_backoff
import google.auth.compute_engine
import google.auth.exceptions
import google.auth.transport.requests
import google_crc32c
import pytest
from google.auth.compute_engine import _metadata

from tests.gcs import Cloud
from tests.gcs_gate import Request
from trainer.errors import SeamlineError
from trainer.storage import bucket_client, buckets

BIG = 20 << 20


def crc32c(content: bytes) -> str:
    return base64.b64encode(google_crc32c.Checksum(content).digest()).decode()


def at_once(call: Callable[[int], Any], *, count: int = 8) -> list[Any]:
    """Results of `call(0)`, `call(1)`… from threads that start at the same moment."""
    start = threading.Barrier(count)
    results: dict[int, Any] = {}

    def one(number: int) -> None:
        start.wait()
        results[number] = call(number)

    threads = [threading.Thread(target=one, args=(k,)) for k in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[number] for number in range(count)]


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """A file of 20 MiB, which goes in three requests."""
    path = tmp_path / "big"
    path.write_bytes(os.urandom(BIG))
    return path


def test_files_are_listed_below_a_folder_with_size_and_checksum(bucket: str) -> None:
    for name in ("run/b/c", "run/a", "run2/x", "run/b.d"):
        buckets.write(f"{bucket}/{name}", name.encode())
    found = buckets.list_files(f"{bucket}/run/")
    assert list(found) == ["a", "b.d", "b/c"]
    assert (found["b/c"].size, found["b/c"].crc32c) == (7, crc32c(b"run/b/c"))
    assert found["a"].generation != found["b/c"].generation
    assert list(buckets.list_files(bucket)) == ["run/a", "run/b.d", "run/b/c", "run2/x"]
    assert buckets.list_files(f"{bucket}/ru") == {}


def test_a_folder_lists_its_own_files_and_folders_only(bucket: str) -> None:
    for name in ("run/b/c", "run/a", "run/b/d/e"):
        buckets.write(f"{bucket}/{name}", b"x")
    assert buckets.list_folder(f"{bucket}/run") == ["a", "b"]
    assert buckets.list_folder(bucket) == ["run"]
    assert buckets.list_folder(f"{bucket}/nowhere") == []


def test_marks_of_empty_folders_are_no_files(cloud: Cloud, bucket: str) -> None:
    cloud.client.bucket(bucket[len("gs://") :]).blob("run/").upload_from_string(b"")
    buckets.write(f"{bucket}/run/a", b"x")
    assert list(buckets.list_files(f"{bucket}/run")) == ["a"]
    assert buckets.list_folder(f"{bucket}/run") == ["a"]


def test_what_exists_is_a_file_a_folder_or_the_bucket(bucket: str) -> None:
    buckets.write(f"{bucket}/run/a", b"x")
    there = ("/run/a", "/run", "/run/", "", "/")
    assert [buckets.exists(bucket + path) for path in there] == [True] * 5
    assert not buckets.exists(f"{bucket}/ru")
    assert not buckets.exists(f"{bucket}/run/a/b")
    assert buckets.info(f"{bucket}/run") is None


def test_of_two_writers_one_creates_a_file(bucket: str) -> None:
    assert buckets.create(f"{bucket}/claim", b"first")
    assert not buckets.create(f"{bucket}/claim", b"second")
    assert buckets.read(f"{bucket}/claim") == b"first"


@pytest.mark.parametrize("same", [False, True], ids=["own content", "the same content"])
def test_of_many_writers_at_once_exactly_one_creates_a_file(
    bucket: str, same: bool
) -> None:
    for turn in range(5):
        contents = [b"x" if same else b"%d" % k for k in range(8)]
        url = f"{bucket}/claim-{turn}"
        made = at_once(lambda k, url=url, c=contents: buckets.create(url, c[k]))
        assert made.count(True) == 1
        assert buckets.read(url) == contents[made.index(True)]


def test_a_creation_whose_answer_was_lost_is_known_as_our_own(
    cloud: Cloud, bucket: str
) -> None:
    # Of the requests at a share of 1/2 every other failing one is carried out.
    with cloud.failing(1 / 2), cloud.watching() as requests:
        made = [buckets.create(f"{bucket}/{k}", b"same") for k in range(6)]
    assert made == [True] * 6
    assert len(requests) > 12
    assert not buckets.create(f"{bucket}/0", b"same")


def test_a_large_file_goes_in_several_requests(
    cloud: Cloud, bucket: str, big: Path
) -> None:
    with cloud.watching() as requests:
        buckets.upload(str(big), f"{bucket}/big")
    assert [x.method for x in requests if "/upload/" in x.path] == [
        "POST",
        *["PUT"] * 3,
    ]
    found = buckets.info(f"{bucket}/big")
    assert found is not None
    assert (found.size, found.crc32c) == (BIG, crc32c(big.read_bytes()))


def test_an_upload_may_be_repeated_but_not_over_other_content(
    cloud: Cloud, bucket: str, big: Path
) -> None:
    buckets.upload(str(big), f"{bucket}/big")
    with cloud.watching() as requests:
        buckets.upload(str(big), f"{bucket}/big")
    assert [x.method for x in requests] == ["GET"]
    big.write_bytes(b"other")
    with pytest.raises(FileExistsError) as caught:
        buckets.upload(str(big), f"{bucket}/big")
    assert caught.value.filename == f"{bucket}/big"
    assert len(buckets.read(f"{bucket}/big")) == BIG


@pytest.mark.parametrize("rival", ["same", "other"])
def test_a_rival_who_finishes_during_our_upload_keeps_the_place(
    cloud: Cloud, bucket: str, big: Path, rival: str
) -> None:
    content = big.read_bytes() if rival == "same" else b"other"
    blob = cloud.client.bucket(bucket[len("gs://") :]).blob("big")

    def interfere(request: Request) -> None:
        if request.method == "PUT" and not blob.exists():
            blob.upload_from_string(content)

    with cloud.watching(interfere):
        if rival == "same":
            buckets.upload(str(big), f"{bucket}/big")
        else:
            with pytest.raises(FileExistsError):
                buckets.upload(str(big), f"{bucket}/big")
    assert blob.download_as_bytes() == content


def test_a_move_may_be_repeated(bucket: str) -> None:
    old, new = f"{bucket}/old", f"{bucket}/folder/new"
    buckets.write(old, b"content")
    buckets.move(old, new)
    buckets.move(old, new)
    assert list(buckets.list_files(bucket)) == ["folder/new"]
    # A move that was cut off between its two steps.
    buckets.write(old, b"content")
    buckets.move(old, new)
    assert list(buckets.list_files(bucket)) == ["folder/new"]


def test_a_move_replaces_what_it_saw_and_nothing_newer(
    cloud: Cloud, bucket: str
) -> None:
    buckets.write(f"{bucket}/old", b"content")
    buckets.write(f"{bucket}/new", b"other")
    with cloud.watching() as seen:
        buckets.move(f"{bucket}/old", f"{bucket}/new")
    assert list(buckets.list_files(bucket)) == ["new"]
    assert buckets.read(f"{bucket}/new") == b"content"
    copies = [x.path for x in seen if "/rewriteTo/" in x.path]
    assert all("ifGenerationMatch=" in path for path in copies)


def test_moving_nothing_is_an_error(bucket: str) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        buckets.move(f"{bucket}/old", f"{bucket}/new")
    assert caught.value.filename == f"{bucket}/old"


def test_many_may_move_the_same_file_at_once(bucket: str) -> None:
    buckets.write(f"{bucket}/old", b"content")
    at_once(lambda _: buckets.move(f"{bucket}/old", f"{bucket}/new"))
    assert list(buckets.list_files(bucket)) == ["new"]


def test_a_file_is_downloaded_and_a_missing_one_is_an_error(
    bucket: str, tmp_path: Path
) -> None:
    buckets.write(f"{bucket}/a", b"content")
    buckets.download(f"{bucket}/a", str(tmp_path / "a"))
    assert (tmp_path / "a").read_bytes() == b"content"
    for call in (
        lambda: buckets.download(f"{bucket}/b", str(tmp_path / "b")),
        lambda: buckets.read(f"{bucket}/b"),
        lambda: buckets.read_range(f"{bucket}/b", 0, 1),
        lambda: buckets.require(f"{bucket}/b"),
    ):
        with pytest.raises(FileNotFoundError) as caught:
            call()
        assert caught.value.errno == errno.ENOENT
        assert caught.value.filename == f"{bucket}/b"


def test_a_range_is_all_that_is_fetched(cloud: Cloud, bucket: str) -> None:
    buckets.write(f"{bucket}/a", bytes(range(100)))
    with cloud.watching() as requests:
        assert buckets.read_range(f"{bucket}/a", 10, 20) == bytes(range(10, 30))
    assert [(x.method, x.range) for x in requests] == [("GET", "bytes=10-29")]


def test_many_ranges_at_once_keep_their_connections(
    cloud: Cloud, bucket: str, caplog: pytest.LogCaptureFixture
) -> None:
    buckets.write(f"{bucket}/a", bytes(range(100)))
    all_there = threading.Barrier(16)

    def hold(request: Request) -> None:
        all_there.wait(timeout=60)

    with cloud.watching(hold):
        read = at_once(lambda k: buckets.read_range(f"{bucket}/a", k, 1), count=16)
    assert read == [bytes([k]) for k in range(16)]
    # The client's library warns of each that it throws away.
    assert caplog.messages == []


def test_removing_is_limited_to_the_folder_and_missing_files_are_fine(
    bucket: str,
) -> None:
    for name in ("run/a", "run/b/c", "run2/x"):
        buckets.write(f"{bucket}/{name}", b"x")
    buckets.remove(f"{bucket}/nothing")
    buckets.remove_all(f"{bucket}/nothing")
    buckets.remove(f"{bucket}/run/a")
    assert list(buckets.list_files(bucket)) == ["run/b/c", "run2/x"]
    buckets.remove_all(f"{bucket}/run")
    assert list(buckets.list_files(bucket)) == ["run2/x"]


def test_all_works_while_a_third_of_the_answers_is_503(
    cloud: Cloud, bucket: str, big: Path, tmp_path: Path
) -> None:
    url = f"{bucket}/run"
    with cloud.failing(1 / 3), cloud.watching() as requests:
        for number in range(3):
            assert buckets.create(f"{url}/{number}", b"%d" % number)
        buckets.write(f"{url}/w", b"w")
        buckets.upload(str(big), f"{url}/big")
        buckets.upload(str(big), f"{url}/big")
        buckets.download(f"{url}/big", str(tmp_path / "copy"))
        buckets.move(f"{url}/0", f"{url}/moved")
        buckets.remove(f"{url}/1")
        names = list(buckets.list_files(url))
        assert buckets.read(f"{url}/moved") == b"0"
        parts = [buckets.read_range(f"{url}/big", k << 20, 1 << 20) for k in range(4)]
        assert b"".join(parts) == big.read_bytes()[: 4 << 20]
        assert buckets.exists(url)
        buckets.remove_all(url)
        assert buckets.list_folder(bucket) == []
    assert names == ["2", "big", "moved", "w"]
    assert (tmp_path / "copy").read_bytes() == big.read_bytes()
    assert len(requests) > 30


@pytest.mark.parametrize(
    "url", ["gs://", "gs:///run", "gs://Upper/run", "gs://x", "gs://a b/c"]
)
def test_a_url_without_a_bucket_is_one_clear_error(url: str) -> None:
    with pytest.raises(SeamlineError, match=r"names no bucket; write gs://BUCKET") as e:
        buckets.list_files(url)
    assert str(e.value).startswith(f"{url}: ")


def test_a_url_without_a_file_is_one_clear_error(bucket: str) -> None:
    with pytest.raises(SeamlineError, match="names no file"):
        buckets.read(f"{bucket}/")


CALLS: dict[str, Callable[[str], Any]] = {
    "list_files": buckets.list_files,
    "list_folder": buckets.list_folder,
    "exists": buckets.exists,
    "info": buckets.info,
    "read": buckets.read,
    "read_range": lambda url: buckets.read_range(url, 0, 1),
    "write": lambda url: buckets.write(url, b""),
    "create": lambda url: buckets.create(url, b""),
    "upload": lambda url: buckets.upload(__file__, url),
    "download": lambda url: buckets.download(url, os.devnull),
    "move": lambda url: buckets.move(url, url + "2"),
    "remove": buckets.remove,
    "remove_all": buckets.remove_all,
    "check_bucket": bucket_client.check_bucket,
}


@pytest.mark.usefixtures("cloud")
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_bucket_that_does_not_exist_is_one_clear_error(
    call: Callable[[str], Any],
) -> None:
    with pytest.raises(SeamlineError, match="no bucket 'typo'; check the name") as e:
        call("gs://typo/run")
    assert "\n" not in str(e.value)
    assert str(e.value).startswith("gs://typo/run: ")


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_missing_rights_are_one_clear_error(
    cloud: Cloud, bucket: str, call: Callable[[str], Any]
) -> None:
    with (
        cloud.watching(lambda request: 403),
        pytest.raises(SeamlineError, match="no permission; give this account") as e,
    ):
        call(f"{bucket}/run")
    assert "\n" not in str(e.value)


def test_rights_to_read_alone_are_one_clear_error_on_writing(
    cloud: Cloud, bucket: str
) -> None:
    def forbid(request: Request) -> int | None:
        return 403 if request.method in ("POST", "PUT", "DELETE") else None

    with cloud.watching(forbid):
        assert buckets.list_files(bucket) == {}
        with pytest.raises(SeamlineError, match=f"{bucket}/run: no permission"):
            buckets.upload(__file__, f"{bucket}/run")


def test_rejected_credentials_are_one_clear_error(cloud: Cloud, bucket: str) -> None:
    with (
        cloud.watching(lambda request: 401),
        pytest.raises(SeamlineError, match="gcloud auth application-default login"),
    ):
        buckets.info(f"{bucket}/run")


def test_without_credentials_the_error_says_how_to_get_some(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(
        SeamlineError, match="no valid Google credentials; run gcloud"
    ) as e:
        buckets.list_files("gs://bucket/run")
    assert isinstance(e.value.__cause__, google.auth.exceptions.DefaultCredentialsError)


@pytest.mark.parametrize(("answer", "exit_code"), [(503, 75), (404, 42)])
def test_a_metadata_server_that_fails_may_be_asked_again_and_one_that_refuses_not(
    monkeypatch: pytest.MonkeyPatch, answer: int, exit_code: int
) -> None:
    class Metadata(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answer)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Says nothing."""

    server = http.server.ThreadingHTTPServer(("localhost", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    place = f"localhost:{server.server_port}"
    monkeypatch.setattr(_metadata, "_GCE_METADATA_HOST", place)
    monkeypatch.setattr(google.auth._exponential_backoff.time, "sleep", lambda s: None)
    credentials = google.auth.compute_engine.Credentials()
    with pytest.raises(SeamlineError) as e, bucket_client.explained("gs://bucket/x"):
        credentials.refresh(google.auth.transport.requests.Request())
    server.shutdown()
    assert e.value.exit_code == exit_code
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "call", ["read", "read_range", "create", "list_files", "upload"]
)
def test_a_server_that_stays_away_is_one_clear_error(
    cloud: Cloud, bucket: str, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr(bucket_client, "DEADLINE", 0.3)
    with (
        cloud.failing(1.0),
        pytest.raises(SeamlineError, match="could not be reached for") as e,
    ):
        CALLS[call](f"{bucket}/run")
    assert "\n" not in str(e.value)
    assert "503" in str(e.value)
    assert e.value.exit_code == 75


def _other_process(url: str, environment: dict[str, str], answers: Any) -> None:
    # A fork server that an earlier test started knows nothing of this one's server.
    os.environ.update(environment)
    answers.put(buckets.create(url, b"child"))


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_the_client_works_in_child_processes(bucket: str, method: str) -> None:
    assert buckets.create(f"{bucket}/parent", b"")
    context: Any = multiprocessing.get_context(method)
    answers = context.Queue()
    child = context.Process(
        target=_other_process, args=(f"{bucket}/child", dict(os.environ), answers)
    )
    child.start()
    assert answers.get(timeout=60)
    child.join(timeout=60)
    assert child.exitcode == 0
    assert buckets.read(f"{bucket}/child") == b"child"


def test_an_upload_killed_half_way_leaves_nothing_and_may_be_repeated(
    cloud: Cloud, bucket: str, big: Path
) -> None:
    script = (
        "import sys; from trainer.storage import buckets;buckets.upload(*sys.argv[1:])"
    )
    command = [sys.executable, "-c", script, str(big), f"{bucket}/big"]
    started, puts = threading.Event(), []

    def kill(request: Request) -> None:
        if request.method == "PUT":
            puts.append(request)
            if len(puts) == 2:
                started.wait()
                process.kill()
                process.wait()

    with cloud.watching(kill):
        process = subprocess.Popen(command, cwd=Path(__file__).parent.parent)
        started.set()
        assert process.wait(timeout=60) == -signal.SIGKILL
    assert buckets.list_files(bucket) == {}
    buckets.upload(str(big), f"{bucket}/big")
    assert buckets.require(f"{bucket}/big").size == BIG
