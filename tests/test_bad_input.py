"""What users get wrong: one clear line, exit code 42, and nothing written."""

from __future__ import annotations

import concurrent.futures
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io

from tests.conftest import run_command


def photo(folder: Path, image_id: str = "0002") -> Path:
    return folder / "photos" / f"{image_id}.jpg"


def mask(folder: Path, image_id: str = "0002") -> Path:
    return folder / "annotations" / "pixel-level" / f"{image_id}.mat"


def save_mask(folder: Path, values: np.ndarray, name: str = "groundtruth") -> None:
    scipy.io.savemat(mask(folder), {name: values}, do_compression=True)


def truncate(folder: Path) -> None:
    os.truncate(photo(folder), photo(folder).stat().st_size // 2)


def empty(folder: Path) -> None:
    photo(folder).write_bytes(b"")


def text_as_photo(folder: Path) -> None:
    photo(folder).write_text("not a photo, whatever its name says")


def damaged_png_photo(folder: Path) -> None:
    image = cv2.imread(str(photo(folder)))
    photo(folder).unlink()
    content = bytearray(cv2.imencode(".png", image)[1].tobytes())
    content[len(content) // 2] ^= 1
    photo(folder).with_suffix(".png").write_bytes(content)


def unreadable_photo(folder: Path) -> None:
    photo(folder).unlink()
    photo(folder).symlink_to(folder / "gone.jpg")


def repeated_photo(folder: Path) -> None:
    shutil.copy(photo(folder, "0003"), photo(folder, "0009"))


def mask_without_photo(folder: Path) -> None:
    photo(folder).unlink()


def mask_of_another_size(folder: Path) -> None:
    save_mask(folder, np.zeros((400, 300), np.uint8))


def label_without_a_name(folder: Path) -> None:
    save_mask(folder, np.full((300, 200), 77, np.uint8))


def mask_of_nothing_but_ignored(folder: Path) -> None:
    save_mask(folder, np.full((300, 200), 255, np.uint8))


def mask_of_floats(folder: Path) -> None:
    save_mask(folder, np.zeros((300, 200)))


def mask_under_another_name(folder: Path) -> None:
    save_mask(folder, np.zeros((300, 200), np.uint8), name="labels")


def mask_cut_short(folder: Path) -> None:
    os.truncate(mask(folder), mask(folder).stat().st_size - 40)


def mask_with_a_flipped_byte(folder: Path) -> None:
    save_mask(folder, np.arange(60000, dtype=np.uint8).reshape(300, 200) % 59)
    content = bytearray(mask(folder).read_bytes())
    content[-30] ^= 4
    mask(folder).write_bytes(content)


def photo_longer_than_a_jpeg(folder: Path) -> None:
    photo(folder).unlink()
    long = np.zeros((2, 70_000, 3), np.uint8)
    cv2.imwrite(str(photo(folder).with_suffix(".png")), long)
    save_mask(folder, np.zeros((2, 70_000), np.uint8))


def name_that_is_no_utf8(folder: Path) -> None:
    name = os.fsencode(folder / "photos") + b"/caf\xe9.jpg"
    Path(os.fsdecode(name)).write_bytes(photo(folder).read_bytes())


def no_label_list(folder: Path) -> None:
    (folder / "label_list.mat").unlink()


def no_pairs(folder: Path) -> None:
    shutil.rmtree(folder / "annotations")


SPOILED: dict[Callable[[Path], None], str] = {
    truncate: r"photos/0002\.jpg: truncated JPEG .*; replace",
    empty: r"photos/0002\.jpg: is empty \(0 bytes\); replace",
    text_as_photo: r"photos/0002\.jpg: cannot be decoded as an image; replace",
    damaged_png_photo: r"photos/0002\.png: damaged PNG .*; replace",
    unreadable_photo: r"photos/0002\.jpg: cannot be read \(No such file",
    repeated_photo: r"photos/0009\.jpg: the same photo as photos/0003\.jpg; .*remove",
    mask_without_photo: r"pixel-level/0002\.mat: has no photo .*; add it or remove",
    mask_of_another_size: r"0002\.mat: mask of 300x400 pixels, but .* 200x300 pixels",
    label_without_a_name: r"0002\.mat: label 77, but label_list\.mat names 0\.\.58",
    mask_of_nothing_but_ignored: r"0002\.mat: every pixel is ignored; label something",
    mask_of_floats: r"0002\.mat: groundtruth is float64 .*; save",
    mask_under_another_name: r"0002\.mat: has no variable 'groundtruth'; save",
    mask_cut_short: r"0002\.mat: not a readable MATLAB file .*; replace",
    mask_with_a_flipped_byte: r"0002\.mat: not a readable MATLAB file .*; replace",
    photo_longer_than_a_jpeg: r"photos/0002\.png: cannot be stored \(JPEG holds",
    name_that_is_no_utf8: r"is no UTF-8 name; rename",
    no_label_list: r"label_list\.mat",
    no_pairs: r"no pairs",
}


@pytest.fixture(scope="module")
def refused(
    drawn: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[subprocess.CompletedProcess[str], list[str]]]:
    """Each spoiled dataset converted by the command; the files it left."""

    def convert(
        spoil: Callable[[Path], None],
    ) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        work = tmp_path_factory.mktemp(spoil.__name__)
        shutil.copytree(drawn, work / "figures")
        spoil(work / "figures")
        command = (
            *("trainer.convert", "--dataset=figures", "--records_dir=new/records"),
            "--record_size=0",
        )
        done = run_command(*command, cwd=work)
        return done, sorted(os.listdir(work))

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        done = pool.map(convert, SPOILED)
        return {x.__name__: y for x, y in zip(SPOILED, done, strict=True)}


@pytest.mark.parametrize("spoil", SPOILED, ids=lambda spoil: spoil.__name__)
def test_one_line_names_the_file_and_the_fix_and_nothing_is_written(
    refused: dict[str, tuple[subprocess.CompletedProcess[str], list[str]]],
    spoil: Callable[[Path], None],
) -> None:
    done, left = refused[spoil.__name__]
    assert done.returncode == 42, done.stderr
    [line] = done.stderr.splitlines()
    assert re.search(SPOILED[spoil], line)
    assert left == ["figures"]


def test_all_problems_of_a_dataset_are_told_in_one_run_or_left_out(
    dataset: Path, tmp_path: Path
) -> None:
    for spoil, image_id in ((truncate, "0002"), (repeated_photo, "0009")):
        spoil(dataset)
        assert photo(dataset, image_id).exists()
    mask(dataset, "0005").write_bytes(b"")
    command = ("trainer.convert", f"--dataset={dataset}", "--records_dir=records")
    done = run_command(*command, cwd=tmp_path)
    assert done.returncode == 42
    assert "3 bad pairs" in done.stderr
    for name in ("0002.jpg", "0009.jpg", "0005.mat"):
        assert name in done.stderr
    assert not (tmp_path / "records").exists()
    done = run_command(*command, "--skip_bad", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3 left out" in done.stdout


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--split_fraction=0"], r"--split_fraction=0\.0: 14 examples give 0"),
        (["--num_hosts=2"], "--num_hosts=2 needs --records_dir"),
        (["--shard_index=3", "--records_dir=r"], "--shard_index=3: --num_hosts=1"),
        (["--verify"], "--verify needs --records_dir"),
        (["--records_dir=figures/photos"], "holds files but no dataset card"),
        (["--dataset=/nowhere"], "--dataset=/nowhere: "),
        (["--dataset=gs://"], "gs://: names no bucket"),
        (["--records_dir=figures/label_list.mat"], "cannot be made a folder"),
        (["--records_dir=s3://bucket/records"], "no file system for 's3://'"),
        (["extra"], "extra: not a flag"),
    ],
)
def test_values_that_cannot_work_are_refused(
    dataset: Path, tmp_path: Path, flags: list[str], problem: str
) -> None:
    before = sorted(path for path in tmp_path.rglob("*"))
    command = ("trainer.convert", "--dataset=figures", *flags)
    done = run_command(*command, cwd=tmp_path)
    assert done.returncode == 42
    [line] = done.stderr.splitlines()
    assert re.search(problem, line)
    assert sorted(path for path in tmp_path.rglob("*")) == before
