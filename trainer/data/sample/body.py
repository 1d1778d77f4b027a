"""The body in its pose, and what clothes its legs, trunk and arms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainer.data.sample.canvas import Canvas, Ink, Stroke, band, both, limb, rgb
from trainer.data.sample.wardrobe import Wardrobe

_SKIN = "f2d0b5 e8bd9b d9a37c c08860 a06a44 7d4e32 5a3825".split()


@dataclass
class Body:
    """Proportions and joints; arms hold shoulder, elbow and wrist as (x, y)."""

    shoulder: float
    waist: float
    hip: float
    legs: list[np.ndarray]
    arms: list[np.ndarray]
    skin: Ink

    @classmethod
    def drawn_from(cls, rng: np.random.Generator) -> Body:
        """A body in a pose: stance, and for each arm down, on the hip, out or bent."""
        shoulder, hip = rng.uniform(0.09, 0.112), rng.uniform(0.078, 0.092)
        stance, walk = rng.uniform(0.03, 0.07), rng.random() < 0.4
        legs, arms = [], []
        for side in (-1, 1):
            leg = [(0.043, 0.51), (0.5 * (0.045 + stance), 0.73), (stance, 0.925)]
            legs.append(np.array(leg) * (side, 1))
            s = shoulder - 0.014
            poses = [
                [(s + 0.014, 0.365), (s + rng.uniform(0.01, 0.035), 0.5)],
                [(s + 0.075, 0.345), (hip + 0.012, 0.435)],
                [(s + 0.05, 0.35), (s + rng.uniform(0.06, 0.11), 0.475)],
                [(s + 0.022, 0.36), (s - rng.uniform(0.03, 0.06), 0.41)],
            ]
            bend = poses[rng.choice(4, p=(0.5, 0.18, 0.2, 0.12))]
            arms.append(np.array([(s, 0.22), *bend]) * (side, 1))
        if walk:
            back = legs[rng.integers(2)]
            back[1:] = back[1:] * (0.55, 1) - [(0, 0.004), (0, 0.028)]
        tone = rgb(rng.choice(_SKIN)) * rng.uniform(0.94, 1.05)
        skin = Ink(tone, tone, folds=0.015)
        return cls(shoulder, rng.uniform(0.06, 0.074), hip, legs, arms, skin)


def draw_legs(canvas: Canvas, body: Body, wear: Wardrobe) -> None:
    """Legs, jeans and feet, the lifted leg first."""
    rng, leather = wear.rng, wear.cloth(wear.feet)
    denim = wear.denim() if wear.bottom == "jeans" else None
    cut = rng.choice([(0.033, 0.026), (0.038, 0.035), (0.037, 0.047)])
    sole = rgb(rng.choice(["f4f2ec", "1c1a19", "8a6a48"]))
    shaft = rng.uniform(0.79, 0.84)
    pelvis = both((0.0, 0.385), (body.waist, 0.385), (body.hip + 0.008, 0.47),
                  (body.hip + 0.004, 0.53), (0.0, 0.555))  # fmt: skip
    for turn, leg in enumerate(sorted(body.legs, key=lambda leg: leg[2, 1])):
        hip, knee, ankle = leg
        side = np.sign(hip[0])
        calf = 0.6 * knee + 0.4 * ankle + (side * 0.003, 0)
        bare = limb((*hip, 0.042), (*knee, 0.028), (*calf, 0.029), (*ankle, 0.017))
        canvas.paint("skin", body.skin, *bare)
        toe = np.add(ankle, (side * 0.026, 0.038))
        shoe = limb((ankle[0], ankle[1] + 0.008, 0.022), (*toe, 0.024))
        strokes: list[Stroke] = [(_across(toe, 0.021), sole, 0.012)]
        if wear.feet == "shoes":
            strap = (_across(ankle, 0.014), sole, 0.006)
            canvas.paint("shoes", leather, *shoe, strokes=[*strokes, strap])
        if denim:
            knee_width, hem_width = cut if wear.feet == "shoes" else (0.033, 0.024)
            legging = limb((*hip, 0.047), (*knee, knee_width), (*ankle, hem_width))
            # The front leg carries the pelvis, which hides the top of the other leg.
            parts = [*legging, pelvis] if turn else legging
            canvas.paint("jeans", denim, *parts, strokes=_seams(leg, side, denim))
        if wear.feet == "boots":
            rim = knee + (shaft - knee[1]) / (ankle[1] - knee[1]) * (ankle - knee)
            shin = limb((*rim, 0.035), (*ankle, 0.027))
            edge = (_across(rim, -0.024), leather.base * 0.55, 0.008)
            canvas.paint("boots", leather, *shin, *shoe, strokes=[*strokes, edge])


def _across(point: np.ndarray, below: float) -> np.ndarray:
    """A level line through a limb, somewhat below a joint."""
    return point + np.array([(-0.06, below), (0.06, below)])


def _seams(leg: np.ndarray, side: float, denim: Ink) -> list[Stroke]:
    dark, thread = denim.base * 0.6, (190, 140, 70)
    outer = np.add(leg, [(side * 0.02, 0), (0, 0), (side * 0.006, 0)])
    fly = [(0, 0.38), (0, 0.53), (-side * 0.004, 0.6)]
    pocket = [(side * 0.035, 0.4), (side * 0.055, 0.44), (side * 0.1, 0.45)]
    hem = _across(leg[2], 0.004)
    return [(outer, dark, 0.003), (fly, dark, 0.005),
            (pocket, thread, 0.003), (hem, thread, 0.004)]  # fmt: skip


def _bodice(body: Body, wear: Wardrobe, shoulder: float) -> list[Sequence[float]]:
    """The right half of a top from neckline to just above the waist."""
    rng = wear.rng
    neck, depth = rng.uniform(0.032, 0.05), rng.uniform(0.19, 0.235)
    if wear.top == "sweater":
        neck, depth = 0.03, 0.178
    return [(0, depth), (0.7 * neck, depth - 0.012), (neck, 0.172), (neck, 0.172),
            (shoulder - 0.012, 0.192), (shoulder, 0.205), (0.084, 0.29)]  # fmt: skip


def _flared(wide: float, hem: float) -> list[Sequence[float]]:
    return [(wide, hem), (wide, hem), (0.5 * wide, hem + 0.013), (0, hem + 0.01)]


def draw_torso(canvas: Canvas, body: Body, wear: Wardrobe) -> Ink:
    """Trunk, bottom and top; returns the top's cloth, for its sleeves."""
    rng, waist, hip = wear.rng, body.waist, body.hip
    chest = both((0.02, 0.165), (0.05, 0.182), (body.shoulder - 0.01, 0.196),
                 (body.shoulder, 0.23), (0.07, 0.29), (0.05, 0.36))  # fmt: skip
    canvas.paint("skin", body.skin, chest)
    if wear.bottom == "skirt":
        hem, flare = rng.uniform(0.6, 0.78), hip + rng.uniform(0.0, 0.075)
        cloth = wear.cloth("skirt", 0.35, pleats=True, folds=0.13)
        upper: list[Sequence[float]] = [(0, 0.375), (waist, 0.375), (hip + 0.008, 0.46)]
        outline = both(*upper, *_flared(flare, hem))
        canvas.paint("skirt", cloth, outline, strokes=band(0.392, cloth, 0.006))
    if wear.top == "dress":
        cloth = wear.cloth("dress", 0.55, pleats=True, folds=0.11)
        shoulder = body.shoulder - rng.choice([0.0, 0.026])
        hem, flare = rng.uniform(0.62, 0.84), hip + rng.uniform(0.03, 0.1)
        middle = [(waist, 0.385), (waist, 0.385), (hip + 0.012, 0.46)]
        upper = _bodice(body, wear, shoulder)
        outline = both(*upper, *middle, *_flared(flare, hem))
        canvas.paint("dress", cloth, outline, strokes=band(0.392, cloth, 0.007))
        return cloth
    loose, hem = rng.uniform(0.0, 0.012), rng.uniform(0.43, 0.5)
    if wear.top == "sweater":
        loose, cloth = loose + 0.012, wear.cloth("sweater", pattern="knit", folds=0.04)
    else:
        cloth = wear.cloth("t-shirt", 0.5)
    if wear.bottom == "skirt":
        hem -= 0.035
    low = max(hip, 0.08) + loose
    upper = [*_bodice(body, wear, body.shoulder + 0.006), (waist + loose, 0.385)]
    outline = both(*upper, (low, hem - 0.01), (low, hem), (low, hem), (0, hem + 0.006))
    canvas.paint(wear.top, cloth, outline, strokes=band(hem - 0.022, cloth, 0.004))
    return cloth


