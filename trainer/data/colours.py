"""Photos of kinds that OpenCV shows otherwise than viewers do -> RGB, through Pillow.

CMYK goes through the photo's own colour profile, where it has one; what is transparent
lies on white; of several frames or pages the first counts. No TensorFlow here.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageCms

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WIDE = ("I", "F")
_WHITE = (255, 255, 255)


def needs_pillow(header: Image.Image) -> bool:
    """True for CMYK, transparency and every format but JPEG and PNG.

    Args:
      header: an opened image; its pixels are not read.
    """
    common = header.format in ("JPEG", "MPO", "PNG")
    return not common or header.mode == "CMYK" or header.has_transparency_data


def decode(encoded: bytes, formats: tuple[str, ...], turned: int) -> np.ndarray:
    """Image bytes -> uint8 `[H, W, 3]` RGB, upright.

    Args:
      encoded: the file.
      formats: of Pillow, that it may have.
      turned: the EXIF orientation, 1 to 8.

    Raises:
      ValueError: values of 32 bits, which have no known range.
      Exception: whatever Pillow raises for a damaged file.
    """
    with Image.open(io.BytesIO(encoded), formats=formats) as picture:
        picture.load()
        shown = _to_rgb(picture)
    if turned in _TURNS:
        shown = shown.transpose(_TURNS[turned])
    return np.array(shown)


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode in _WIDE:
        raise ValueError("32 bits a channel; save it with 8 or 16")
    if picture.mode.startswith("I;16"):
        # Pillow would clip at 255. OpenCV too keeps the upper byte.
        grey = (np.asarray(picture) >> 8).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if picture.mode == "CMYK":
        return _print_to_screen(picture)
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    seen = picture.convert("RGBA")
    paper = Image.new("RGB", seen.size, _WHITE)
    paper.paste(seen, mask=seen.getchannel("A"))
    return paper


def _print_to_screen(picture: Image.Image) -> Image.Image:
    """CMYK -> RGB by the profile in the file, or else by the plain formula."""
    profile = picture.info.get("icc_profile")
    if profile:
        try:
            ink = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            screen = ImageCms.createProfile("sRGB")
            shown = ImageCms.profileToProfile(picture, ink, screen, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            # Viewers pass over a profile that is damaged or of another kind.
            return picture.convert("RGB")
        if shown is not None:
            return shown
    return picture.convert("RGB")
