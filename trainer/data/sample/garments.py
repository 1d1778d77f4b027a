"""Coat and bag, and everything on the head: hair, face and hat."""

from __future__ import annotations

import numpy as np

from trainer.data.sample.body import Body
from trainer.data.sample.canvas import (
    Canvas,
    Ink,
    Stroke,
    band,
    both,
    curve,
    limb,
    oval,
)
from trainer.data.sample.wardrobe import Wardrobe


def draw_coat(canvas: Canvas, body: Body, cloth: Ink, hem: float, gap: float) -> None:
    """The two open fronts of a long coat, with lapels, buttons and pockets."""
    wide, flare = body.shoulder + 0.014, body.hip + 0.05
    dark, pale = cloth.base * 0.5, cloth.base * 1.15 + 12
    for side in (-1, 1):
        front = [(0.03, 0.166), (wide - 0.02, 0.189), (wide, 0.205), (0.096, 0.3),
                 (body.waist + 0.024, 0.39), (body.hip + 0.03, 0.5), (flare, hem),
                 (flare, hem), (gap + 0.012, hem + 0.008), (gap + 0.012, hem + 0.008),
                 (gap, 0.42), (0.034, 0.26)]  # fmt: skip
        lapel = [(0.036, 0.16), (0.062, 0.21), (0.066, 0.265), (0.05, 0.27),
                 (gap, 0.38)]  # fmt: skip
        pocket = [(0.062, 0.5), (0.1, 0.485)]
        edge = [(gap, 0.38), (gap + 0.014, hem + 0.02)]
        strokes: list[Stroke] = [
            (lapel, dark, 0.005),
            (pocket, dark, 0.007),
            (edge, pale, 0.004),
        ]
        for y in (0.42, 0.48, 0.54):
            strokes.append(([(gap + 0.014, y)] * 2, dark * 0.6, 0.009))
        lines = [(np.array(line) * (side, 1), tone, pen) for line, tone, pen in strokes]
        canvas.paint("coat", cloth, curve(front, side), strokes=lines)


def draw_bag(canvas: Canvas, body: Body, wear: Wardrobe, cloth: Ink) -> None:
    """A handbag hanging from a hand, or one on a strap across the trunk."""
    rng = wear.rng
    arm = body.arms[rng.integers(2)]
    side, wide = np.sign(arm[0, 0]), rng.uniform(0.05, 0.068)
    high = rng.uniform(0.085, 0.12)
    if wear.bag == "held":
        x, y = arm[2, 0], arm[2, 1] + 0.075
        grip = (x, y - 0.045)
        ends = [(x + part * wide, y + 0.01, 0.005) for part in (-0.6, 0.6)]
        straps = limb(ends[0], (*grip, 0.006), ends[1])
    else:
        x, y = side * (body.hip + 0.035), 0.45
        straps = limb((-side * 0.07, 0.19, 0.007), (side * body.hip, y + 0.01, 0.007))
    outline = [(-0.85, 0), (0.85, 0), (0.95, 0.5), (1.05, 1), (-1.05, 1), (-0.95, 0.5)]
    sack = np.array(outline) * (wide, high) + (x, y)
    flap = np.array([(-1, 0), (-0.7, 0.5), (0.7, 0.5), (1, 0)]) * (wide, high) + (x, y)
    clasp = [(x, y + 0.5 * high)] * 2
    lines: list[Stroke] = [
        (flap, cloth.base * 0.5, 0.005),
        (clasp, (214, 184, 110), 0.014),
    ]
    canvas.paint("bag", cloth, *straps)
    canvas.paint("bag", cloth, sack, strokes=lines)


def draw_hair_behind(canvas: Canvas, style: str, hair: Ink) -> None:
    """The hair that falls behind the shoulders, for the styles that have it."""
    if style in ("long", "bob"):
        low = 0.29 if style == "long" else 0.165
        fall = both((0, -0.008), (0.05, 0.0), (0.066, 0.06), (0.072, 0.13),
                    (0.078, low), (0.06, low + 0.015), (0, low))  # fmt: skip
        canvas.paint("hair", hair, fall)


