"""Folders of photos and masks -> pairs, by listing both; no file is read here."""

from __future__ import annotations

import dataclasses
import itertools
import os
import posixpath

from trainer import storage
from trainer.data.pairs import MASK_ENDINGS, PHOTO_ENDINGS
from trainer.errors import SeamlineError
from trainer.layout import Layout

__all__ = ["Layout", "Pairs", "explain_no_pairs", "find_pairs"]


@dataclasses.dataclass(frozen=True)
class Pairs:
    """What two folders hold.

    Attributes:
      folder: their common parent.
      files: image id -> (photo, mask), paths relative to `folder`; sorted by id.
      infos: of every photo and mask in `files`, by the same paths.
      orphans: masks without a photo, paths relative to `folder`; sorted by id.
      photos, masks: all ids of each kind, sorted.
    """

    folder: str
    files: dict[str, tuple[str, str]]
    infos: dict[str, storage.FileInfo]
    orphans: tuple[str, ...]
    photos: tuple[str, ...]
    masks: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _Side:
    """One of the two folders: which of its files count."""

    flag: str
    folder: str
    suffix: str
    endings: tuple[str, ...]

    def takes(self, name: str) -> bool:
        stem, ending = posixpath.splitext(name)
        rest = stem.removesuffix(self.suffix)
        named = stem.endswith(self.suffix) and rest and not rest.endswith("/")
        return bool(named) and ending.lower() in self.endings

    def shares_with(self, other: _Side) -> bool:
        """True when a file both would take is the other's."""
        return self.folder == other.folder and len(self.suffix) < len(other.suffix)


def find_pairs(layout: Layout) -> Pairs:
    """Pairs photos and masks by their ids.

    An id is the path below the folder without suffix and ending. In one folder for
    both, a file that ends in both suffixes is of the longer one, and without suffixes
    `.png` files are masks.

    Raises:
      SeamlineError: folders without a common parent, or two files with the same id.
    """
    images_dir, masks_dir = _whole(layout.images_dir), _whole(layout.masks_dir)
    folder = _common_parent(images_dir, masks_dir)
    endings: tuple[str, ...] = PHOTO_ENDINGS
    if images_dir == masks_dir and layout.image_suffix == layout.mask_suffix:
        endings = tuple(ending for ending in endings if ending not in MASK_ENDINGS)
    photo = _Side("images_dir", images_dir, layout.image_suffix, endings)
    mask = _Side("masks_dir", masks_dir, layout.mask_suffix, MASK_ENDINGS)
    photos, photo_infos = _list_side(photo, mask, folder)
    masks, mask_infos = _list_side(mask, photo, folder)
    ids = sorted({*photos} & {*masks})
    files = {image_id: (photos[image_id], masks[image_id]) for image_id in ids}
    return Pairs(
        folder,
        files,
        {
            name: infos[name]
            for names in files.values()
            for name, infos in zip(names, (photo_infos, mask_infos), strict=True)
        },
        tuple(masks[image_id] for image_id in sorted({*masks} - {*photos})),
        tuple(sorted(photos)),
        tuple(sorted(masks)),
    )


def explain_no_pairs(layout: Layout, found: Pairs) -> str:
    """What two folders lack to make pairs."""
    sides = (
        ("images_dir", "photos", PHOTO_ENDINGS, found.photos, "image_suffix"),
        ("masks_dir", "masks", MASK_ENDINGS, found.masks, "mask_suffix"),
    )
    for flag, kind, endings, ids, suffix in sides:
        if not ids:
            value = getattr(layout, suffix)
            wanted = ", ".join(f"*{value}{ending}" for ending in endings)
            text = f"--{flag}={getattr(layout, flag)}: no {kind} ({wanted}) in it"
            return f"{text}; check the folder and --{suffix}"
    return (
        f"--images_dir={layout.images_dir}: no pairs: {len(found.photos)} photos and "
        f"{len(found.masks)} masks, none with the same id (photos such as "
        f"'{found.photos[0]}', masks such as '{found.masks[0]}'); say with "
        "--image_suffix and --mask_suffix how their names end"
    )


def _list_side(
    side: _Side, other: _Side, folder: str
) -> tuple[dict[str, str], dict[str, storage.FileInfo]]:
    """Id -> path relative to `folder`, and the infos by that path."""
    prefix = _relative(side.folder, folder)
    nested = _relative(other.folder, side.folder) + "/"
    names: dict[str, str] = {}
    infos: dict[str, storage.FileInfo] = {}
    for name, info in storage.list_files(side.folder).items():
        # `._x` and .DS_Store of macOS, .ipynb_checkpoints
        if name.startswith(".") or "/." in name or name.startswith(nested):
            continue
        if not side.takes(name) or (side.shares_with(other) and other.takes(name)):
            continue
        if not _is_text(name):
            raise SeamlineError(
                f"--{side.flag}={side.folder}: {name!a} is no UTF-8 name; rename "
                "the file"
            )
        path = posixpath.join(prefix, name)
        image_id = posixpath.splitext(name)[0].removesuffix(side.suffix)
        if image_id in names:
            raise SeamlineError(
                f"--{side.flag}={side.folder}: {names[image_id]} and {path} have the "
                f"same id '{image_id}'; remove or rename one"
            )
        names[image_id], infos[path] = path, info
    return names, infos


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _whole(folder: str) -> str:
    if storage.is_remote(folder):
        return folder.rstrip("/")
    return os.path.abspath(folder)


def _relative(path: str, folder: str) -> str:
    """`path` below `folder`, "" when it is not below it."""
    inside = path.startswith(folder.rstrip("/") + "/")
    return path[len(folder) :].strip("/") if inside else ""


def _common_parent(images_dir: str, masks_dir: str) -> str:
    if not storage.is_remote(images_dir) and not storage.is_remote(masks_dir):
        return os.path.commonpath([images_dir, masks_dir])
    one, two = images_dir.split("/"), masks_dir.split("/")
    # scheme, "", bucket
    if one[:3] != two[:3]:
        raise SeamlineError(
            f"--masks_dir={masks_dir}: not in the place of --images_dir={images_dir}; "
            "both must be local or in the same bucket"
        )
    pairs = zip(one, two, strict=False)
    shared = itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)
    return "/".join(part for part, _ in shared)
