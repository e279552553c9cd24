"""Clothes and hair as layers: copies of parts of the mesh, offset along the normals, cut at the hem.

Letters: V body vertices, L layer vertices, F triangles, T frames.
"""

from enum import IntEnum

import numpy as np

from training.dancers.body import HAIR_END, HAIR_START, SKIRT_START, Body
from training.dancers.raster import vertex_normals
from training.dancers.wardrobe import Hair, Outfit, Person


class Layer(IntEnum):
    """The layer that a triangle of a dressed person belongs to."""

    BODY = 0
    EYES = 1
    TOP = 2
    BOTTOM = 3
    SKIRT = 4
    JACKET = 5
    HAIR = 6
    LOOSE_HAIR = 7
    SHOE = 8


CUTS = ("top", "bottom", "jacket", "shoe", "scalp")
"""Fields that are positive where a garment or hair covers the body: columns 3.. of `Dressed.surface`."""

_LAG_SECONDS = 0.12
_SWING = {Layer.SKIRT: 0.8, Layer.LOOSE_HAIR: 0.5}


def _long_hair(hair: Hair) -> bool:
    return hair.kind in ("medium", "long", "tail")


def _cut_top(body: Body, *, sleeve: float, hem: float, collar: float) -> np.ndarray:
    """A field (V,), positive where a shirt of these lengths covers the body; below 5 cm no sleeves."""
    x, _, z = body.rest.T
    armhole = np.where(z > body.neck_height - 0.22, 0.155 - np.abs(x), 1.0) if sleeve < 0.05 else 1.0
    # Intersection: a point is covered if every one of these is positive.
    return np.minimum.reduce(
        [
            np.where(body.along_arm > -0.5, sleeve - body.along_arm, 1.0),
            np.where(body.arm_weight > 0.3, 1.0, z - hem),
            np.broadcast_to(armhole, z.shape),
            body.from_neck - collar,
            (0.55 - body.head_weight) * 0.2,
            np.where(body.along_leg > 0.30, -1.0, 1.0),
        ]
    )


def _cuts(body: Body, outfit: Outfit) -> dict[str, np.ndarray]:
    """The fields of CUTS but `scalp`, (V,) each."""
    x, _, z = body.rest.T
    top = _cut_top(body, sleeve=outfit.sleeve, hem=outfit.hem, collar=outfit.collar)
    if outfit.straps:
        # Above this height only two straps are left, 17 cm apart.
        strap = 0.014 - np.abs(np.abs(x) - 0.085)
        top = np.minimum(top, np.maximum(body.neck_height - 0.17 - z, strap))
    leg_end = outfit.leg - body.along_leg
    if outfit.skirt_hem is not None:
        leg_end = z - outfit.skirt_hem - 0.03  # legs that push through the skirt then look like the skirt
    bottom = np.minimum.reduce(
        [
            np.where(body.along_leg > -0.5, leg_end, 1.0),
            outfit.waist - z,
            (0.4 - body.arm_weight) * 0.2,
        ]
    )
    jacket = np.full(len(z), -1.0)
    if outfit.jacket is not None:
        jacket = _cut_top(
            body, sleeve=outfit.jacket_sleeve, hem=outfit.hem - 0.03, collar=outfit.collar - 0.01
        )
        wider_below = outfit.jacket + 0.12 * np.clip(body.neck_height - 0.1 - z, 0, 1) * 0.5
        # Open in front by `wider_below`, closed at the back.
        jacket = np.minimum(jacket, np.maximum(np.abs(x) - wider_below, -0.15 * body.frontness))
    shoe = np.maximum((body.foot_weight - 0.55) * 0.12, -1)
    return {"top": top, "bottom": bottom, "jacket": jacket, "shoe": shoe}


def _stand_off(body: Body, outfit: Outfit) -> tuple[np.ndarray, np.ndarray]:
    """Distance of the top's and of the bottom's cloth from the skin, (V,) each."""
    x, _, z = body.rest.T
    belly = np.clip((body.neck_height - 0.15 - z) / 0.25, 0, 1) * np.clip(1 - body.arm_weight * 3, 0, 1)
    top = outfit.loose_top * (0.5 + 1.2 * belly + 2.0 * np.clip(body.along_arm, 0, 0.3))
    flare = np.clip((body.along_leg - 0.12) / 0.45, 0, 1) * np.clip(np.abs(x) / 0.05, 0, 1)
    bottom = outfit.loose_bottom * (0.4 + 2.5 * flare)
    if outfit.tucked:
        bottom = bottom + (outfit.loose_top * 1.5 + 0.003) * (z > body.crotch)
    return top, bottom


def _hair_thickness(body: Body, hair: Hair) -> np.ndarray:
    """Distance of the hair's surface from the scalp, (V,)."""
    thick = hair.thickness * np.clip(body.scalp / 0.03, 0, 1)
    if hair.kind == "bun":
        # Half a sphere behind the crown.
        knot = body.rest[body.head_top] + np.array([0, 0.06, -0.02])
        distance = np.linalg.norm(body.rest - knot, axis=1)
        thick = thick + 0.055 * np.clip(1 - (distance / 0.055) ** 2, 0, 1) ** 0.5
    return thick


