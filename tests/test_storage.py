import os
import socket
import threading
from pathlib import Path

import pytest

from trainer import storage
from trainer.errors import SeamlineError


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
