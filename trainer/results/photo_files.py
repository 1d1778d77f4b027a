"""Which photos to predict, and what their results are called. No file is read here."""

from __future__ import annotations

import collections
import dataclasses
import logging
import os
import posixpath
from collections.abc import Sequence

from trainer import storage
from trainer.errors import SeamlineError

log = logging.getLogger("seamline")

ENDINGS = (*(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"),)
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""Pillow's names of what files with these endings may be, whatever the ending says."""


@dataclasses.dataclass(frozen=True)
class PhotoFile:
    """A photo to predict.

    Attributes:
      path: where it is, local or `gs://`.
      name: below the input, with `/` separators.
      target: the same for its results, which add an ending.
      size: in bytes.
    """

    path: str
    name: str
    target: str
    size: int


def find_photos(source: str, output_dir: str) -> list[PhotoFile]:
    """The photos of a file or of a folder with all its subfolders, sorted by name.

    Files that are no photos by their ending are counted and left aside, hidden ones in
    silence, as are results of an earlier call below `source`.

    Args:
      source: local or `gs://`.
      output_dir: where results go.

    Raises:
      SeamlineError: no photo there, or results would lie between the photos.
    """
    found = storage.list_files(source)
    if not found:
        return [_single(source)]
    inside = _inside(output_dir, source)
    if inside == "":
        raise SeamlineError(
            f"--output_dir={output_dir}: is the folder of the photos, where results "
            "would be taken for photos; give another"
        )
    # `._x` and .DS_Store of macOS, .ipynb_checkpoints
    names = [name for name in found if not name.startswith(".") and "/." not in name]
    if inside is not None:
        names = [name for name in names if not name.startswith(f"{inside}/")]
    photos = [name for name in names if name.lower().endswith(ENDINGS)]
    if not photos:
        raise _no_photo(source)
    other = len(names) - len(photos)
    aside = f"; {other} files of other kinds left aside" if other else ""
    log.info("Photos: %d in %s%s", len(photos), source, aside)
    return [
        PhotoFile(
            storage.join(source, *name.split("/")), name, target, found[name].size
        )
        for name, target in zip(photos, name_targets(photos), strict=True)
    ]


def name_targets(names: Sequence[str]) -> list[str]:
    """What results are called: as the photo without its ending, where that is unique.

    Of `a.jpg` beside `a.png` both keep their endings.
    """
    targets = [posixpath.splitext(name)[0] for name in names]
    while True:
        often = collections.Counter(targets)
        longer = [
            name if often[target] > 1 else target
            for name, target in zip(names, targets, strict=True)
        ]
        if longer == targets:
            return targets
        targets = longer


def _single(source: str) -> PhotoFile:
    if not source.lower().endswith(ENDINGS) or not storage.exists(source):
        raise _no_photo(source)
    name = os.path.basename(source)
    target = os.path.splitext(name)[0]
    return PhotoFile(source, name, target, storage.size(source))


def _no_photo(source: str) -> SeamlineError:
    return SeamlineError(
        f"--input={source}: no photo ({', '.join(ENDINGS)}) there; give a photo or a "
        "folder of photos"
    )


def _inside(folder: str, parent: str) -> str | None:
    """The path of `folder` below `parent`, "" for the same, None elsewhere."""
    if storage.is_remote(folder) != storage.is_remote(parent):
        return None
    if storage.is_remote(folder):
        own, above = folder.rstrip("/"), parent.rstrip("/")
    else:
        own, above = os.path.realpath(folder), os.path.realpath(parent)
    if own == above:
        return ""
    return own[len(above) + 1 :] if own.startswith(f"{above}/") else None
