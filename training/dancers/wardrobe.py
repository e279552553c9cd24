"""The dancer's appearance, drawn at random: body shape, face, hair and clothes.

Lengths are in metres, in the rest pose. Colours are float32 RGB in [0, 1].
"""

from dataclasses import dataclass

import numpy as np

from training.dancers.body import Body
from training.dancers.fabric import Cloth, random_colour

# sRGB 0..1; skin from light to dark.
_SKIN = np.divide(
    [[246, 214, 192], [236, 192, 162], [222, 172, 132], [194, 136, 94], [142, 90, 60], [88, 56, 40]], 255
)
_HAIR = np.divide(
    [
        [18, 15, 14], [30, 22, 18], [46, 30, 22], [74, 48, 30], [112, 76, 46], [172, 134, 84],
        [214, 184, 132], [128, 58, 34], [150, 148, 146], [212, 210, 206],
    ],
    255,
)  # fmt: skip
_HAIR_CHANCE = (0.24, 0.17, 0.15, 0.13, 0.09, 0.07, 0.04, 0.05, 0.04, 0.02)
_EYES = np.array([[58, 36, 22], [84, 56, 34], [70, 92, 70], [76, 106, 136], [40, 30, 26]]) / 255
_LIPS = np.array([[196, 92, 96], [170, 40, 54], [206, 120, 116], [120, 40, 60]]) / 255


@dataclass(frozen=True)
class Face:
    """Features and make-up of the face. Amounts are 0 (none) to 1; sizes are factors around 1."""

    eyes: np.ndarray
    brow_width: float
    brow_height: float
    lips: np.ndarray
    lip_paint: float
    liner: float
    blush: float
    beard: float
    moustache: float
    glasses: str
    frame_colour: np.ndarray
    mouth_width: float
    mouth_open: float
    smile: float


@dataclass(frozen=True)
class Hair:
    """`kind`: bald, buzz, short, medium, long, tail, bun, afro or beanie; `length`: from the crown."""

    kind: str
    colour: np.ndarray
    hat: np.ndarray
    length: float
    thickness: float


@dataclass(frozen=True)
class Outfit:
    """Garments.

    `sleeve` and `leg` are lengths along the limb; `hem`, `waist` and `skirt_hem` are heights; `collar` is a
    width. `jacket` is how wide it stands open, None without one; `skirt_hem` is None without a skirt;
    `loose_top` and `loose_bottom` are distances of the cloth from the body.
    """

    top: Cloth
    bottom: Cloth
    jacket_cloth: Cloth
    sleeve: float
    collar: float
    hem: float
    tucked: bool
    straps: bool
    leg: float
    waist: float
    skirt_hem: float | None
    jacket: float | None
    jacket_sleeve: float
    placket: bool
    belt: np.ndarray | None
    loose_top: float
    loose_bottom: float
    shoe: np.ndarray
    sole: float
    sock: np.ndarray | None


@dataclass(frozen=True)
class Person:
    """A dancer: `shape` has anny's phenotypes in [0, 1], `skin` a colour (3,)."""

    shape: dict[str, float]
    skin: np.ndarray
    face: Face
    hair: Hair
    outfit: Outfit


def _pick(rng: np.random.Generator, chances: dict) -> str:
    # Normalized here, so that chances need not add up to 1.
    weights = np.array(list(chances.values()), float)
    return str(rng.choice(list(chances), p=weights / weights.sum()))


def _random_face(rng: np.random.Generator, woman: bool) -> Face:
    beard = 0.0 if woman or rng.random() > 0.45 else rng.uniform(0.3, 1)
    return Face(
        eyes=_EYES[rng.integers(len(_EYES))].astype(np.float32),
        brow_width=rng.uniform(0.85, 1.15),
        brow_height=rng.uniform(0.6, 1.0) if woman else rng.uniform(0.8, 1.4),
        lips=_LIPS[rng.integers(len(_LIPS))].astype(np.float32),
        lip_paint=rng.uniform(0.2, 0.9) if woman else rng.uniform(0.05, 0.3),
        liner=rng.uniform(0.4, 1.0) if woman else rng.uniform(0.2, 0.55),
        blush=rng.uniform(0.2, 1.2),
        beard=beard,
        moustache=beard if rng.random() < 0.7 else 0.0,
        glasses=_pick(rng, {"none": 0.82, "round": 0.1, "dark": 0.08}),
        frame_colour=np.array(rng.choice([0.05, 0.12, 0.4]) * np.ones(3), np.float32),
        mouth_width=rng.uniform(0.85, 1.2),
        mouth_open=rng.uniform(0.4, 1.0) if rng.random() < 0.35 else 0.0,
        smile=rng.uniform(-0.2, 1.0),
    )


