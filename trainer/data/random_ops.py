"""Random augmentation of batches by OpenCV. No TensorFlow here.

An example passes four stations: it is moved by one affine map, its colours go through
one 3x3 matrix, its levels through one table, and a hole is cut. Which map, matrix,
table and hole depends on its own random numbers alone, never on its neighbours in the
batch. A station that no op asks for is left out.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import cv2
import numpy as np

from trainer.labels import IGNORE_LABEL

MID_GREY = 127.5


@dataclasses.dataclass(frozen=True)
class Op:
    """One random op and its strength.

    Attributes:
      name: as users write it.
      default: strength in the policy `random`.
      strong: strength in the policy `strong`.
      highest: the strength lies in 0..highest; 0 is the op left out.
      draws: random numbers that an example needs for it.
      help: one line on what the strength means.
    """

    name: str
    default: float
    strong: float
    highest: float
    draws: int
    help: str


OPS = (
    Op("flip", 0.5, 0.5, 1, 1, "probability to mirror left and right"),
    Op(
        "crop",
        0.15,
        0.4,
        0.9,
        3,
        "show a part: its side is 1 - crop to 1 of the photo's",
    ),
    Op("scale", 0.05, 0.15, 1, 1, "zoom about the centre by exp(-scale) to exp(scale)"),
    Op(
        "stretch",
        0.05,
        0.05,
        1,
        1,
        "change width : height by exp(-stretch) to exp(stretch)",
    ),
    Op("rotate", 3, 8, 180, 1, "turn by up to so many degrees, either way"),
    Op("brightness", 0.08, 0.12, 1, 1, "add up to this part of white, or take it away"),
    Op(
        "contrast",
        0.2,
        0.3,
        1,
        1,
        "multiply by 1 - contrast to 1 + contrast about mid-grey",
    ),
    Op(
        "gamma",
        0.2,
        0.2,
        2,
        1,
        "raise levels in 0..1 to the power exp(-gamma) to exp(gamma)",
    ),
    Op("hue", 0.02, 0.05, 0.5, 1, "turn colours by up to this part of the circle"),
    Op(
        "saturation",
        0.2,
        0.3,
        1,
        1,
        "multiply colour by 1 - saturation to 1 + saturation",
    ),
    Op("grey", 0.05, 0.05, 1, 1, "probability to take all colour away"),
    Op(
        "cutout",
        0.2,
        0.3,
        1,
        3,
        "hide a square: its side is 0 to cutout of the photo's",
    ),
)
"""All ops. Numbers between two limits are uniform, those within exp() in its argument.
"""

POLICIES = {
    "random": {op.name: op.default for op in OPS},
    "strong": {op.name: op.strong for op in OPS},
}
"""Policy -> strength of each op."""

AMOUNTS = sum(op.draws for op in OPS)
"""Random numbers that an example needs. Each op keeps its own, whatever others do."""

Strengths = Mapping[str, float]
"""Op name -> strength; an op that is not named has strength 0."""


def columns(name: str) -> slice:
    """Which of an example's `AMOUNTS` random numbers op `name` uses."""
    before = 0
    for op in OPS:
        if op.name == name:
            return slice(before, before + op.draws)
        before += op.draws
    raise KeyError(name)


