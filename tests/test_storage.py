import base64
import errno
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import tensorflow as tf

from tests.conftest import ROOT
from tests.gcs import Cloud
from trainer import storage
from trainer.errors import SeamlineError
from trainer.storage import tf_files


def test_a_file_is_written_whole_and_leaves_no_partial_one(tmp_path: Path) -> None:
    path = str(tmp_path / "card.json")
    storage.write_text(path, "ä" * 1000)
    storage.write_text(path, "ö")
    assert storage.read_text(path) == "ö"
    assert os.listdir(tmp_path) == ["card.json"]


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "card.json")
    storage.write_text(path, "old")

    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        storage.write_text(path, "new")
    assert storage.read_text(path) == "old"


def test_remote_paths_are_joined_with_slashes() -> None:
    assert storage.join("gs://bucket/run/", "a", "b") == "gs://bucket/run/a/b"
    assert storage.is_remote("gs://bucket")
    assert not storage.is_remote("/data/run")


def test_an_unknown_scheme_is_one_clear_error() -> None:
    with pytest.raises(SeamlineError, match="no file system for 'zebra://'"):
        storage.exists("zebra://bucket/file")


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SeamlineError, match="cannot be made a folder"):
        storage.make_folder(str(tmp_path / "file" / "folder"))


def test_listing_a_missing_folder_gives_nothing(tmp_path: Path) -> None:
    assert storage.list_folder(str(tmp_path / "nowhere")) == []


def test_a_listening_host_is_reachable_and_a_closed_port_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert storage.reachable(f"http://127.0.0.1:{port}/x")
    assert not storage.reachable(f"http://127.0.0.1:{port}/x")


def test_behind_a_proxy_the_proxy_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        port = proxy.getsockname()[1]
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
        assert storage.reachable("https://archive.invalid/x")
    assert not storage.reachable("https://archive.invalid/x")


def test_only_folders_made_by_us_and_empty_are_removed(tmp_path: Path) -> None:
    path = str(tmp_path / "a" / "b" / "c")
    missing = storage.missing_parents(path)
    assert missing == [path, str(tmp_path / "a" / "b"), str(tmp_path / "a")]
    storage.make_folder(path)
    (tmp_path / "a" / "kept").write_text("")
    storage.remove_empty_folders(missing)
    assert os.listdir(tmp_path / "a") == ["kept"]
    assert storage.missing_parents("gs://bucket/folder") == []


def test_a_resolver_that_hangs_does_not_hold_us_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released = threading.Event()

    def hangs(*unused: object, **also_unused: object) -> None:
        released.wait()
        raise OSError("released")

    monkeypatch.setattr(socket, "create_connection", hangs)
    # Coming back at all is the proof: nothing releases the resolver before.
    assert not storage.reachable("https://example.test/x", seconds=0.2)
    released.set()