def _random_hair(rng: np.random.Generator, woman: bool, tone: float) -> Hair:
    """Draw hair; `tone` of the skin is 0 (light) to 5 (dark), with which hair is mostly dark."""
    chances = (
        {"short": 0.1, "medium": 0.22, "long": 0.32, "tail": 0.12, "bun": 0.12, "afro": 0.07, "beanie": 0.05}
        if woman
        else {
            "short": 0.5,
            "buzz": 0.15,
            "medium": 0.1,
            "long": 0.04,
            "bald": 0.07,
            "bun": 0.02,
            "afro": 0.05,
            "beanie": 0.07,
        }
    )
    # Frequencies of the ten shades, dark ones first.
    shade = rng.choice(len(_HAIR), p=_HAIR_CHANCE)
    if tone > 3 and rng.random() < 0.85:
        shade = rng.integers(3)
    colour = _HAIR[shade] * rng.uniform(0.8, 1.2)
    if rng.random() < 0.03:
        colour = random_colour(rng)
    kind = _pick(rng, chances)
    thickness = {"buzz": 0.004, "afro": rng.uniform(0.035, 0.06), "beanie": 0.02}.get(
        kind, rng.uniform(0.010, 0.028)
    )
    length = rng.uniform(0.27, 0.36) if kind == "medium" else rng.uniform(0.36, 0.60)
    return Hair(kind, np.clip(colour, 0.02, 1).astype(np.float32), random_colour(rng), length, thickness)


def _random_outfit(rng: np.random.Generator, woman: bool, body: Body) -> Outfit:
    arm, leg, crotch = body.arm_length, body.leg_length, body.crotch
    kind = _pick(
        rng,
        {"trousers": 0.45, "shorts": 0.17, "skirt": 0.16, "dress": 0.22}
        if woman
        else {"trousers": 0.76, "shorts": 0.24},
    )
    sleeve = rng.choice(
        [-0.02, 0.12, 0.18, 0.3, arm * 0.97],
        p=[0.14 if woman else 0.06, 0.2, 0.26, 0.08, 0.32 if woman else 0.40],
    )
    # Kept free of dresses, whose top and bottom are one cloth.
    crop = woman and kind != "dress" and rng.random() < 0.15
    leg_length = {"trousers": leg * rng.uniform(0.9, 1.0), "shorts": leg * rng.uniform(0.16, 0.5)}.get(
        kind, leg * 0.08
    )
    skirt_hem = None
    if kind in ("skirt", "dress"):
        skirt_hem = crotch - (rng.uniform(0.1, 0.35) if rng.random() < 0.6 else rng.uniform(0.4, 0.75))
    top = Cloth.random(rng, plain=0.15)
    bottom = top if kind == "dress" else Cloth.random(rng, denim=0.35 if kind != "skirt" else 0.15, plain=0.7)
    jacket = rng.uniform(0.035, 0.085) if kind != "dress" and not crop and rng.random() < 0.2 else None
    fitted = rng.random() < 0.4
    return Outfit(
        top=top,
        bottom=bottom,
        # Drawn even without a jacket, so that all later draws stay the same.
        jacket_cloth=Cloth.random(rng, denim=0.2, plain=0.7),
        sleeve=sleeve + rng.normal(0, 0.01),
        collar=rng.uniform(0.075, 0.125),
        hem=crotch + (rng.uniform(0.24, 0.34) if crop else 0.08 + rng.uniform(-0.06, 0.06)),
        tucked=kind == "dress" or rng.random() < 0.35,
        straps=woman and sleeve < 0.05 and rng.random() < 0.5,
        leg=leg_length,
        waist=crotch + rng.uniform(0.13, 0.21),
        skirt_hem=skirt_hem,
        jacket=jacket,
        jacket_sleeve=arm * rng.choice([0.97, 0.97, -0.02 / arm]),
        placket=rng.random() < 0.2,
        belt=random_colour(rng) * 0.5 if rng.random() < 0.25 else None,
        loose_top=rng.uniform(0.002, 0.006) if fitted else rng.uniform(0.006, 0.022),
        loose_bottom=rng.uniform(0.002, 0.006) if rng.random() < 0.4 else rng.uniform(0.006, 0.022),
        shoe=random_colour(rng),
        sole=rng.choice([0.92, 0.15, 0.6]),
        sock=random_colour(rng) if rng.random() < 0.35 else None,
    )


def random_person(rng: np.random.Generator, body: Body, *, in_pair: bool = False) -> Person:
    """Draw a dressed person; about half are women. The two of a pair are of similar height."""
    woman = rng.random() < 0.52
    tone = rng.uniform(0, len(_SKIN) - 1)
    # Between the six tones, so that no two people need have the same.
    skin = np.array([np.interp(tone, range(len(_SKIN)), channel) for channel in _SKIN.T])
    height = (0.3, 0.75)
    if in_pair:
        # A phenotype of 0.5 is a shorter woman than man.
        height = (0.6, 0.8) if woman else (0.25, 0.45)
    shape = {
        "gender": rng.uniform(0.85, 1) if woman else rng.uniform(0, 0.15),
        "age": rng.uniform(0.55, 0.9),
        "muscle": rng.uniform(0.3, 0.8),
        "weight": rng.uniform(0.25, 0.8),
        "height": rng.uniform(*height),
        "proportions": rng.uniform(0.3, 1),
    }
    return Person(
        shape,
        np.clip(skin * rng.uniform(0.92, 1.06), 0, 1).astype(np.float32),
        _random_face(rng, woman),
        _random_hair(rng, woman, tone),
        _random_outfit(rng, woman, body),
    )
