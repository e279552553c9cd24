"""The unlit colour of every visible point of a dressed person.

Letters: N pixels. `surface` is (N, 8) float32: rest position and the fields of `dress.CUTS`.
"""

import numpy as np

from training.dancers.body import Body
from training.dancers.dress import CUTS, Layer
from training.dancers.fabric import noise
from training.dancers.wardrobe import Face, Person

_MOUTH, _NOSTRILS, _BROWS = -0.068, -0.043, 0.024  # height above the middle of the eyes, metres
_EYE_APART = 0.0297


def _soft(distance: np.ndarray, edge: float) -> np.ndarray:
    """1 where distance < 0, 0 where distance > edge, a ramp between."""
    return np.clip(1 - distance / edge, 0, 1)


def _blend(colours: np.ndarray, towards: np.ndarray, amount: np.ndarray) -> None:
    """Mix (N, 3) in place towards a colour (3,) or (N, 3) by amount (N,)."""
    colours += amount[:, None] * (towards - colours)


def _paint_face(skin: np.ndarray, q: np.ndarray, face: Face, hair: np.ndarray) -> None:
    """Paint lips, brows, lids, nostrils, blush and beard on skin (N, 3), in place.

    q are the points (N, 3) relative to the middle between the eyes, in metres.
    """
    # abs(): both halves of the face alike. The face looks along -Y, so `front` excludes the back of the head.
    x, z, front = np.abs(q[:, 0]), q[:, 2], q[:, 1] < 0.03
    side_x = x - _EYE_APART
    jaw = _soft(np.abs(z + 0.085) - 0.022, 0.02) * (q[:, 1] < 0.06)
    if face.beard:
        stubble = jaw * np.clip(1.2 - 0.2 * noise(q[:, 0], z, 1200, 1.0), 0, 1)
        _blend(skin, hair * 0.8, face.beard * 0.75 * stubble)
    if face.moustache:
        lip = _soft(np.abs(z - _MOUTH - 0.016) - 0.004, 0.005) * _soft(x - 0.024, 0.01) * front
        _blend(skin, hair * 0.8, face.moustache * 0.8 * lip)
    cheek = np.exp(-(((x - 0.042) / 0.018) ** 2) - ((z + 0.035) / 0.02) ** 2) * front
    skin *= 1 - cheek[:, None] * face.blush * np.array([0.0, 0.10, 0.09], np.float32)
    curve = face.smile * 0.007 * np.clip(x / 0.024, 0, 1.2) ** 2  # a smile lifts the corners
    below_line = z - _MOUTH - curve
    mouth = ((x / (0.024 * face.mouth_width)) ** 2 + (below_line / 0.0108) ** 2) - 1
    # Lip colour follows the skin's brightness.
    _blend(skin, face.lips * (0.45 + 0.55 * skin.mean()), _soft(mouth, 0.35) * front * face.lip_paint)
    gap = np.abs(below_line) - 0.0012 - 0.004 * face.mouth_open * np.clip(1 - (x / 0.02) ** 2, 0, 1)
    parted = _soft(gap, 0.0018) * _soft(x - 0.021 * face.mouth_width, 0.004) * front
    inside = np.float32([0.85, 0.82, 0.78] if face.mouth_open and face.smile > 0.5 else [0.25, 0.08, 0.07])
    _blend(skin, inside, 0.8 * parted)
    nostril = _soft(np.hypot((x - 0.0085) / 1.3, z - _NOSTRILS) - 0.0028, 0.003) * front
    skin *= 1 - 0.5 * nostril[:, None]
    arch = _BROWS - 3 * (x - 0.031) ** 2
    brow = _soft(np.abs(z - arch) - 0.0042 * face.brow_height, 0.003) * _soft(
        np.abs(x - 0.031) - 0.019 * face.brow_width, 0.004
    )
    _blend(skin, hair * 0.6, 0.85 * brow * front)
    lid = (
        _soft(np.abs(np.hypot(side_x / 1.5, z * 1.25) - 0.0105) - 0.001, 0.003)
        * (0.5 + 0.5 * (z > 0))
        * front
    )
    socket = _soft(np.hypot(side_x / 1.5, z) - 0.012, 0.01) * front
    skin *= 1 - (0.18 * socket + 0.75 * face.liner * lid)[:, None]


def _paint_glasses(colours: np.ndarray, q: np.ndarray, face: Face) -> None:
    """Paint the frames of glasses, or dark lenses, over skin and eyes alike, in place."""
    x, z, front = np.abs(q[:, 0]), q[:, 2], q[:, 1] < 0.02
    ring = np.hypot((x - 0.032) / 1.25, z + 0.003) - 0.021
    bridge = (np.abs(z - 0.004) < 0.002) & (x < 0.012)
    temple = (np.abs(z - 0.006) < 0.0025) & (x > 0.055) & (q[:, 1] < 0.09)
    if face.glasses == "dark":
        _blend(colours, face.frame_colour, 0.92 * _soft(ring, 0.003) * front)
    frame = (_soft(np.abs(ring) - 0.0016, 0.0016) * front > 0.4) | (bridge & front) | temple
    colours[frame] = face.frame_colour


def _eye_colours(q: np.ndarray, face: Face) -> np.ndarray:
    radius = np.hypot(np.abs(q[:, 0]) - _EYE_APART, q[:, 2])
    out = np.full((len(q), 3), 0.88, np.float32)
    _blend(out, face.eyes, _soft(radius - 0.0064, 0.0012))
    _blend(out, np.float32([0.03, 0.03, 0.03]), _soft(radius - 0.0030, 0.001))
    out *= np.where(q[:, 2] > 0.005, 0.6, 1.0)[:, None].astype(np.float32)  # shade of the upper lid
    return out


