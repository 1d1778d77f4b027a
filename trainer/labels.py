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
    "181a20 c174d6 f28e00 905674 ce00c7 abdeff d05ea9 003a5a ffe3e8 424670 827eff "
    "98b86f 28ffd4 0074d1 fa3400 606042 6a3848 7bffff b7cb5c 553600 f0fc0b 30dbd6 "
    "fd00ff b4905c 6c0049 0000c0 00e085 0d93a5 c16850 e5b800 930032 743f93 2300fe "
    "983f00 6e8600 6ab940 4b00e0 5143ff 2aad80 ace900 6964ad ffbca4 430084 fe7f9a "
    "32718b 71c3ce c71a56 980173 b095c4 00c0ff 6c009c d4ffaa eae1b9 056f5e 30ff70 "
    "f490ff a94894 99afac 90ddbf"
)
# Found once by simulated annealing over distances in OKLab: as seen, and as seen with
# deuteranopia and protanopia. Classes that are frequent in CCP had to lie the farthest
# apart, above all those that often touch; skin and hair keep a natural colour.


def palette(classes: int) -> np.ndarray:
    """Colours for labels: uint8 `[256, 3]` RGB, near-black for 0, grey for ignored.

    A label has the same colour whatever the number of classes. The first 59 rows lie at
    least 0.065 apart in OKLab (B. Ottosson, 2020), and 0.04 with deuteranopia or
    protanopia; later ones advance in hue by the golden angle. Rows that are no class
    are grey like ignored pixels.
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
