"""What TensorBoard itself reads of a run."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from tensorboard.backend.event_processing.plugin_event_accumulator import (
    EventAccumulator,
)

EVERYTHING, PLUGINS = {"tensors": 0}, ("scalars", "images", "text")


class Events:
    """The events of a run directory, by TensorBoard's own reader."""

    def __init__(self, run_dir: str | Path) -> None:
        folder = f"{run_dir}/tensorboard"
        self._found = EventAccumulator(
            folder,
            size_guidance=EVERYTHING,
            tensor_size_guidance=dict.fromkeys(PLUGINS, 0),
        ).Reload()

    @property
    def tags(self) -> set[str]:
        return set(self._found.Tags()["tensors"])

    def steps(self, tag: str) -> list[int]:
        return [event.step for event in self._found.Tensors(tag)]

    def text(self, tag: str) -> list[str]:
        tensors = [event.tensor_proto for event in self._found.Tensors(tag)]
        return [tensor.string_val[0].decode() for tensor in tensors]

    def picture(self, tag: str, step: int) -> np.ndarray:
        """RGB uint8 `[H, W, 3]` of a PNG."""
        [event] = [x for x in self._found.Tensors(tag) if x.step == step]
        width, height, *images = event.tensor_proto.string_val
        [content] = images
        decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        assert decoded.shape == (int(height), int(width), 3)
        return decoded[..., ::-1]


def holds(picture: np.ndarray, part: np.ndarray) -> bool:
    """Whether a picture has another one somewhere on it, pixel by pixel."""
    distance = cv2.matchTemplate(picture, part, cv2.TM_SQDIFF)
    top, left = np.unravel_index(distance.argmin(), distance.shape)
    height, width = part.shape[:2]
    return bool((picture[top : top + height, left : left + width] == part).all())
