"""Right and labelled pixels of a step, beside NumPy's argmax."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from trainer.engine.updates import hits
from trainer.labels import IGNORE_LABEL


@pytest.mark.parametrize("compiled", [False, True])
def test_hits_are_the_pixels_whose_greatest_logit_is_that_of_the_mask(
    compiled: bool,
) -> None:
    draw = np.random.default_rng(0)
    logits = draw.normal(size=[2, 8, 6, 5]).astype(np.float32)
    masks = draw.integers(0, 5, size=[2, 8, 6]).astype(np.uint8)
    masks[0, :3] = IGNORE_LABEL
    valid = masks != IGNORE_LABEL
    right = (logits.argmax(axis=-1) == masks) & valid
    count = tf.function(hits, jit_compile=compiled)
    found = [int(x) for x in count(tf.constant(logits), tf.constant(masks))]
    assert found == [right.sum(), valid.sum()]
    assert 0 < found[0] < found[1] < masks.size
