"""Which photos are predicted, and what their results are called."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from trainer import storage
from trainer.errors import SeamlineError
from trainer.results.photo_files import find_photos, name_targets


def fill(folder: Path, *names: str) -> str:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return str(folder)


def test_photos_of_all_subfolders_are_found_and_other_files_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = fill(
        tmp_path / "photos",
        *("b.PNG", "a.jpg", "deep/er/c.webp", "notes.txt", "deep/mask.mat"),
        *("._a.jpg", ".cache/d.jpg"),
    )
    with caplog.at_level(logging.INFO, "seamline"):
        found = find_photos(source, str(tmp_path / "out"))
    assert [file.name for file in found] == ["a.jpg", "b.PNG", "deep/er/c.webp"]
    assert [file.target for file in found] == ["a", "b", "deep/er/c"]
    assert found[2].path == f"{source}/deep/er/c.webp"
    assert f"Photos: 3 in {source}; 2 files of other kinds left aside" in caplog.text


@pytest.mark.parametrize(
    ("names", "targets"),
    [
        (["a.jpg", "a.png", "b.jpg"], ["a.jpg", "a.png", "b"]),
        (["a.jpg", "x/a.png"], ["a", "x/a"]),
        (["a.jpg", "a.jpg.png", "a.png"], ["a.jpg", "a.jpg.png", "a.png"]),
        (["a.b.jpg", "a.jpg"], ["a.b", "a"]),
    ],
)
def test_no_two_photos_share_a_result(names: list[str], targets: list[str]) -> None:
    assert name_targets(names) == targets


def test_a_photo_may_be_named_directly(tmp_path: Path) -> None:
    source = fill(tmp_path, "one.TIF")
    [file] = find_photos(f"{source}/one.TIF", source)
    assert (file.name, file.target, file.size) == ("one.TIF", "one", 1)


@pytest.mark.parametrize("name", ["notes.txt", "missing.jpg", "", "folder"])
def test_what_is_no_photo_is_one_line(name: str, tmp_path: Path) -> None:
    fill(tmp_path, "notes.txt", "folder/notes.txt")
    with pytest.raises(SeamlineError, match=r"--input=.*: no photo \(\.jpg, .*there"):
        find_photos(str(tmp_path / name), str(tmp_path / "out"))


def test_results_below_the_photos_are_not_photos(tmp_path: Path) -> None:
    source = fill(tmp_path, "a.jpg", "out/a.labels.png", "outer/b.jpg")
    found = find_photos(source, f"{source}/out")
    assert [file.name for file in found] == ["a.jpg", "outer/b.jpg"]
    with pytest.raises(
        SeamlineError, match=r"--output_dir=.* the folder of the photos"
    ):
        find_photos(source, f"{source}/outer/..")


def test_photos_of_a_bucket_are_found_like_those_of_a_folder(bucket: str) -> None:
    for name in ("in/a.jpg", "in/a.png", "in/b/c.jpg", "in/b/notes.txt", "in2/d.jpg"):
        storage.write_bytes(f"{bucket}/{name}", b"xx")
    found = find_photos(f"{bucket}/in/", f"{bucket}/in/b")
    assert [file.target for file in found] == ["a.jpg", "a.png"]
    found = find_photos(f"{bucket}/in", f"{bucket}/out")
    assert [file.target for file in found] == ["a.jpg", "a.png", "b/c"]
    assert (found[2].path, found[2].size) == (f"{bucket}/in/b/c.jpg", 2)
    [file] = find_photos(f"{bucket}/in/a.jpg", f"{bucket}/out")
    assert (file.path, file.target) == (f"{bucket}/in/a.jpg", "a")