@pytest.fixture(params=["local", "gs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder: local, or a bucket."""
    if request.param == "local":
        folder = tmp_path / "place"
        folder.mkdir()
        return str(folder)
    return request.getfixturevalue("bucket")


def test_files_are_listed_below_a_folder_by_relative_name(place: str) -> None:
    for name in ("b/c/d", "b.e", "a"):
        assert storage.create(storage.join(place, *name.split("/")), name.encode())
    found = storage.list_files(place)
    assert list(found) == ["a", "b.e", "b/c/d"]
    assert [x.size for x in found.values()] == [1, 3, 5]
    assert list(storage.list_files(storage.join(place, "b"))) == ["c/d"]
    assert storage.list_folder(place) == ["a", "b", "b.e"]
    assert storage.list_files(storage.join(place, "nowhere")) == {}
    assert storage.list_files(storage.join(place, "a")) == {}


def test_a_file_has_size_and_checksum_and_a_folder_has_none(place: str) -> None:
    path = storage.join(place, "folder", "file")
    storage.create(path, b"123456789")
    # The check value of CRC-32C is 0xe3069283.
    expected = base64.b64encode(bytes.fromhex("e3069283")).decode()
    assert storage.info(path) == storage.FileInfo(9, expected)
    assert storage.size(path) == 9
    assert storage.info(storage.join(place, "folder")) is None
    assert storage.info(storage.join(place, "nothing")) is None
    assert storage.exists(storage.join(place, "folder"))
    assert not storage.exists(storage.join(place, "nothing"))


def test_the_checksum_of_a_file_of_many_blocks_is_that_of_its_content(
    tmp_path: Path, bucket: str
) -> None:
    (tmp_path / "file").write_bytes(os.urandom(3_500_000))
    storage.upload(str(tmp_path / "file"), f"{bucket}/file")
    assert storage.info(str(tmp_path / "file")) == storage.info(f"{bucket}/file")


def test_a_file_is_created_once_and_never_changed_by_a_later_call(place: str) -> None:
    path = storage.join(place, "new", "folder", "claim")
    assert storage.create(path, b"first")
    assert not storage.create(path, b"second")
    assert not storage.create(path, b"first")
    assert storage.read_bytes(path) == b"first"
    assert list(storage.list_files(place)) == ["new/folder/claim"]


def test_of_many_calls_at_once_exactly_one_creates_the_file(place: str) -> None:
    start, made = threading.Barrier(8), []

    def create(number: int) -> None:
        start.wait()
        if storage.create(storage.join(place, "claim"), b"%d" % number):
            made.append(number)

    threads = [threading.Thread(target=create, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [number] = made
    assert storage.read_bytes(storage.join(place, "claim")) == b"%d" % number
    assert storage.list_folder(place) == ["claim"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_files_are_created_once_where_there_are_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def no_links(*unused: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", no_links)
    path = str(tmp_path / "claim")
    assert storage.create(path, b"first")
    assert not storage.create(path, b"second")
    assert storage.read_bytes(path) == b"first"
    assert os.listdir(tmp_path) == ["claim"]


def test_a_creation_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        storage.create(str(tmp_path / "claim"), b"first")
    assert os.listdir(tmp_path) == []


def test_a_finished_file_gets_to_its_place_and_back(place: str, tmp_path: Path) -> None:
    content = os.urandom(9 << 20)
    (tmp_path / "made").write_bytes(content)
    path = storage.join(place, "folder", "file")
    storage.upload(str(tmp_path / "made"), path)
    assert storage.read_bytes(path) == content
    storage.download(path, str(tmp_path / "back" / "file"))
    assert (tmp_path / "back" / "file").read_bytes() == content
    assert os.listdir(tmp_path / "back") == ["file"]
    assert list(storage.list_files(place)) == ["folder/file"]


def test_a_download_that_fails_leaves_what_was_there(
    place: str, tmp_path: Path
) -> None:
    target = tmp_path / "back" / "file"
    target.parent.mkdir()
    target.write_text("old")
    with pytest.raises(FileNotFoundError) as caught:
        storage.download(storage.join(place, "nothing"), str(target))
    assert caught.value.filename == storage.join(place, "nothing")
    assert target.read_text() == "old"
    assert os.listdir(target.parent) == ["file"]


def test_an_upload_to_another_file_system_is_a_whole_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace
    source = str(tmp_path / "made")

    def across(old: str, new: str) -> None:
        if old == source:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        replace(old, new)

    monkeypatch.setattr(os, "replace", across)
    storage.write_bytes(source, b"content")
    storage.upload(source, str(tmp_path / "folder" / "file"))
    assert (tmp_path / "folder" / "file").read_bytes() == b"content"
    assert os.listdir(tmp_path / "folder") == ["file"]


def test_an_upload_never_replaces_other_content_in_a_bucket(
    tmp_path: Path, bucket: str
) -> None:
    (tmp_path / "one").write_text("one")
    (tmp_path / "two").write_text("two")
    storage.upload(str(tmp_path / "one"), f"{bucket}/file")
    storage.upload(str(tmp_path / "one"), f"{bucket}/file")
    with pytest.raises(FileExistsError):
        storage.upload(str(tmp_path / "two"), f"{bucket}/file")
    assert storage.read_text(f"{bucket}/file") == "one"


def test_a_move_may_be_repeated_and_needs_something_to_move(place: str) -> None:
    old, new = storage.join(place, "old"), storage.join(place, "folder", "new")
    with pytest.raises(FileNotFoundError) as caught:
        storage.move(old, new)
    assert caught.value.filename == old
    assert storage.list_folder(place) == []
    storage.write_text(old, "content")
    storage.move(old, new)
    storage.move(old, new)
    assert list(storage.list_files(place)) == ["folder/new"]
    assert storage.read_text(new) == "content"


def test_a_range_of_a_file_ends_where_the_file_ends(place: str) -> None:
    path = storage.join(place, "file")
    content = bytes(range(100))
    storage.write_bytes(path, content)
    for offset, length in ((0, 1), (0, 100), (7, 20), (90, 20), (99, 1)):
        part = storage.read_range(path, offset, length)
        assert part == content[offset : offset + length]
    assert storage.read_range(path, 100, 5) == b""
    assert storage.read_range(path, 1000, 5) == b""
    storage.write_bytes(path, b"")
    assert storage.read_range(path, 0, 5) == b""


def test_a_range_of_a_missing_file_or_of_no_bytes_is_an_error(place: str) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        storage.read_range(storage.join(place, "nothing"), 0, 1)
    assert caught.value.filename == storage.join(place, "nothing")
    storage.write_bytes(storage.join(place, "file"), b"content")
    for offset, length in ((0, 0), (-1, 2)):
        with pytest.raises(ValueError, match=f"no range: {length} bytes at {offset}"):
            storage.read_range(storage.join(place, "file"), offset, length)


def test_removing_what_is_missing_is_fine(place: str) -> None:
    storage.create(storage.join(place, "folder", "a"), b"")
    storage.create(storage.join(place, "folder2"), b"")
    storage.remove_file(storage.join(place, "nothing"))
    storage.remove_folder(storage.join(place, "nothing"))
    storage.remove_folder(storage.join(place, "folder"))
    assert list(storage.list_files(place)) == ["folder2"]
    storage.remove_file(storage.join(place, "folder2"))
    assert storage.list_files(place) == {}


def test_files_are_written_over_and_opened(place: str) -> None:
    path = storage.join(place, "file")
    storage.write_text(path, "old")
    storage.write_text(path, "ä")
    assert storage.read_text(path) == "ä"
    with storage.open_file(path, "w") as file:
        file.write("streamed")
    with storage.open_file(path) as file:
        assert file.read() == b"streamed"
    assert storage.read_text(path) == "streamed"
    storage.rename(path, storage.join(place, "other"))
    assert storage.list_folder(place) == ["other"]


def test_the_seam_holds_while_a_third_of_the_answers_is_503(
    cloud: Cloud, bucket: str, tmp_path: Path
) -> None:
    with cloud.failing(1 / 3):
        storage.write_text(f"{bucket}/a", "a")
        assert storage.create(f"{bucket}/b", b"b")
        (tmp_path / "c").write_text("c")
        storage.upload(str(tmp_path / "c"), f"{bucket}/c")
        storage.move(f"{bucket}/b", f"{bucket}/d")
        with storage.open_file(f"{bucket}/e", "wb") as file:
            file.write(b"e")
        storage.remove_file(f"{bucket}/a")
        assert storage.list_folder(bucket) == ["c", "d", "e"]
        assert [storage.read_text(f"{bucket}/{x}") for x in "cde"] == ["c", "b", "e"]


def test_linked_folders_are_listed_but_not_without_end(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "photo").write_text("x")
    (tmp_path / "set" / "sub").mkdir(parents=True)
    for name in ("one", "two"):
        (tmp_path / "set" / name).symlink_to(tmp_path / "outside")
    (tmp_path / "set" / "sub" / "up").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "dangling").symlink_to(tmp_path / "gone")
    # What a link misses is told by whoever wants to read it.
    listed = list(storage.list_files(str(tmp_path / "set")))
    assert listed == ["dangling", "one/photo", "two/photo"]


def test_a_folder_in_a_bucket_that_does_not_exist_cannot_be_made(cloud: Cloud) -> None:
    with pytest.raises(SeamlineError, match="gs://typo/run: there is no bucket 'typo'"):
        storage.make_folder("gs://typo/run")
    storage.make_folder(f"gs://{cloud.new_bucket()}/run")


def read(url: str) -> None:
    with storage.open_file(url) as file:
        file.read()


def test_reading_what_is_missing_or_forbidden_in_tensorflow_is_one_clear_error(
    cloud: Cloud, bucket: str
) -> None:
    for url in ("gs://typo/a", f"{bucket}/a"):
        with pytest.raises(SeamlineError, match=f"{url}: not there; check") as caught:
            read(url)
        assert "\n" not in str(caught.value)
    with (
        cloud.watching(lambda request: 403),
        pytest.raises(SeamlineError, match=f"{bucket}/a: no permission, or no valid"),
    ):
        read(f"{bucket}/a")


WRITE = """
import sys
from trainer import errors, storage
for url in sys.argv[1:]:
    try:
        with storage.open_file(url, "wb") as file:
            file.write(b"x")
    except errors.SeamlineError as error:
        print(error)
"""


def test_writing_what_is_missing_or_forbidden_in_tensorflow_is_one_clear_error(
    cloud: Cloud, bucket: str
) -> None:
    # Not in this process: TensorFlow tries once more when it frees such a file, and
    # would hold up the threads of the gate meanwhile.
    command = [sys.executable, "-c", WRITE, "gs://typo/a", f"{bucket}/a"]
    with cloud.watching(lambda request: None if "typo" in request.path else 403):
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True
        )
    missing, forbidden = done.stdout.splitlines()
    assert missing.startswith("gs://typo/a: not there; check the name")
    assert forbidden.startswith(f"{bucket}/a: no permission, or no valid Google")
    assert storage.list_folder(bucket) == []


def test_errors_that_are_no_mistake_of_the_user_are_not_explained() -> None:
    away = tf.errors.UnavailableError(None, None, "reading gs://bucket/a: code 503")
    assert tf_files.explain(away) is None
    assert tf_files.explain(ValueError("gs://bucket/a: no number")) is None
    local = tf.errors.NotFoundError(None, None, "/data/a; No such file or directory")
    assert tf_files.explain(local) is None
