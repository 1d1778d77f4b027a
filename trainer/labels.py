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

_COLOURS = bytes.fromhex(
    "181a20 00f888 f08a24 d0f0b8 c82800 ffc2da 405828 2e9a4b f00090 684870 b068f8 "
    "c07078 30a800 1f6fd6 e0365a 48f8c0 f08060 98f8f8 587800 8a4b24 a58a2e f8d880 "
    "9800a0 98a070 8c1c4c 74c3f0 0048d0 5078b0 f870a0 e0f038 a0a800 6a3fa0 007058 "
    "a02020 a80878 b878a8 605000 88d888 2bb5a0 f5cf2e 00677a f6bc9c d665c6 b05000 "
    "00a0f8 88f860 784848 a88060 c0a6f2 9888f8 58a0a8 a8db5a 086010 f0a860 b0c068 "
    "f8a0e8 d09800 00d0e8 a0a0c8"
)
# Chosen once by taking, again and again, the colour farthest in CIELAB from all
# earlier ones. The frequent classes of CCP came first, so that they differ the most.


def palette(classes: int) -> np.ndarray:
    """Colours for labels: uint8 `[256, 3]` RGB, near-black for 0, grey for ignored.

    A label has the same colour whatever the number of classes. The first 59 rows lie at
    least 20 apart in CIELAB; later ones advance in hue by the golden angle. Rows that
    are no class are grey like ignored pixels.
    """
    colours = np.full((256, 3), 128, np.uint8)
    table = np.frombuffer(_COLOURS, np.uint8).reshape(-1, 3)
    known = min(classes, len(table))
    colours[:known] = table[:known]
    for label in range(known, min(classes, IGNORE_LABEL)):
        light, saturation = (0.55, 0.70, 0.42)[label % 3], (0.85, 0.60)[label // 3 % 2]
        rgb = colorsys.hls_to_rgb(label * 0.61803398875 % 1.0, light, saturation)
        colours[label] = [round(255 * part) for part in rgb]
    return colours
