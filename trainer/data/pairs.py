"""One photo and its mask: bytes -> checked arrays. No TensorFlow: workers import this.

Every way in which a file can be broken ends as one `BadSample` that names the file, the
value and the fix, so that a conversion can list all problems of a dataset in one run.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import warnings

import cv2
import numpy as np
from PIL import Image

from trainer.data import colours, images, integrity, matfile
from trainer.data.integrity import JPEG_SIGNATURE, PNG_SIGNATURE
from trainer.labels import IGNORE_LABEL

PHOTO_ENDINGS = (".jpg", ".jpeg", ".png")
MASK_ENDINGS = (".mat", ".png")
PHOTO_FORMATS = ("JPEG", "PNG")
"""Pillow's names of what photos of a dataset may be."""

_REPLACE = "replace the file"
_INTEGERS = "save a matrix of integers, such as uint8"
_ORIENTATION = 274  # EXIF tag
_MOST_PIXELS = 1 << 28

# Pillow would warn on stderr from a third of this on, and of odd EXIF data.
# `_refuse_huge` looks instead, and EXIF that cannot be read turns nothing.
Image.MAX_IMAGE_PIXELS = None
warnings.filterwarnings("ignore", module=r"PIL\.")


class BadSample(Exception):
    """A pair that cannot be used: the file and what to do about it."""

    def __init__(self, file: str, problem: str) -> None:
        super().__init__(file, problem)
        self.file, self.problem = file, problem

    def __str__(self) -> str:
        return f"{self.file}: {self.problem}"


@dataclasses.dataclass(frozen=True)
class Sample:
    """One photo and its mask.

    Attributes:
      image_id: name of the pair.
      image: uint8 `[H, W, 3]` RGB.
      mask: uint8 `[H, W]`, labels, 255 = ignore.
    """

    image_id: str
    image: np.ndarray
    mask: np.ndarray


