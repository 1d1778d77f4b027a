"""Records that are sound, but do not hold an example that can be trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests import numbered
from trainer.data import examples, images
from trainer.errors import SeamlineError
from trainer.limits import Limits

PHOTO, MASK = numbered.encoded(0).image, np.zeros((32, 32), np.uint8)
SPOILT = MASK.copy()
SPOILT[5, 6], SPOILT[7, 8] = 3, 255


@pytest.mark.parametrize(
    ("photo", "mask", "problem"),
    [
        (b"not a photo", MASK, "not an image"),
        (PHOTO, MASK[:9, :7], "a photo of 32x32 pixels, but a mask of 7x9"),
        (PHOTO, SPOILT, "a label that is none of the 3 classes"),
    ],
)
@pytest.mark.parametrize("memory", [0, 100])
def test_a_record_that_holds_no_example_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    photo: bytes,
    mask: np.ndarray,
    problem: str,
    memory: int,
) -> None:
    """Held in memory or streamed."""
    pair = (photo, images.encode_mask(mask))
    monkeypatch.setattr(numbered, "_pictures", lambda label: pair)
    card = numbered.write(tmp_path, 3, shards=1)
    use = Limits(input_memory_mb=memory, input_threads=2, prefetch=2)
    line = rf"record 0 \('0000'\): {problem}; convert again"
    with pytest.raises(SeamlineError, match=line):
        examples.open_splits(str(tmp_path), card, ["train"], image_size=32, limits=use)[
            0
        ].fetch([0])


def test_the_ignore_label_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = (PHOTO, images.encode_mask(np.where(SPOILT == 3, 255, SPOILT)))
    monkeypatch.setattr(numbered, "_pictures", lambda label: pair)
    card = numbered.write(tmp_path, 3, shards=1)
    read = examples.streamed(str(tmp_path), card, "train", image_size=32)
    assert (read.fetch([2])[1] == 255).sum() == 2