def augment(
    images: np.ndarray, masks: np.ndarray, amounts: np.ndarray, strengths: Strengths
) -> tuple[np.ndarray, np.ndarray]:
    """Applies the ops to a batch.

    Args:
      images: uint8 `[B, H, W, 3]` RGB.
      masks: uint8 `[B, H, W]`.
      amounts: float32 `[B, AMOUNTS]` in [0, 1).
      strengths: op name -> strength.

    Returns:
      float32 `[B, H, W, 3]` in 0..255, and uint8 `[B, H, W]` with `IGNORE_LABEL` where
      nothing of the photo is seen.
    """

    def asked(*names: str) -> bool:
        return any(strengths.get(name, 0.0) > 0 for name in names)

    # A row of its own for each number: NumPy may round strided values differently.
    draws = np.ascontiguousarray(amounts.T, dtype=np.float64)
    height, width = masks.shape[1:]
    matrices = colours = tables = squares = None
    if asked("flip", "crop", "scale", "stretch", "rotate"):
        matrices = affine(draws, strengths, height, width)
    if asked("hue", "saturation", "grey"):
        colours = colour_matrices(draws, strengths)
    if asked("brightness", "contrast", "gamma"):
        tables = tone_tables(draws, strengths)
    if asked("cutout"):
        squares = holes(draws, strengths, height, width).tolist()

    changed, labels = _aligned(images.shape), masks.copy()
    # One example after the other: these buffers stay in the processor's cache.
    move = _Mover(height, width)
    moved, recoloured = np.empty((2, height, width, 3), np.uint8)
    for index, image in enumerate(images):
        if matrices is not None:
            move(image, masks[index], matrices[index], moved, labels[index])
            image = moved
        if colours is not None:
            image = cv2.transform(image, colours[index], recoloured)
        if tables is not None:
            cv2.LUT(image, tables[index], changed[index])
        else:
            changed[index] = image
        if squares is not None:
            top, bottom, left, right = squares[index]
            changed[index, top:bottom, left:right] = MID_GREY
            labels[index, top:bottom, left:right] = IGNORE_LABEL
    return changed, labels


def affine(
    draws: np.ndarray, strengths: Strengths, height: int, width: int
) -> np.ndarray:
    """Maps from output to input pixels that do flip, crop, scale, stretch and rotate.

    An output pixel at offset p from the centre shows the input at
    `centre of the part + R(rotate) S(crop, scale, stretch, flip) p`.

    Args:
      draws: float64 `[AMOUNTS, B]` in [0, 1).
      strengths: op name -> strength.
      height, width: of the images, in pixels.

    Returns:
      float64 `[B, 2, 3]`: (x, y, 1) of a pixel's centre -> (x, y), where the first
      pixel's centre is (0, 0).
    """
    mirror = np.where(_draw(draws, "flip")[0] < strengths.get("flip", 0.0), -1.0, 1.0)
    part, down, right = _draw(draws, "crop")
    side = 1 - strengths.get("crop", 0.0) * part
    zoom = np.exp(-_either_way(draws, strengths, "scale"))
    half = np.exp(_either_way(draws, strengths, "stretch") / 2)
    angle = np.radians(_either_way(draws, strengths, "rotate"))
    scale_x, scale_y = side * zoom / half * mirror, side * zoom * half
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    cos, sin = np.cos(angle), np.sin(angle)
    xx, xy, yx, yy = cos * scale_x, -sin * scale_y, sin * scale_x, cos * scale_y
    part_x = middle_x + (right - 0.5) * (1 - side) * width
    part_y = middle_y + (down - 0.5) * (1 - side) * height
    x0 = part_x - xx * middle_x - xy * middle_y
    y0 = part_y - yx * middle_x - yy * middle_y
    return np.stack([xx, xy, x0, yx, yy, y0], axis=1).reshape(-1, 2, 3)


