import re
from pathlib import Path
from typing import Any

import pytest

from trainer import storage
from trainer.data import folders
from trainer.data.folders import Layout, Pairs
from trainer.errors import SeamlineError


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def layout(folder: Path | str, images: str, masks: str, **values: Any) -> Layout:
    return Layout(
        images_dir=storage.join(str(folder), images),
        masks_dir=storage.join(str(folder), masks),
        label_names="names.txt",
        **values,
    )


def find(
    folder: Path, images: str = "images", masks: str = "masks", **how: Any
) -> Pairs:
    return folders.find_pairs(layout(folder, images, masks, **how))


def test_photos_and_masks_pair_by_name_whatever_the_ending(tmp_path: Path) -> None:
    make(tmp_path, "images/b.JPG", "images/a.png", "images/c.jpeg", "images/notes.txt")
    make(tmp_path, "masks/a.mat", "masks/b.PNG", "masks/c.png", "masks/c.jpg")
    found = find(tmp_path)
    assert found.folder == str(tmp_path)
    assert list(found.files.items()) == [
        ("a", ("images/a.png", "masks/a.mat")),
        ("b", ("images/b.JPG", "masks/b.PNG")),
        ("c", ("images/c.jpeg", "masks/c.png")),
    ]
    assert found.infos["images/b.JPG"].size == len("images/b.JPG")
    assert sorted(found.infos) == sorted(
        x for pair in found.files.values() for x in pair
    )


def test_ids_are_paths_without_suffix_and_ending(tmp_path: Path) -> None:
    make(tmp_path, "left/val/ulm/ulm_01_left.png", "left/val/ulm/ulm_02_left.png")
    for kind in ("labelIds", "color", "instanceIds", "polygons"):
        make(tmp_path, f"fine/val/ulm/ulm_01_fine_{kind}.png")
    make(tmp_path, "fine/val/ulm/ulm_03_fine_labelIds.png", "fine/val/ulm/x.json")
    suffixes = {"image_suffix": "_left", "mask_suffix": "_fine_labelIds"}
    found = find(tmp_path, "left", "fine", **suffixes)
    photo, mask = "val/ulm/ulm_01_left.png", "val/ulm/ulm_01_fine_labelIds.png"
    assert found.files == {"val/ulm/ulm_01": (f"left/{photo}", f"fine/{mask}")}
    assert found.orphans == ("fine/val/ulm/ulm_03_fine_labelIds.png",)
    assert found.photos == ("val/ulm/ulm_01", "val/ulm/ulm_02")


def test_the_same_name_in_two_folders_is_two_photos(tmp_path: Path) -> None:
    make(tmp_path, *(f"{kind}/{x}/1.png" for kind in ("images", "masks") for x in "ab"))
    assert list(find(tmp_path).files) == ["a/1", "b/1"]


def test_hidden_files_and_folders_are_no_photos(tmp_path: Path) -> None:
    hidden = ("._a.png", ".DS_Store", ".ipynb_checkpoints/a.png", "x/._a.png")
    for kind in ("images", "masks"):
        make(tmp_path, f"{kind}/a.png", *(f"{kind}/{name}" for name in hidden))
    found = find(tmp_path)
    assert (found.photos, found.masks) == (("a",), ("a",))


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_two_files_of_one_id_are_refused(tmp_path: Path, kind: str) -> None:
    ending = {"images": "jpg", "masks": "mat"}[kind]
    make(tmp_path, "images/a.png", "masks/a.png", f"{kind}/a.{ending}")
    with pytest.raises(
        SeamlineError,
        match=rf"--{kind}_dir=.*{kind}: {kind}/a.* and {kind}/a.* have the same id 'a'",
    ):
        find(tmp_path)


