"""Where photos and masks come from: a folder in the layout of CCP, however it came.

    photos/0001.jpg   annotations/pixel-level/0001.mat   label_list.mat

The masks are MATLAB files whose variable `groundtruth` is uint8 `[H, W]`. The embedded
sample is written in the same layout, so one code path reads both.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os

import cv2
import numpy as np
import scipy.io

from trainer import storage
from trainer.data import download, sample
from trainer.errors import SeamlineError
from trainer.labels import IGNORE_LABEL

log = logging.getLogger("seamline")

CCP_FOLDER = os.path.join("data", "clothing-co-parsing")
SAMPLE_FOLDER = os.path.join("data", f"sample-v{sample.SAMPLE_VERSION}")
SAMPLE_NAME = "embedded sample"
SAMPLE_NOTICE = (
    "this is the embedded sample: drawn figures, not photos; its scores say that the "
    "installation works, nothing about real images"
)

_PHOTOS, _MASKS = "photos", os.path.join("annotations", "pixel-level")
_PHOTO_ENDINGS = (".jpg", ".jpeg", ".png")


class BadSample(Exception):
    """A pair that cannot be used: the file and what to do about it."""

    def __init__(self, file: str, problem: str) -> None:
        super().__init__(f"{file}: {problem}")
        self.file, self.problem = file, problem


@dataclasses.dataclass(frozen=True)
class Sample:
    """One photo and its mask.

    Attributes:
      image_id: name of the photo without folder and ending.
      image: uint8 `[H, W, 3]` RGB.
      mask: uint8 `[H, W]`, label ids, 255 = ignore.
    """

    image_id: str
    image: np.ndarray
    mask: np.ndarray


@dataclasses.dataclass(frozen=True)
class Source:
    """Pairs of a folder in CCP's layout.

    Attributes:
      name: what reports call it.
      folder: where it lies.
      label_names: class names in id order.
      files: image id -> (photo, mask), paths relative to `folder`; sorted by id.
      notice: what must be said of any result, or "".
      orphans: masks without a photo, paths relative to `folder`.
    """

    name: str
    folder: str
    label_names: list[str]
    files: dict[str, tuple[str, str]]
    notice: str = ""
    orphans: tuple[str, ...] = ()

    def listing(self) -> str:
        """Digest that changes when the source does.

        Over names, the masks' bytes, the label names and the photos' sizes: an edited
        mask often keeps its size, while reading all photos would take minutes.
        """
        digest = hashlib.sha256("\n".join(self.label_names).encode())
        for photo, mask in self.files.values():
            place = os.path.join(self.folder, photo)
            size = os.path.getsize(place) if os.path.exists(place) else -1
            digest.update(f"{photo} {size} {mask}".encode())
            with open(os.path.join(self.folder, mask), "rb") as file:
                digest.update(file.read())
        return digest.hexdigest()

    def read(self, image_id: str) -> Sample:
        """Reads one pair.

        Raises:
          BadSample: it cannot be used.
        """
        photo, mask_file = self.files[image_id]
        image = _read_photo(self.folder, photo)
        mask = _read_mask(self.folder, mask_file)
        if mask.shape != image.shape[:2]:
            raise BadSample(
                mask_file,
                f"mask of {_size(mask)}, but {photo} is {_size(image)}; "
                "both must have the same height and width",
            )
        self._check_labels(mask, mask_file)
        return Sample(image_id, image, mask)

    def _check_labels(self, mask: np.ndarray, file: str) -> None:
        top = len(self.label_names) - 1
        wrong = np.unique(mask[(mask > top) & (mask != IGNORE_LABEL)])
        if wrong.size:
            raise BadSample(
                file,
                f"label {wrong[0]}, but label_list.mat names 0..{top} "
                f"({IGNORE_LABEL} = ignore); mend the mask or the list",
            )


def _size(array: np.ndarray) -> str:
    return f"{array.shape[1]}x{array.shape[0]} pixels"


def _read_photo(folder: str, file: str) -> np.ndarray:
    fix = "replace the photo"
    try:
        with open(os.path.join(folder, file), "rb") as opened:
            encoded = opened.read()
    except OSError as error:
        raise BadSample(file, f"cannot be read ({error.strerror}); {fix}") from error
    is_jpeg = encoded[:2] == b"\xff\xd8"
    # OpenCV paints the missing rows of a truncated JPEG grey and says nothing, so look
    # for the end-of-image marker (ITU T.81, B.1.1.3), padding aside.
    if is_jpeg and encoded.rstrip(b"\0\r\n ")[-2:] != b"\xff\xd9":
        raise BadSample(file, f"truncated JPEG (no end-of-image marker); {fix}")
    # An empty buffer raises instead of giving None.
    flags = cv2.IMREAD_COLOR
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags) if encoded else None
    if image is None:
        raise BadSample(file, f"cannot be decoded as an image; {fix}")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _read_mask(folder: str, file: str) -> np.ndarray:
    path = os.path.join(folder, file)
    # scipy raises a different exception for every way in which a file is broken.
    try:
        content = scipy.io.loadmat(path, variable_names=["groundtruth"])
    except Exception as error:
        raise BadSample(
            file, f"not a readable MATLAB file ({type(error).__name__}); replace it"
        ) from error
    mask = content.get("groundtruth")
    if not isinstance(mask, np.ndarray):
        raise BadSample(file, "has no variable 'groundtruth'; save the mask under it")
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise BadSample(
            file,
            f"groundtruth is {mask.dtype} with {mask.ndim} axes; save a uint8 matrix",
        )
    return mask


def open_folder(folder: str, *, name: str, notice: str = "") -> Source:
    """A folder in CCP's layout; pairs are found by listing both folders.

    Raises:
      SeamlineError: no such folder, no pairs, or no usable label list.
    """
    if storage.is_remote(folder):
        raise SeamlineError(
            f"--dataset={folder}: photos are read from local folders; copy them to one "
            "(--records_dir may be remote)"
        )
    if not os.path.isdir(folder):
        raise SeamlineError(
            f"--dataset={folder}: no such folder; give a folder with {_PHOTOS}/, "
            f"{_MASKS}/ and label_list.mat, or ccp, sample or auto"
        )
    photos, masks = (
        {os.path.splitext(entry)[0]: os.path.join(part, entry) for entry in listed}
        for part, listed in (
            (_PHOTOS, _listed(folder, _PHOTOS, _PHOTO_ENDINGS)),
            (_MASKS, _listed(folder, _MASKS, (".mat",))),
        )
    )
    files = {stem: (photos[stem], masks[stem]) for stem in sorted({*photos} & {*masks})}
    if not files:
        raise SeamlineError(
            f"--dataset={folder}: no pairs: {len(photos)} photos in {_PHOTOS}/, "
            f"{len(masks)} masks in {_MASKS}/, none with the same name"
        )
    orphans = tuple(masks[stem] for stem in sorted({*masks} - {*photos}))
    return Source(name, folder, _read_label_names(folder), files, notice, orphans)


def _listed(folder: str, part: str, endings: tuple[str, ...]) -> list[str]:
    names = storage.list_folder(os.path.join(folder, part))
    return [name for name in names if name.lower().endswith(endings)]


def _read_label_names(folder: str) -> list[str]:
    path = os.path.join(folder, "label_list.mat")
    try:
        content = scipy.io.loadmat(path)["label_list"]
        names = [str(cell.item()) for cell in content.reshape(-1)]
    except Exception as error:
        raise SeamlineError(
            f"{path}: no readable label list ({type(error).__name__}); it must hold "
            "'label_list', a row of class names in id order"
        ) from error
    if not 2 <= len(names) < IGNORE_LABEL:
        raise SeamlineError(f"{path}: {len(names)} names; give 2 to {IGNORE_LABEL - 1}")
    return names


def at_hand(dataset: str) -> bool:
    """True when `find` needs no network and no choice: files can be compared."""
    if dataset == "ccp":
        return os.path.isdir(CCP_FOLDER)
    return dataset != "auto"


def find(dataset: str) -> Source:
    """Settles `--dataset` and opens it; says what "auto" chose.

    Raises:
      SeamlineError: something asked for by name cannot be had.
    """
    if dataset == "auto":
        return _find_any()
    if dataset == "sample":
        return _open_sample()
    if dataset == "ccp":
        return _open_ccp()
    name = os.path.basename(os.path.normpath(dataset))
    return open_folder(dataset, name=name)


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
