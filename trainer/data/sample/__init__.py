"""The embedded sample data set: drawn, dressed figures laid out like CCP.

It stands in for Clothing Co-Parsing where there is no network. Colour says little
about a garment's class here; shape and place do, as in the photographs.

Figures are drawn in body units: y runs from 0 (crown) to 0.985 (soles), x from the
middle of the body. Outlines are closed polygons whose corners get rounded.
"""

from __future__ import annotations

import io
import os
import shutil

import cv2
import numpy as np
import scipy.io

from trainer.data.sample.backdrop import draw_backdrop
from trainer.data.sample.canvas import Canvas
from trainer.data.sample.person import draw_person
from trainer.errors import SeamlineError
from trainer.labels import CCP_LABELS

SAMPLE_VERSION = 1
"""Part of what names a written sample: raised whenever the drawings change."""


def draw_figure(
    seed: int, index: int, *, height: int = 300, width: int = 200
) -> tuple[np.ndarray, np.ndarray]:
    """Draws figure `index` of the sample with this seed, independently of the others.

    Returns:
      The picture, uint8 `[height, width, 3]` RGB, and its mask, uint8 `[height, width]`
      of ids into `CCP_LABELS`.
    """
    rng = np.random.default_rng([seed, index])
    backdrop = draw_backdrop(rng, height, width)
    canvas = Canvas(rng, height, width)
    draw_person(canvas, rng)
    size = (width, height)
    clear = (canvas.label == 0).astype(np.float32)
    around = cv2.resize(clear, size, interpolation=cv2.INTER_AREA)
    figure = cv2.resize(canvas.image, size, interpolation=cv2.INTER_AREA)
    shadow = np.ones((height, width), np.float32)
    spot = (int(canvas.centre / 2), int((canvas.top + 0.975 * canvas.scale) / 2))
    cv2.ellipse(shadow, spot, (width // 4, height // 40), 0, 0, 360, 0.45, -1)
    around *= cv2.blur(cv2.blur(shadow, (19, 9)), (19, 9))
    mottle = rng.normal(1, 0.04, (12, 8)).astype(np.float32)
    around *= cv2.resize(mottle, size, interpolation=cv2.INTER_CUBIC)
    x = np.linspace(-1, 1, width, dtype=np.float32)[None]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    tilt, fall, vignette = rng.uniform((-0.1, -0.08, 0), (0.1, 0.08, 0.12))
    glow = np.float32(1) + np.float32(tilt) * x + np.float32(fall) * y
    glow -= np.float32(vignette) * (x * x + y * y)
    grain = rng.standard_normal((height, width), np.float32)
    grain *= np.float32(rng.uniform(1, 5))
    cast = rng.uniform(0.9, 1.2) * rng.uniform(0.95, 1.05, 3)
    planes = []
    layers = zip(cv2.split(backdrop), cv2.split(figure), cast, strict=True)
    for back, front, gain in layers:
        plane = (back * around + front) * (glow * np.float32(gain)) + grain
        planes.append(np.clip(plane, 0, 255).astype(np.uint8))
    return cv2.merge(planes), np.ascontiguousarray(canvas.label[::2, ::2])


def _mat_bytes(**variables: np.ndarray) -> bytes:
    """A compressed MAT file whose header carries no time of writing."""
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, variables, do_compression=True)
    text = f"MATLAB 5.0 MAT-file, Seamline sample {SAMPLE_VERSION}"
    return text.ljust(116).encode() + buffer.getvalue()[116:]


def write_sample(folder: str, *, count: int = 250, seed: int = 0) -> None:
    """Writes `count` figures in the layout of Clothing Co-Parsing, or nothing at all.

    They are drawn in `folder + ".partial"`, renamed once complete; a complete folder is
    left alone, so its name should tell count, seed and `SAMPLE_VERSION`.

    Raises:
      SeamlineError: `folder` is there and holds something else.
    """
    folder = folder.rstrip("/")
    if os.path.exists(os.path.join(folder, "label_list.mat")):
        return
    if os.path.exists(folder):
        raise SeamlineError(
            f"{folder}: not a sample data set (no label_list.mat): "
            "remove it or name another folder"
        )
    partial = folder + ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    os.makedirs(f"{partial}/photos")
    os.makedirs(f"{partial}/annotations/pixel-level")
    for index in range(count):
        image, mask = draw_figure(seed, index)
        quality = [cv2.IMWRITE_JPEG_QUALITY, 92]
        jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)[1]
        stem = f"{index + 1:04d}"
        with open(f"{partial}/photos/{stem}.jpg", "wb") as file:
            file.write(jpeg.tobytes())
        with open(f"{partial}/annotations/pixel-level/{stem}.mat", "wb") as file:
            file.write(_mat_bytes(groundtruth=mask))
    names = np.empty((1, len(CCP_LABELS)), object)
    names[0] = CCP_LABELS
    with open(f"{partial}/label_list.mat", "wb") as file:
        file.write(_mat_bytes(label_list=names))
    os.replace(partial, folder)