@pytest.mark.parametrize(
    ("photo", "mask", "how"),
    [
        ("a.png", "a_mask.png", {"mask_suffix": "_mask"}),
        ("a_rgb.png", "a.png", {"image_suffix": "_rgb"}),
        ("a_rgb.png", "a_gt.png", {"image_suffix": "_rgb", "mask_suffix": "_gt"}),
        ("a_id.png", "a_gt_id.png", {"image_suffix": "_id", "mask_suffix": "_gt_id"}),
        ("a.jpg", "a.png", {}),
        ("a.jpg", "a.mat", {}),
        ("a/rgb.png", "a/gt.png", {"image_suffix": "/rgb", "mask_suffix": "/gt"}),
    ],
)
def test_photos_and_masks_may_share_a_folder(
    tmp_path: Path, photo: str, mask: str, how: dict[str, str]
) -> None:
    make(tmp_path, f"all/{photo}", f"all/{mask}")
    found = find(tmp_path, "all", "all", **how)
    assert found.files == {"a": (photo, mask)}
    assert (found.orphans, found.photos) == ((), ("a",))


def test_a_file_that_is_all_suffix_has_no_id(tmp_path: Path) -> None:
    make(tmp_path, "images/a.png", "masks/a_gt.png", "masks/_gt.png", "masks/x/_gt.png")
    assert find(tmp_path, mask_suffix="_gt").masks == ("a",)


def test_one_folder_may_lie_in_the_other(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "masks/a.png")
    found = find(tmp_path, "", "masks")
    assert found.files == {"a": ("a.png", "masks/a.png")}
    assert found.photos == ("a",)
    found = find(tmp_path, "masks", "")
    assert found.files == {"a": ("masks/a.png", "a.png")}
    assert found.orphans == ()


def test_folders_far_apart_have_a_common_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "x/images/a.png", "y/z/a.png")
    monkeypatch.chdir(tmp_path / "x")
    found = folders.find_pairs(
        Layout(images_dir="images/", masks_dir="../y/z", label_names="names.txt")
    )
    assert found.folder == str(tmp_path)
    assert found.files == {"a": ("x/images/a.png", "y/z/a.png")}


def test_a_folder_in_a_bucket_is_listed_alike(tmp_path: Path, bucket: str) -> None:
    names = ("set/images/u/a_x.jpg", "set/masks/u/a.png", "set/masks/u/b.png")
    make(tmp_path, *names)
    for name in names:
        storage.write_bytes(f"{bucket}/{name}", name.encode())
    here = find(tmp_path / "set", image_suffix="_x")
    there = folders.find_pairs(
        layout(f"{bucket}/set/", "images", "masks/", image_suffix="_x")
    )
    assert there.folder == f"{bucket}/set"
    assert (there.files, there.orphans) == (here.files, here.orphans)
    assert there.files == {"u/a": ("images/u/a_x.jpg", "masks/u/a.png")}
    sizes = {name: info.size for name, info in here.infos.items()}
    assert {name: info.size for name, info in there.infos.items()} == sizes
    assert all(info.crc32c for info in there.infos.values())


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("gs://one/images", "gs://two/masks"),
        ("gs://one/images", "masks"),
        ("x", "gs://b"),
    ],
)
def test_folders_without_a_common_place_are_refused(images: str, masks: str) -> None:
    apart = Layout(images_dir=images, masks_dir=masks, label_names="names.txt")
    with pytest.raises(SeamlineError, match="local or in the same bucket"):
        folders.find_pairs(apart)


@pytest.mark.parametrize(
    ("names", "how", "problem"),
    [
        (["masks/a.png"], {}, r"--images_dir=.*images: no photos \(\*\.jpg, "),
        (["images/a.png"], {}, r"--masks_dir=.*masks: no masks \(\*\.mat, \*\.png\)"),
        (
            ["images/a.jpg", "masks/a.png"],
            {"mask_suffix": "_gt"},
            r"--masks_dir=.*: no masks \(\*_gt\.mat, \*_gt\.png\) .* --mask_suffix",
        ),
        (
            ["images/a_x.jpg", "masks/a_gt.png", "masks/b_gt.png"],
            {},
            r"--images_dir=.*: no pairs: 1 photos and 2 masks.*'a_x'.*'a_gt'.*_suffix",
        ),
    ],
)
def test_no_pairs_are_explained(
    tmp_path: Path, names: list[str], how: dict[str, str], problem: str
) -> None:
    make(tmp_path, "images/notes.txt", "masks/notes.txt", *names)
    wanted = layout(tmp_path, "images", "masks", **how)
    text = folders.explain_no_pairs(wanted, folders.find_pairs(wanted))
    assert re.search(problem, text), text