def warp(
    images: np.ndarray, masks: np.ndarray, matrices: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Moves images bilinearly and masks by nearest neighbour, by the same matrices.

    Args:
      images: uint8 `[B, H, W, 3]`.
      masks: uint8 `[B, H, W]`.
      matrices: float64 `[B, 2, 3]`, from output to input pixels as `affine` says.

    Returns:
      Both moved; outside of the photo images are black and masks `IGNORE_LABEL`.
    """
    moved, labels = np.empty_like(images), np.empty_like(masks)
    move = _Mover(*masks.shape[1:])
    for pair in zip(images, masks, matrices, moved, labels, strict=True):
        move(*pair)
    return moved, labels


class _Mover:
    """Moves one pair after the other by the same buffers."""

    def __init__(self, height: int, width: int) -> None:
        self._size = (width, height)
        self._four, self._moved_four = np.empty((2, height, width, 4), np.uint8)

    def __call__(
        self,
        image: np.ndarray,
        mask: np.ndarray,
        matrix: np.ndarray,
        to_image: np.ndarray,
        to_mask: np.ndarray,
    ) -> None:
        border = cv2.BORDER_CONSTANT
        # OpenCV 5 moves four channels in half of the time that it takes for three.
        cv2.cvtColor(image, cv2.COLOR_RGB2RGBA, self._four)
        how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        cv2.warpAffine(self._four, matrix, self._size, self._moved_four, how, border, 0)
        cv2.cvtColor(self._moved_four, cv2.COLOR_RGBA2RGB, to_image)
        how = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
        cv2.warpAffine(mask, matrix, self._size, to_mask, how, border, IGNORE_LABEL)


def colour_matrices(draws: np.ndarray, strengths: Strengths) -> np.ndarray:
    """Matrices that do hue, saturation and grey; they leave greys as they are.

    `saturate(s)` times `hueRotate(a)` of the W3C's Filter Effects Module Level 1
    (https://www.w3.org/TR/filter-effects-1/#feColorMatrixElement), which is
    `luma + s * (cos(a) * (1 - luma) + sin(a) * turn)`; grey is s = 0.

    Args:
      draws: float64 `[AMOUNTS, B]` in [0, 1).
      strengths: op name -> strength.

    Returns:
      float32 `[B, 3, 3]`: RGB -> RGB.
    """
    angle = 2 * np.pi * _either_way(draws, strengths, "hue")
    keep = 1 + _either_way(draws, strengths, "saturation")
    keep = np.where(_draw(draws, "grey")[0] < strengths.get("grey", 0.0), 0.0, keep)
    cos, sin = keep * np.cos(angle), keep * np.sin(angle)
    colour = np.eye(3) - _LUMA
    matrices = _LUMA + cos[:, None, None] * colour + sin[:, None, None] * _TURN
    return matrices.astype(np.float32)


_LUMA = np.array([[0.213, 0.715, 0.072]] * 3)
_TURN = np.array(
    [[-0.213, -0.715, 0.928], [0.143, 0.140, -0.283], [-0.787, 0.715, 0.072]]
)


def tone_tables(draws: np.ndarray, strengths: Strengths) -> np.ndarray:
    """Tables that do gamma, then contrast about mid-grey, then brightness.

    Args:
      draws: float64 `[AMOUNTS, B]` in [0, 1).
      strengths: op name -> strength.

    Returns:
      float32 `[B, 256]` in 0..255: what becomes of each level.
    """
    levels = np.arange(256, dtype=np.float32)[np.newaxis]

    def column(values: np.ndarray) -> np.ndarray:
        return values.astype(np.float32)[:, np.newaxis]

    if strengths.get("gamma", 0.0) > 0:
        power = column(np.exp(_either_way(draws, strengths, "gamma")))
        levels = 255 * np.power(levels / 255, power)
    factor = column(1 + _either_way(draws, strengths, "contrast"))
    light = column(255 * _either_way(draws, strengths, "brightness"))
    return np.clip((levels - MID_GREY) * factor + (MID_GREY + light), 0, 255)


def holes(
    draws: np.ndarray, strengths: Strengths, height: int, width: int
) -> np.ndarray:
    """Squares to hide; their centres lie anywhere in the image.

    Args:
      draws: float64 `[AMOUNTS, B]` in [0, 1).
      strengths: op name -> strength.
      height, width: of the images; the shorter one counts as the image's side.

    Returns:
      int64 `[B, 4]`: first and last + 1 row, first and last + 1 column.
    """
    part, down, right = _draw(draws, "cutout")
    half = strengths.get("cutout", 0.0) * part * min(height, width) / 2
    top, bottom = down * height - half, down * height + half
    start, end = right * width - half, right * width + half
    edges = np.rint(np.stack([top, bottom, start, end], axis=1))
    return np.clip(edges, 0, [height, height, width, width]).astype(np.int64)


def _aligned(shape: tuple[int, ...]) -> np.ndarray:
    """An empty float32 array at a multiple of 64 bytes.

    Such an array TensorFlow takes over from a `numpy_function`; others it copies.
    """
    size = 4 * math.prod(shape)
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(np.float32).reshape(shape)


def _draw(draws: np.ndarray, name: str) -> np.ndarray:
    return draws[columns(name)]


def _either_way(draws: np.ndarray, strengths: Strengths, name: str) -> np.ndarray:
    """Uniform in -strength .. strength."""
    return (2 * _draw(draws, name)[0] - 1) * strengths.get(name, 0.0)
