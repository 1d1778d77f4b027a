"""A whole dressed figure."""

from __future__ import annotations

import numpy as np

from trainer.data.sample.body import Body, draw_arms, draw_legs, draw_torso
from trainer.data.sample.canvas import Canvas, Ink, both, limb, rgb
from trainer.data.sample.garments import (
    draw_bag,
    draw_coat,
    draw_hair_behind,
    draw_head,
)
from trainer.data.sample.wardrobe import Wardrobe

_HAIR = "17130f 2a1d15 43291b 6b432a 93623a b98a52 dcbd84 8a3a22 8d8a88".split()

_SLEEVES = {
    "dress": (0.0, 0.4, 1.9),
    "t-shirt": (0.5, 0.62, 0.7),
    "sweater": (1.8, 1.95),
}
"""How far sleeves reach: 1 is the elbow, 2 the wrist."""


def draw_person(canvas: Canvas, rng: np.random.Generator) -> None:
    """A whole figure, back to front."""
    body, wear = Body.drawn_from(rng), Wardrobe(rng)
    tone = rgb(rng.choice(_HAIR)) * rng.uniform(0.9, 1.1)
    hair = Ink(tone, tone * 1.16 + 7, "strands", folds=0.1)
    style = str(rng.choice(["short", "bob", "long", "bun", "curly"]))
    draw_hair_behind(canvas, style, hair)
    coat = wear.cloth("coat", 0.2) if wear.coat else None
    hem, gap = rng.uniform(0.64, 0.8), rng.uniform(0.022, 0.045)
    if coat:
        lining = Ink(coat.base * 0.45, coat.base)
        corner = (body.hip + 0.04, hem - 0.005)
        half = [
            (0, 0.2),
            (0.08, 0.2),
            (body.hip, 0.5),
            corner,
            corner,
            (0, hem - 0.005),
        ]
        canvas.paint("coat", lining, both(*half))
    draw_legs(canvas, body, wear)
    neck = Ink(body.skin.base * 0.84, body.skin.base, folds=0.0)
    top = draw_torso(canvas, body, wear)
    canvas.paint("skin", neck, *limb((0, 0.12, 0.028), (0, 0.17, 0.029)))
    reach = float(rng.choice(_SLEEVES[wear.top]))
    sleeves = [(wear.top, top, reach)] if reach else []
    if coat:
        draw_coat(canvas, body, coat, hem, gap)
        sleeves.append(("coat", coat, rng.uniform(1.8, 1.92)))
    leather = wear.cloth("bag")
    if wear.bag == "held":
        draw_bag(canvas, body, wear, leather)
    draw_arms(canvas, body, sleeves)
    if wear.bag == "slung":
        draw_bag(canvas, body, wear, leather)
    draw_head(canvas, body, wear, style, hair)