def draw_arms(
    canvas: Canvas, body: Body, sleeves: list[tuple[str, Ink, float]]
) -> None:
    """Arms and hands, then sleeves, inner first: class, cloth, reach down the arm."""
    for shoulder, elbow, wrist in body.arms:
        along = (wrist - elbow) / np.hypot(*(wrist - elbow))
        hand, thumb = wrist + 0.03 * along, wrist + 0.022 * along
        side = np.sign(shoulder[0])
        bare = limb((*shoulder, 0.028), (*elbow, 0.022), (*wrist, 0.0145))
        tip = hand + 0.016 * along
        palm = limb((*wrist, 0.0145), (*hand, 0.0175), (*tip, 0.011))
        finger = limb((*wrist, 0.01), (thumb[0] - side * 0.017, thumb[1], 0.008))
        canvas.paint("skin", body.skin, *bare, *palm, *finger)
        for layer, (name, cloth, reach) in enumerate(sleeves):
            thick = 0.007 * (layer + (name in ("coat", "sweater")))
            bend = shoulder + (elbow - shoulder) * min(reach, 1)
            joints = [(*shoulder, 0.031 + 0.4 * thick), (*bend, 0.029 + thick)]
            if reach > 1:
                end = elbow + (wrist - elbow) * (reach - 1)
                joints.append((*end, 0.02 + thick))
            canvas.paint(name, cloth, *limb(*joints))
