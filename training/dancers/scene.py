"""Light, camera and framing, drawn at random.

Units are metres and Z is up. The camera looks along +Y, tilted a little, so people who face -Y face it.
"""

from dataclasses import dataclass

import numpy as np

# Framing -> where the lower edge of the picture cuts the body, as a share of its height.
_SHOTS = {
    "full": (-0.07, -0.02),
    "knee": (0.18, 0.30),
    "thigh": (0.32, 0.44),
    "waist": (0.48, 0.58),
    "bust": (0.66, 0.76),
}
PAIR_SHOTS = {"full": 0.2, "knee": 0.45, "thigh": 0.35}


@dataclass(frozen=True)
class Shots:
    """Probabilities of the framings in `_SHOTS` for clips and stills of one person, and of two people."""

    clip: dict[str, float]
    still: dict[str, float]
    pairs: float


FRAMINGS = {
    "varied": Shots(
        clip={"full": 0.14, "knee": 0.26, "thigh": 0.30, "waist": 0.21, "bust": 0.09},
        still={"full": 0.22, "knee": 0.22, "thigh": 0.24, "waist": 0.20, "bust": 0.12},
        pairs=0.12,
    ),
    # As people frame the photos that they bring: the half figure above all.
    "close": Shots(
        clip={"full": 0.10, "knee": 0.18, "thigh": 0.22, "waist": 0.28, "bust": 0.22},
        still={"full": 0.10, "knee": 0.16, "thigh": 0.22, "waist": 0.28, "bust": 0.24},
        pairs=0.04,
    ),
}


@dataclass(frozen=True)
class Light:
    """Key, coloured rim and ambient light. Directions point to the light; colours are factors around 1."""

    key: np.ndarray
    key_colour: np.ndarray
    ambient: float
    ambient_colour: np.ndarray
    rim: np.ndarray
    rim_colour: np.ndarray
    shadow: float
    shadow_shift: tuple[float, float]

    @classmethod
    def random(cls, rng: np.random.Generator, mood: np.ndarray) -> "Light":
        """Draw a light; `mood`, the mean colour of the background (3,), tints its ambient part."""
        azimuth, height = rng.uniform(-1.2, 1.2), rng.uniform(0.1, 1.1)
        key = np.array([np.sin(azimuth) * np.cos(height), -np.cos(azimuth) * np.cos(height), np.sin(height)])
        low_key = rng.random() < 0.15
        ambient = rng.uniform(0.2, 0.4) if low_key else rng.uniform(0.42, 0.72)
        # Only its hue: the brightness of the background does not dim the people.
        tint = mood / max(float(mood.mean()), 0.05)
        spread = 0.25 if rng.random() < 0.12 else 0.04
        rim_strength = rng.uniform(0.2, 0.8) if rng.random() < 0.3 else 0.0
        rim = np.array([-np.sign(azimuth) * 0.8, 0.5, 0.35])
        return cls(
            key.astype(np.float32),
            np.clip(1 + rng.normal(0, spread, 3), 0.5, 1.4).astype(np.float32),
            ambient,
            np.clip(1 + 0.2 * (tint - 1), 0.86, 1.14).astype(np.float32),
            (rim / np.linalg.norm(rim)).astype(np.float32),
            (rim_strength * np.clip(1 + rng.normal(0, 0.25, 3), 0.2, 1.5)).astype(np.float32),
            rng.uniform(0.1, 0.45) if rng.random() < 0.6 else 0.0,
            (-np.sign(azimuth) * rng.uniform(0.01, 0.07), rng.uniform(-0.01, 0.04)),
        )


@dataclass(frozen=True)
class Camera:
    """Vertical field of view (degrees) and downward pitch (radians), the same for all of an identity."""

    field_of_view: float
    pitch: float

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Camera":
        """Draw a camera, from a telephoto to a wide-angle lens, level or looking down a little."""
        return cls(rng.uniform(20, 45), rng.uniform(-0.06, 0.16))

    def look_at(self, centre: np.ndarray, span: float) -> "View":
        """The view centred on the point `centre` (3,), at whose distance it is `span` metres high."""
        # In units of half an image: a point at the edge of the field of view is at 1.
        focal = 1 / np.tan(np.deg2rad(self.field_of_view) / 2)
        forward = np.array([0, np.cos(self.pitch), -np.sin(self.pitch)])
        up = np.array([0, np.sin(self.pitch), np.cos(self.pitch)])
        return View(centre - span / 2 * focal * forward, forward, up, focal)


@dataclass(frozen=True)
class View:
    """A placed camera."""

    eye: np.ndarray
    forward: np.ndarray
    up: np.ndarray
    focal: float

    def project(self, points: np.ndarray, size: int) -> np.ndarray:
        """World points (V, 3) -> (V, 3) float32: x, y in pixels of a square picture, 1/depth."""
        relative = points - self.eye
        # Points behind the camera would otherwise be mirrored into the image.
        depth = np.maximum(relative @ self.forward, 0.05)
        x = (0.5 + 0.5 * self.focal * relative[:, 0] / depth) * size
        y = (0.5 - 0.5 * self.focal * (relative @ self.up) / depth) * size
        return np.stack([x, y, 1 / depth], 1).astype(np.float32)


@dataclass(frozen=True)
class Framing:
    """The position of a person in the image.

    `cut` is where the lower edge is, as a share of the body's height; `headroom` the share of the image above
    the head (negative crops the head); `shift` the person's distance from the middle, as a share of the
    image.
    """

    cut: float
    headroom: float
    shift: float

    @classmethod
    def random(cls, rng: np.random.Generator, shots: dict[str, float], *, pair: bool) -> "Framing":
        """Draw a framing; `shots` are probabilities of the names in `_SHOTS`. A pair stays in the middle."""
        chances = np.array(list(shots.values()))
        shot = str(rng.choice(list(shots), p=chances / chances.sum()))
        low, high = _SHOTS[shot]
        headroom = rng.uniform(-0.05, 0.03) if rng.random() < 0.15 else rng.uniform(0.03, 0.20)
        if shot == "full":
            headroom = rng.uniform(0.02, 0.15)
        elif shot == "waist" and rng.random() < 0.35:  # a small half figure at the lower edge
            headroom = rng.uniform(0.18, 0.35)
        return cls(rng.uniform(low, high), headroom, rng.normal(0, 0.02 if pair else 0.07))

    def view(self, camera: Camera, *, top: float, floor: float, middle: np.ndarray, width: float) -> View:
        """The view of a body from height `floor` to `top` at `middle` (x, y), `width` metres wide."""
        bottom = floor + self.cut * (top - floor)
        span = max((top - bottom) / (1 - self.headroom), width)
        height = top - span * (0.5 - self.headroom)
        return camera.look_at(np.array([middle[0] - self.shift * span, middle[1], height]), span)
