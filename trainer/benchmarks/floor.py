"""The least that a conversion must do. No TensorFlow: workers import this."""

from __future__ import annotations

import os

import cv2
import scipy.io

from trainer.data.sources import Source


def decode_all(part: Source) -> int:
    """Decodes every photo and mask of a local slice at full size; their number."""
    for photo, mask in part.files.values():
        cv2.imread(os.path.join(part.folder, photo))
        path = os.path.join(part.folder, mask)
        if mask.endswith(".mat"):
            scipy.io.loadmat(path)
        else:
            cv2.imread(path, cv2.IMREAD_UNCHANGED)
    return len(part.files)