class Dressed:
    """The layered mesh of a dressed person, each of whose vertices follows a vertex of the body.

    Attributes:
        faces: triangles, int32 (F, 3).
        layer: the `Layer` of each triangle, int8 (F,).
        cut: float32 (L,); what is drawn of a layer ends where this becomes negative.
        surface: rest position and the fields of `CUTS`, float32 (L, 3 + len(CUTS)).
    """

    def __init__(self, body: Body, person: Person) -> None:
        self.body, self.person = body, person
        cuts = _cuts(body, person.outfit) | {"scalp": body.scalp}
        sources, offsets, ends, faces, layers, swings = [], [], [], [], [], []
        first = 0
        for kind, triangles, offset, cut in self._layers(cuts):
            # Each layer copies the vertices it uses, since it moves them.
            used, corners = np.unique(triangles, return_inverse=True)
            sources.append(used)
            offsets.append(offset[used])
            ends.append(cut[used])
            faces.append(corners.reshape(triangles.shape).astype(np.int32) + first)
            layers.append(np.full(len(triangles), kind, np.int8))
            swings.append(self._swing(kind, used))
            first += len(used)
        self._source = np.concatenate(sources)
        self._offset = np.concatenate(offsets).astype(np.float32)[:, None]
        self._swing_weight = np.concatenate(swings).astype(np.float32)[:, None]
        self._swinging = np.flatnonzero(self._swing_weight[:, 0])
        self.cut = np.concatenate(ends).astype(np.float32)
        self.faces, self.layer = np.concatenate(faces), np.concatenate(layers)
        fields = np.stack([cuts[name] for name in CUTS], 1)
        self.surface = np.concatenate([body.rest, fields], 1)[self._source].astype(np.float32)

    def _layers(self, cuts: dict[str, np.ndarray]) -> list[tuple[Layer, np.ndarray, np.ndarray, np.ndarray]]:
        """The layers this person wears: kind, triangles, offset along the normal (V,), cut (V,)."""
        body, outfit, hair = self.body, self.person.outfit, self.person.hair
        faces, count = body.faces, len(body.rest)
        whole, none = np.ones(count), np.zeros(count)
        loose_top, loose_bottom = _stand_off(body, outfit)
        layers = [
            (Layer.BODY, faces["body"], none, whole),
            (Layer.EYES, faces["eyes"], none, whole),
            (Layer.TOP, faces["tights"], loose_top, cuts["top"]),
            (Layer.BOTTOM, faces["tights"], loose_bottom, cuts["bottom"]),
        ]
        if outfit.jacket is not None:
            layers.append((Layer.JACKET, faces["tights"], loose_top + 0.012, cuts["jacket"]))
        if outfit.skirt_hem is not None:
            skirt = np.where(np.arange(count) >= SKIRT_START, body.rest[:, 2] - outfit.skirt_hem, -1)
            layers.append((Layer.SKIRT, faces["skirt"], np.full(count, 0.006), skirt))
        if hair.kind != "bald":
            head = faces["body"][(body.scalp[faces["body"]] > -0.5).all(1)]
            layers.append((Layer.HAIR, head, _hair_thickness(body, hair), body.scalp - 0.002))
        if _long_hair(hair):
            crown = body.rest[HAIR_START:HAIR_END, 2].max()
            ends = np.minimum(body.rest[:, 2] - (crown - hair.length), body.off_face)
            if hair.kind == "tail":
                ends = np.minimum(ends, 0.05 - np.abs(body.rest[:, 0]))
            layers.append((Layer.LOOSE_HAIR, faces["hair"], np.full(count, 0.004), ends))
        feet = faces["body"][(body.foot_weight[faces["body"]] > 0.2).all(1)]
        layers.append((Layer.SHOE, feet, np.full(count, 0.008), cuts["shoe"]))
        return layers

    def _swing(self, kind: Layer, used: np.ndarray) -> np.ndarray:
        """How strongly each vertex of a layer lags behind the body, 0..1: most at its lower end."""
        if kind not in _SWING:
            return np.zeros(len(used))
        z = self.body.rest[used, 2]
        return _SWING[kind] * np.clip((z.max() - 0.15 - z) / 0.6, 0, 1)

    def place(self, vertices: np.ndarray, lagged: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Dress one posed body: positions and normals of the layers, (L, 3), and normals of the body, (V, 3).

        Args:
            vertices: of the body, float32 (V, 3).
            lagged: the same a moment ago, which loose hair and skirts follow.
        """
        normals = vertex_normals(vertices, self.body.all_faces)
        points = vertices[self._source] + self._offset * normals[self._source]
        # Only loose layers: everything else sticks to the body.
        loose, source = self._swinging, self._source[self._swinging]
        points[loose] += self._swing_weight[loose] * (lagged[source] - vertices[source])
        return points, normals[self._source], normals


def lag(vertices: np.ndarray, *, fps: float) -> np.ndarray:
    """Positions (T, V, 3), low-pass filtered in time, so that they trail behind a little."""
    # An exponential filter: the lag in seconds does not depend on the frame rate.
    keep = np.float32(np.exp(-1 / (_LAG_SECONDS * fps)))
    out = vertices.copy()
    for t in range(1, len(out)):
        out[t] = keep * out[t - 1] + (1 - keep) * vertices[t]
    return out