def draw_head(
    canvas: Canvas, body: Body, wear: Wardrobe, style: str, hair: Ink
) -> None:
    """Ears, hair, face, fringe and hat."""
    rng = wear.rng
    for x in (-0.051, 0.051):
        canvas.paint("skin", body.skin, oval(x, 0.083, 0.011, 0.012))
    volume = rng.uniform(0.0, 0.008)
    crown = [oval(0, 0.056, 0.056 + volume, 0.064 + volume)]
    if style == "bun":
        crown.append(oval(0, -0.012, 0.03, 0.028))
    if style == "curly":
        ring = np.linspace(-0.5, np.pi + 0.5, 9)
        curls = np.stack([0.06 * np.cos(ring), 0.062 - 0.06 * np.sin(ring)], 1)
        crown += [oval(x, y, 0.03, 0.03) for x, y in curls]
    canvas.paint("hair", hair, *crown)
    _draw_face(canvas, body.skin, hair.base * 0.8, rng.uniform(0.034, 0.04))
    part = rng.uniform(-0.02, 0.02)
    drop = 0.062 if style == "bob" and rng.random() < 0.6 else rng.uniform(0.03, 0.044)
    fringe = [(-0.055, 0.09), (-0.058, 0.03), (-0.03, 0.0), (0.03, 0.0), (0.058, 0.03),
              (0.055, 0.09), (0.045, 0.06), (part, drop), (-0.045, 0.06)]  # fmt: skip
    canvas.paint("hair", hair, curve(fringe))
    lock = [(0.05, 0.05), (0.062, 0.08), (0.075, 0.2), (0.066, 0.27), (0.046, 0.25),
            (0.05, 0.15), (0.043, 0.1)]  # fmt: skip
    if style == "long":
        canvas.paint("hair", hair, curve(lock), curve(lock, -1))
    if wear.hat:
        _draw_hat(canvas, wear)


def _draw_face(canvas: Canvas, skin: Ink, brow: np.ndarray, jaw: float) -> None:
    face = both((0, 0.028), (0.036, 0.032), (0.052, 0.06), (0.05, 0.1), (jaw, 0.134),
                (0.014, 0.149), (0, 0.149))  # fmt: skip
    nose = [(0.003, 0.085), (0.006, 0.104), (-0.002, 0.106)]
    mouth = [(-0.011, 0.124), (0, 0.127), (0.011, 0.124)]
    lines: list[Stroke] = [(mouth, skin.base * (0.78, 0.5, 0.5), 0.007)]
    lines.append((nose, skin.base * 0.8, 0.003))
    arch = np.array([(-0.01, 0.069), (0, 0.066), (0.01, 0.069)])
    for x in (-0.021, 0.021):
        white = [(x - 0.006, 0.083), (x + 0.006, 0.083)]
        lines += [
            ([(1.4 * x, 0.11)] * 2, skin.base * (1.0, 0.9, 0.87), 0.02),
            (white, skin.base * 0.3 + 150, 0.006),
            ([(x, 0.083)] * 2, (38, 28, 24), 0.0075),
            (np.add(arch, (x, 0.011)), skin.base * 0.35, 0.0035),
            (np.add(arch, (x, 0)), brow, 0.004),
        ]
    canvas.paint("skin", skin, face, strokes=lines)


def _draw_hat(canvas: Canvas, wear: Wardrobe) -> None:
    """A beanie, a wide brim or a cap with a peak to one side."""
    pattern = "knit" if wear.hat == "beanie" else "plain"
    cloth = wear.cloth("hat", pattern=pattern)
    top = both((0, -0.034), (0.04, -0.036), (0.058, 0.0), (0.062, 0.045), (0, 0.05))
    below = oval(0, 0.036, 0.115, 0.019)
    if wear.hat == "beanie":
        below = oval(0, -0.034, 0.018, 0.016)
    elif wear.hat == "cap":
        below = curve([(-0.06, 0.03), (0.06, 0.03), (0.068, 0.05), (0.03, 0.062),
                       (-0.05, 0.052)])  # fmt: skip
    canvas.paint("hat", cloth, top, below, strokes=band(0.02, cloth, 0.008))
