"""Where photos and masks come from: folders, local or `gs://`, however they came.

    photos/0001.jpg   annotations/pixel-level/0001.mat   label_list.mat

is the layout of CCP; the embedded sample is written in it, and a `Layout` names the
folders of any other dataset. One code path reads them all.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import logging
import os
import posixpath
from collections.abc import Callable, Sequence
from typing import TypeVar

from trainer import storage
from trainer.data import download, folders, label_files, pairs, sample
from trainer.data.pairs import BadSample, Sample
from trainer.errors import SeamlineError
from trainer.layout import Layout

log = logging.getLogger("seamline")

CCP_FOLDER = os.path.join("data", "clothing-co-parsing")
SAMPLE_FOLDER = os.path.join("data", f"sample-v{sample.SAMPLE_VERSION}")
SAMPLE_NAME = "embedded sample"
SAMPLE_NOTICE = (
    "this is the embedded sample: drawn figures, not photos; its scores say that the "
    "installation works, nothing about real images"
)

_PHOTOS, _MASKS = "photos", "annotations/pixel-level"
_LABELS = "label_list.mat"
_THREADS = 16

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Source:
    """Pairs of photos and masks.

    Attributes:
      name: what reports call it.
      folder: the root of all files, local or `gs://`.
      labels: what the values in masks mean.
      files: image id -> (photo, mask), paths relative to `folder`; sorted by id.
      infos: of every photo and mask in `files`, by the same paths.
      notice: what must be said of any result, or "".
      orphans: masks without a photo, paths relative to `folder`.
      split: ids of (train, val), each sorted, where lists give them.
    """

    name: str
    folder: str
    labels: pairs.Labels
    files: dict[str, tuple[str, str]]
    infos: dict[str, storage.FileInfo]
    notice: str = ""
    orphans: tuple[str, ...] = ()
    split: tuple[list[str], list[str]] | None = None

    @property
    def label_names(self) -> list[str]:
        """Class names in label order."""
        return list(self.labels.names)

    def listing(self) -> str:
        """Digest that changes when the source does, the same on disks and in buckets.

        Over the labels, the split, all names, the masks' checksums and the photos'
        sizes: an edited mask often keeps its size, while reading all photos would take
        minutes.
        """
        return self._listing

    @functools.cached_property
    def _listing(self) -> str:
        labels = self.labels
        meaning = [labels.names, labels.ids, labels.ignore, labels.variable]
        masks = [mask for _, mask in self.files.values()]
        known = [self.infos[mask].crc32c for mask in masks]
        checksums = known if all(known) else _in_threads(self._checksum, masks)
        # Names without folders: these are in the ids, and where the two roots lie is
        # not what the source is.
        rows = [
            [image_id, *map(posixpath.basename, files), self.infos[files[0]].size, crc]
            for (image_id, files), crc in zip(
                self.files.items(), checksums, strict=True
            )
        ]
        content = json.dumps([meaning, self.split, rows])
        return hashlib.sha256(content.encode()).hexdigest()

    def duplicates(self) -> list[BadSample]:
        """Photos that are byte for byte an earlier one; no pair that is alone is read.

        Photos of another size, or another checksum in a bucket, cannot be the same.
        """
        alike = collections.defaultdict(list)
        for photo, _ in self.files.values():
            if self.infos[photo].size:
                alike[self.infos[photo]].append(photo)
        photos = [
            photo for group in alike.values() if len(group) > 1 for photo in group
        ]
        first: dict[str, str] = {}
        same = []
        for photo, digest in zip(
            photos, _in_threads(self._digest, photos), strict=True
        ):
            if digest and first.setdefault(digest, photo) != photo:
                same.append(
                    BadSample(
                        photo,
                        f"the same photo as {first[digest]}; in training and in "
                        "validation at once it would falsify scores; remove one pair",
                    )
                )
        return same

    def read_files(
        self, image_ids: Sequence[str]
    ) -> dict[str, tuple[bytes, bytes] | BadSample]:
        """Reads the encoded photos and masks of several pairs, remote ones at once.

        Returns:
          By id, in the order asked for: (photo, mask), or what cannot be read.

        Raises:
          SeamlineError: a bucket that cannot be reached or may not be read.
        """
        names = [name for image_id in image_ids for name in self.files[image_id]]
        if storage.is_remote(self.folder):
            contents = _in_threads(self._read_file, names)
        else:
            contents = [self._read_file(name) for name in names]
        read: dict[str, tuple[bytes, bytes] | BadSample] = {}
        for image_id, photo, mask in zip(
            image_ids, contents[::2], contents[1::2], strict=True
        ):
            if isinstance(photo, BadSample):
                read[image_id] = photo
            else:
                read[image_id] = mask if isinstance(mask, BadSample) else (photo, mask)
        return read

    def read(self, image_id: str) -> Sample:
        """Reads one pair at full size and checks it.

        Raises:
          BadSample: it cannot be used.
        """
        content = self.read_files([image_id])[image_id]
        if isinstance(content, BadSample):
            raise content
        photo_file, mask_file = self.files[image_id]
        photo = pairs.open_photo(content[0], photo_file)
        mask = pairs.read_mask(content[1], mask_file, self.labels)
        pairs.check_sizes(photo, mask, mask_file)
        return Sample(image_id, photo.decode(), mask)

    def _read_file(self, file: str) -> bytes | BadSample:
        try:
            return storage.read_bytes(storage.join(self.folder, file))
        except OSError as error:
            return BadSample(
                file, f"cannot be read ({error.strerror}); replace the file"
            )

    def _checksum(self, file: str) -> str:
        known = self.infos[file].crc32c
        try:
            return known or storage.disk.crc32c(storage.join(self.folder, file))
        except OSError as error:
            return f"cannot be read ({error.strerror})"

    def _digest(self, file: str) -> str:
        content = self._read_file(file)
        return (
            ""
            if isinstance(content, BadSample)
            else hashlib.sha256(content).hexdigest()
        )


def _in_threads(function: Callable[[Item], Result], items: list[Item]) -> list[Result]:
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(function, items))


def open_folder(folder: str, *, name: str, notice: str = "") -> Source:
    """A folder in CCP's layout; pairs are found by listing both folders.

    Raises:
      SeamlineError: no such folder, no pairs, or no usable label list.
    """
    if not storage.is_remote(folder) and not os.path.isdir(folder):
        raise SeamlineError(
            f"--dataset={folder}: no such folder; give a folder with {_PHOTOS}/, "
            f"{_MASKS}/ and {_LABELS}, or ccp, sample or auto (or --images_dir)"
        )
    layout = Layout(
        images_dir=storage.join(folder, _PHOTOS),
        masks_dir=storage.join(folder, *_MASKS.split("/")),
        label_names=storage.join(folder, _LABELS),
    )
    found = folders.find_pairs(layout)
    if not found.files:
        raise SeamlineError(
            f"--dataset={folder}: no pairs: {len(found.photos)} photos in {_PHOTOS}/, "
            f"{len(found.masks)} masks in {_MASKS}/, none with the same name"
        )
    return _source(name, found, layout, notice)


def open_layout(layout: Layout) -> Source:
    """Folders of any names; see `folders.find_pairs` and `label_files`.

    Raises:
      SeamlineError: no such folder, no pairs, no usable class names or lists of ids.
    """
    for flag in ("images_dir", "masks_dir"):
        folder = getattr(layout, flag)
        if not storage.is_remote(folder) and not os.path.isdir(folder):
            raise SeamlineError(f"--{flag}={folder}: no such folder; check the path")
    found = folders.find_pairs(layout)
    if not found.files:
        raise SeamlineError(folders.explain_no_pairs(layout, found))
    name = posixpath.basename(found.folder) or "dataset"
    return _source(name, found, layout, "")


def _source(name: str, found: folders.Pairs, layout: Layout, notice: str) -> Source:
    without_mask = len(found.photos) - len(found.files)
    if without_mask:
        log.info(
            "Dataset: %s: %d pairs; %d photos have no mask and are left aside",
            name,
            len(found.files),
            without_mask,
        )
    labels = label_files.read_labels(layout)
    split = label_files.read_split(layout, found)
    files, infos, orphans = found.files, found.infos, found.orphans
    if layout.train_ids and layout.val_ids and split:
        listed = sorted(split[0] + split[1])
        files = {image_id: files[image_id] for image_id in listed}
        infos = {path: infos[path] for pair in files.values() for path in pair}
        orphans = ()
    return Source(name, found.folder, labels, files, infos, notice, orphans, split)


def at_hand(dataset: str, layout: Layout | None = None) -> bool:
    """True when `find` needs no choice and no download: files can be compared."""
    if layout is None and dataset == "ccp":
        return os.path.isdir(CCP_FOLDER)
    return layout is not None or dataset != "auto"


def find(dataset: str, layout: Layout | None = None) -> Source:
    """Settles where pairs come from and opens it; says what "auto" chose.

    Args:
      dataset: a folder in CCP's layout, "ccp", "sample" or "auto".
      layout: folders of any names, instead of `dataset`.

    Raises:
      SeamlineError: something asked for by name cannot be had.
    """
    if layout is not None:
        return open_layout(layout)
    if dataset == "auto":
        return _find_any()
    if dataset == "sample":
        return _open_sample()
    if dataset == "ccp":
        return _open_ccp()
    return open_folder(dataset, name=posixpath.basename(dataset.rstrip("/")) or dataset)


def look(dataset: str, layout: Layout | None = None) -> Source | None:
    """Like `find`, but fetches and draws nothing: None where `find` would do so.

    Raises:
      SeamlineError: see `find`.
      Unavailable: CCP is asked for by name, and its host cannot be reached.
    """
    if layout is None and dataset in ("auto", "ccp") and not os.path.isdir(CCP_FOLDER):
        if dataset == "ccp":
            download.check_host(download.CCP_URL, CCP_FOLDER)
        return None
    if layout is None and dataset == "sample" and not os.path.isdir(SAMPLE_FOLDER):
        return None
    return find(dataset, layout)


def _find_any() -> Source:
    if os.path.isdir(CCP_FOLDER) or storage.reachable(download.CCP_URL):
        return _open_ccp()
    log.info(
        "Dataset: %s is not there and %s cannot be reached; %s",
        CCP_FOLDER,
        download.CCP_URL.split("/")[2],
        SAMPLE_NOTICE,
    )
    return _open_sample()


def _open_ccp() -> Source:
    if not os.path.isdir(CCP_FOLDER):
        download.fetch_archive(download.CCP_URL, CCP_FOLDER)
    return open_folder(CCP_FOLDER, name="clothing-co-parsing")


def _open_sample() -> Source:
    sample.write_sample(SAMPLE_FOLDER)
    return open_folder(SAMPLE_FOLDER, name=SAMPLE_NAME, notice=SAMPLE_NOTICE)