class Materials:
    """The painted surface of a person's visible pixels.

    Attributes:
        colours: float32 (N, 3).
        folds: brightness of folds, to be added to the light, float32 (N,).
        skin, hair: what each pixel shows, bool (N,).
    """

    def __init__(self, body: Body, person: Person, layer: np.ndarray, surface: np.ndarray) -> None:
        """Paint the pixels of a person.

        Args:
            body, person: whose pixels they are.
            layer: the `Layer` that each shows, int8 (N,).
            surface: rest position and cut fields, float32 (N, 8).
        """
        self._person, self._body = person, body
        self._p = surface[:, :3]
        self._field = {name: surface[:, 3 + i] for i, name in enumerate(CUTS)}
        self._layer, self._bare = layer, layer == Layer.BODY
        self.folds = np.zeros(len(layer), np.float32)
        self.colours = np.empty((len(layer), 3), np.float32)
        self.colours[:] = person.skin
        self._paint_head()
        clothed = self._paint_clothes()
        self.hair = self._paint_hair()
        self.skin = ~(clothed | self.hair) & (layer != Layer.EYES)

    def _covered(self, name: str, *layers: Layer) -> np.ndarray:
        """Pixels that show cloth of these layers, or the body beneath it, bool (N,)."""
        # The body beneath is painted like the cloth, so that no skin shows where it pokes through.
        return np.isin(self._layer, layers) | (self._bare & (self._field[name] > 0))

    def _paint_head(self) -> None:
        q = self._p - self._body.eye.astype(np.float32)
        # Only the pixels of the head, a small share, go through the face's many formulas.
        head = np.flatnonzero(self._bare & (q[:, 2] > -0.16))
        if len(head):
            near, q_head = self.colours[head], q[head]
            _paint_face(near, q_head, self._person.face, self._person.hair.colour)
            if self._person.face.glasses != "none":
                _paint_glasses(near, q_head, self._person.face)
            self.colours[head] = near
        eyes = np.flatnonzero(self._layer == Layer.EYES)
        if len(eyes):
            near = _eye_colours(q[eyes], self._person.face)
            if self._person.face.glasses != "none":
                _paint_glasses(near, q[eyes], self._person.face)
            self.colours[eyes] = near

    def _paint_clothes(self) -> np.ndarray:
        """Paint the clothes from the inside out; returns where there is cloth or a shoe, bool (N,)."""
        outfit, p = self._person.outfit, self._p
        if outfit.sock is not None:
            sock = self._bare & (self._field["shoe"] > -0.14) & (p[:, 2] < self._ankle + 0.06)
            self.colours[sock] = outfit.sock
        top, bottom = self._covered("top", Layer.TOP), self._covered("bottom", Layer.BOTTOM, Layer.SKIRT)
        jacket = self._covered("jacket", Layer.JACKET)
        if outfit.tucked:
            # Where both cover the body beneath, the outer one gives the colour.
            top &= ~bottom | (self._layer == Layer.TOP)
        else:
            bottom &= ~(top & self._bare)
        for where, cloth in ((bottom, outfit.bottom), (top, outfit.top), (jacket, outfit.jacket_cloth)):
            pixels = np.flatnonzero(where)
            if len(pixels):
                self.colours[pixels] = cloth.colour(p[pixels])
                self.folds[pixels] = cloth.shade(p[pixels])
        front = p[:, 1] < 0
        if outfit.placket:
            seam = top & ~jacket & front & (np.abs(np.abs(p[:, 0]) - 0.016) < 0.0022)
            self.colours[seam] *= 0.72
            button = top & ~jacket & front & (np.abs(p[:, 0]) < 0.005) & (np.abs(np.sin(p[:, 2] * 40)) < 0.12)
            self.colours[button] = 0.9 - 0.75 * (outfit.top.colours[0].mean() > 0.5)
        if outfit.belt is not None:
            belt = (top | bottom) & ~jacket & (np.abs(p[:, 2] - outfit.waist + 0.02) < 0.018)
            self.colours[belt] = outfit.belt
        shoe = self._covered("shoe", Layer.SHOE)
        self.colours[shoe] = outfit.shoe
        self.colours[shoe & (p[:, 2] < self._body.rest[:, 2].min() + 0.022)] = outfit.sole
        return top | bottom | jacket | shoe

    @property
    def _ankle(self) -> float:
        return float(self._body.joints["foot.L"][2])

    def _paint_hair(self) -> np.ndarray:
        hair = self._person.hair
        if hair.kind == "bald":
            return np.zeros(len(self._p), bool)
        where = self._covered_scalp()
        pixels = np.flatnonzero(where)
        p = self._p[pixels]
        colour = hair.hat if hair.kind == "beanie" else hair.colour
        if hair.kind == "afro":
            strands = 1 + 0.16 * noise(p[:, 0] + p[:, 1], p[:, 2], 1500, 2.0)
        else:
            strands = 1 + 0.17 * noise(p[:, 0] + 0.7 * p[:, 1], 0.12 * p[:, 2], 1400, 2.0)
        self.colours[pixels] = colour * strands[:, None]
        if hair.kind == "buzz":
            self.colours[pixels] = 0.75 * self.colours[pixels] + 0.25 * self._person.skin
        return where

    def _covered_scalp(self) -> np.ndarray:
        under = self._bare & (self._field["scalp"] > 0.004)
        return (self._layer == Layer.HAIR) | (self._layer == Layer.LOOSE_HAIR) | under
