"""Class names, the ignore label and the palette. No TensorFlow here."""

from __future__ import annotations

import colorsys

import numpy as np

IGNORE_LABEL = 255
"""Mask value of pixels that count neither in losses nor in scores."""

CCP_LABELS = (
    "null accessories bag belt blazer blouse bodysuit boots bra bracelet cape cardigan "
    "clogs coat dress earrings flats glasses gloves hair hat heels hoodie intimate "
    "jacket jeans jumper leggings loafers necklace panties pants pumps purse ring "
    "romper sandals scarf shirt shoes shorts skin skirt sneakers socks stockings suit "
    "sunglasses sweater sweatshirt swimwear t-shirt tie tights top vest wallet watch "
    "wedges"
).split()
"""The 59 classes of Clothing Co-Parsing in id order (its `label_list.mat`)."""


def palette(classes: int) -> np.ndarray:
    """Colours for labels: uint8 `[256, 3]` RGB, black for 0, grey for ignored pixels.

    Hues advance by the golden angle, so that neighbouring ids differ strongly, and
    lightness and saturation alternate over three steps each.
    """
    colours = np.full((256, 3), 128, np.uint8)
    colours[0] = 0
    for label in range(1, min(classes, IGNORE_LABEL)):
        hue = label * 0.61803398875 % 1.0
        light = (0.55, 0.70, 0.42)[label % 3]
        saturation = (0.85, 0.65, 0.50)[label // 3 % 3]
        rgb = colorsys.hls_to_rgb(hue, light, saturation)
        colours[label] = [round(255 * part) for part in rgb]
    colours[IGNORE_LABEL] = 128
    return colours