@dataclasses.dataclass(frozen=True)
class Labels:
    """What the values in mask files mean.

    Attributes:
      names: class names in label order.
      ids: value in the mask files of each class, in label order; labels are 0, 1, 2 …
        whatever the ids are.
      ignore: values of pixels that count nowhere; they become 255.
      variable: name of the matrix in `.mat` masks.
      origin: file that names the classes, for messages.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]
    ignore: tuple[int, ...] = (IGNORE_LABEL,)
    variable: str = "groundtruth"
    origin: str = "label_list.mat"

    @functools.cached_property
    def table(self) -> dict[int, int]:
        """Value in a mask file -> label."""
        ignored = dict.fromkeys(self.ignore, IGNORE_LABEL)
        return ignored | {value: label for label, value in enumerate(self.ids)}

    @functools.cached_property
    def as_they_are(self) -> bool:
        """True when ids are the labels, so that masks need no translation."""
        return self.ids == tuple(range(len(self.ids))) and self.ignore == (
            IGNORE_LABEL,
        )

    def described(self) -> str:
        """The known values, for messages: `0..58` or `7, 8, 11`."""
        ordered = sorted(self.ids)
        if ordered == list(range(ordered[0], ordered[-1] + 1)):
            return f"{ordered[0]}..{ordered[-1]}"
        shown = ", ".join(str(value) for value in ordered[:12])
        return shown + (", …" if len(ordered) > 12 else "")


@dataclasses.dataclass(frozen=True)
class Photo:
    """An encoded photo whose header was read.

    Attributes:
      file: its name, for messages.
      encoded: JPEG or PNG bytes, or another of the formats it was opened with.
      height, width: in pixels, as viewers show it.
      plain: a JPEG that every decoder shows the same way: upright, grey or RGB.
      turned: its EXIF orientation, 1 to 8.
      special: the formats of Pillow, which must decode it; (): OpenCV does.
    """

    file: str
    encoded: bytes
    height: int
    width: int
    plain: bool
    turned: int = 1
    special: tuple[str, ...] = ()

    def decode(self, at_least: int = 0) -> np.ndarray:
        """The pixels: uint8 `[h, w, 3]` RGB.

        Args:
          at_least: a JPEG may come at 1/2, 1/4 or 1/8 of its size as long as its short
            side has so many pixels; libjpeg then computes fewer of them, which takes
            two thirds of the time or less. 0: full size.

        Raises:
          BadSample: cannot be decoded.
        """
        if self.special:
            return self._decode_special()
        scale = 1
        while at_least and scale < 8 and self.encoded[:2] == JPEG_SIGNATURE:
            if min(self.height, self.width) // (2 * scale) < at_least:
                break
            scale *= 2
        try:
            image = images.decode(self.encoded, scale)
        except cv2.error:
            image = None
        expected = -(-self.height // scale), -(-self.width // scale)
        if image is None or image.shape[:2] != expected:
            raise BadSample(self.file, f"cannot be decoded as an image; {_REPLACE}")
        return image

    def _decode_special(self) -> np.ndarray:
        # Pillow raises a different exception for every way in which a file is broken.
        try:
            return colours.decode(self.encoded, self.special, self.turned)
        except MemoryError:
            raise
        except Exception as error:
            text = f"cannot be decoded as an image ({error}); {_REPLACE}"
            raise BadSample(self.file, text) from error


def open_photo(
    encoded: bytes, file: str, formats: tuple[str, ...] = PHOTO_FORMATS
) -> Photo:
    """Reads the header of a photo and looks for its end.

    Args:
      encoded: the file.
      file: its name, for messages.
      formats: of Pillow, that it may have.

    Raises:
      BadSample: empty, truncated or no image.
    """
    _refuse_empty(encoded, file)
    # OpenCV paints the missing rows of a truncated JPEG grey and says nothing.
    if encoded[:2] == JPEG_SIGNATURE and not integrity.jpeg_ends(encoded):
        raise BadSample(file, f"truncated JPEG (no end-of-image marker); {_REPLACE}")
    if encoded[:8] == PNG_SIGNATURE:
        _check_png(encoded, file)
    # Pillow raises a different exception for every way in which a header is broken.
    try:
        with Image.open(io.BytesIO(encoded), formats=formats) as header:
            width, height = header.size
            kind, mode = header.format, header.mode
            special = formats if colours.needs_pillow(header) else ()
            turned = _orientation(header.info.get("exif", b""))
    except Exception as error:
        raise BadSample(file, f"cannot be decoded as an image; {_REPLACE}") from error
    _refuse_huge(width, height, file)
    if turned in (5, 6, 7, 8):
        width, height = height, width
    plain = kind == "JPEG" and mode in ("L", "RGB") and turned == 1
    return Photo(file, encoded, height, width, plain, turned, special)


def _orientation(exif: bytes) -> int:
    """1 to 8; data that cannot be read turns nothing, as in decoders and viewers."""
    # Not getexif(), which also heeds XMP; decoders and viewers do not.
    tags = Image.Exif()
    try:
        tags.load(exif)
        turned = tags.get(_ORIENTATION, 1)
    except Exception:
        return 1
    return turned if turned in range(1, 9) else 1


def _refuse_empty(encoded: bytes, file: str) -> None:
    if not encoded:
        raise BadSample(file, f"is empty (0 bytes); {_REPLACE}")


def _check_png(encoded: bytes, file: str) -> None:
    try:
        integrity.check_png(encoded)
    except ValueError as error:
        raise BadSample(file, f"{error}; {_REPLACE}") from error


def _refuse_huge(width: int, height: int, file: str) -> None:
    """A few damaged bytes of a header may ask for gigabytes."""
    if width * height > _MOST_PIXELS:
        raise BadSample(
            file,
            f"{width}x{height} pixels; shrink photo and mask to {_MOST_PIXELS >> 20} "
            "megapixels at most, or replace the file",
        )


def read_mask(encoded: bytes, file: str, labels: Labels) -> np.ndarray:
    """A mask file -> labels: uint8 `[H, W]`, 255 = ignore.

    Raises:
      BadSample: broken, of another kind, a value that has no name, or nothing but
        ignored pixels.
    """
    _refuse_empty(encoded, file)
    if encoded[:8] == PNG_SIGNATURE:
        values = _read_png(encoded, file)
    elif file.lower().endswith(".png"):
        raise BadSample(file, f"not a PNG file; {_REPLACE}")
    else:
        values = _read_mat(encoded, file, labels.variable)
    mask = _translate(values, file, labels)
    if mask.size == 0 or (mask.min() == IGNORE_LABEL):
        raise BadSample(
            file, "every pixel is ignored; label something or remove the pair"
        )
    return mask


def _read_png(encoded: bytes, file: str) -> np.ndarray:
    _check_png(encoded, file)
    try:
        with Image.open(io.BytesIO(encoded), formats=("PNG",)) as picture:
            _refuse_huge(*picture.size, file)
            mode = picture.mode
            values = np.asarray(picture)
    except BadSample:
        raise
    except Exception as error:
        raise BadSample(file, f"cannot be decoded as an image; {_REPLACE}") from error
    if mode not in ("P", "L", "1", "I;16", "I;16B", "I") or values.ndim != 2:
        raise BadSample(
            file,
            f"a colour picture ({mode}), not label ids; save it as grey or palette PNG",
        )
    depth, colour_type = encoded[24], encoded[25]
    if mode == "L" and colour_type == 0 and depth < 8:
        # Pillow spreads grey of 2 or 4 bits over 0..255; the ids are what was stored.
        values = values // (255 // (2**depth - 1))
    return values.astype(np.uint8) if mode == "1" else values


def _read_mat(encoded: bytes, file: str, variable: str) -> np.ndarray:
    if encoded[:8] == b"\x89HDF\r\n\x1a\n" or encoded[:19] == b"MATLAB 7.3 MAT-file":
        raise BadSample(file, "MATLAB 7.3 file; save it again with the option -v7")
    try:
        values = matfile.read_matrix(encoded, variable)
    except ValueError as error:
        raise BadSample(
            file, f"not a readable MATLAB file ({error}); {_REPLACE}"
        ) from error
    except matfile.OtherKind as error:
        raise BadSample(file, f"{variable} is {error}; {_INTEGERS}") from error
    if values is None:
        raise BadSample(file, f"has no variable '{variable}'; save the mask under it")
    if values.ndim != 2 or values.dtype.kind not in "ui":
        raise BadSample(
            file,
            f"{variable} is {values.dtype} with {values.ndim} axes; {_INTEGERS}",
        )
    return values


def _translate(values: np.ndarray, file: str, labels: Labels) -> np.ndarray:
    if labels.as_they_are and values.dtype == np.uint8:
        if values.size and values.max() >= len(labels.ids):
            _refuse_unknown(np.unique(values), file, labels)
        return values
    # Counting and looking up takes a third of the time that sorting does.
    is_narrow = values.dtype == np.uint8
    counts = np.bincount(values.ravel("K")) if is_narrow else None
    found = np.unique(values) if counts is None else np.flatnonzero(counts)
    _refuse_unknown(found, file, labels)
    into = np.array([labels.table[int(value)] for value in found], np.uint8)
    if counts is None:
        return into[np.searchsorted(found, values)]
    table = np.zeros(counts.size, np.uint8)
    table[found] = into
    return np.take(table, values)


def _refuse_unknown(found: np.ndarray, file: str, labels: Labels) -> None:
    unknown = [int(value) for value in found if int(value) not in labels.table]
    if unknown:
        ignored = ", ".join(str(value) for value in labels.ignore) or "none"
        raise BadSample(
            file,
            f"label {unknown[0]}, but {labels.origin} names {labels.described()} "
            f"({ignored} = ignore); mend the mask or the list",
        )


def check_sizes(photo: Photo, mask: np.ndarray, mask_file: str) -> None:
    """Refuses a mask that does not cover its photo.

    Raises:
      BadSample: names both sizes.
    """
    if mask.shape != (photo.height, photo.width):
        raise BadSample(
            mask_file,
            f"mask of {mask.shape[1]}x{mask.shape[0]} pixels, but {photo.file} is "
            f"{photo.width}x{photo.height} pixels; both must have the same height and "
            "width",
        )
