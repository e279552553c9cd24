"""Colours and patterns of cloth as functions of points in the rest pose, so that they move with the body.

Letters: N points. Colours are float32 RGB in [0, 1].
"""

import colorsys
from dataclasses import dataclass

import numpy as np

# Everyday clothing colours, sRGB 0..255.
_DENIM = [(44, 62, 94), (70, 96, 134), (103, 131, 166), (150, 171, 194), (32, 38, 54)]
_NEUTRAL = [
    (22, 22, 24), (34, 35, 38), (58, 60, 64), (95, 97, 100), (140, 142, 145), (190, 191, 192),
    (235, 235, 233), (245, 244, 240), (222, 212, 192), (196, 178, 148),
]  # fmt: skip
_MUTED = [
    (120, 108, 80), (92, 96, 62), (98, 66, 46), (142, 100, 66), (112, 32, 42), (160, 52, 48), (196, 138, 140),
    (204, 156, 54), (44, 82, 62), (44, 104, 110), (124, 166, 200), (34, 48, 92), (98, 76, 120),
    (188, 170, 204), (212, 110, 66), (226, 178, 160), (160, 180, 150), (214, 188, 162), (166, 128, 100),
]  # fmt: skip
_PATTERNS = {
    "plain": 0.46, "stripes": 0.05, "hoops": 0.10, "dots": 0.05, "check": 0.06, "plaid": 0.05,
    "gradient": 0.04, "floral": 0.08, "blotches": 0.05, "blocks": 0.06,
}  # fmt: skip
_LOGOS = {"none": 0.62, "disc": 0.1, "box": 0.08, "lines": 0.12, "band": 0.08}
_CHEST = 0.33  # height of the middle of the chest in the rest pose, metres


def _noise_texture(size: int = 256) -> np.ndarray:
    """Tileable 1/f noise (size, size) float32 with zero mean and unit deviation; always the same."""
    rng = np.random.default_rng(20240607)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None]) * size
    spectrum = rng.normal(size=(size, size)) + 1j * rng.normal(size=(size, size))
    spectrum *= (frequency > 2) / np.maximum(frequency, 1) ** 1.3
    noise = np.fft.ifft2(spectrum).real
    return ((noise - noise.mean()) / noise.std()).astype(np.float32)


_NOISE = _noise_texture()


def noise(u: np.ndarray, v: np.ndarray, scale: float, phase: float) -> np.ndarray:
    """Smooth noise, float32 (N,), about -2..2, at coordinates in metres; `scale` is texels per metre."""
    # & 255 wraps around the 256 texels of the tile; the phase shifts each use of it.
    row = (v * scale + 97 * phase).astype(np.int32) & 255
    column = (u * scale + 41 * phase).astype(np.int32) & 255
    return _NOISE[row, column]


def random_colour(rng: np.random.Generator, *, denim: float = 0.0) -> np.ndarray:
    """A clothing colour (3,) float32; `denim` is the chance of a jeans blue."""
    kind = rng.random()
    if rng.random() < denim:
        base = np.array(_DENIM[rng.integers(len(_DENIM))]) / 255
    elif kind < 0.48:
        base = np.array(_NEUTRAL[rng.integers(len(_NEUTRAL))]) / 255
    elif kind < 0.82:
        base = np.array(_MUTED[rng.integers(len(_MUTED))]) / 255
    else:
        base = np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.15, 0.85), rng.uniform(0.3, 0.95)))
    return np.clip(base * rng.uniform(0.85, 1.15) + rng.normal(0, 0.02, 3), 0.02, 0.98).astype(np.float32)


@dataclass(frozen=True)
class Cloth:
    """A cloth: its colours (base, second and third, (3, 3)), its pattern, and its shading.

    `pitch` is in repeats per metre; `folds` and `grain` are strengths of the shading.
    """

    colours: np.ndarray
    pattern: str
    pitch: float
    phase: np.ndarray
    folds: float
    grain: float
    logo: str

    @classmethod
    def random(cls, rng: np.random.Generator, *, denim: float = 0.0, plain: float = 0.0) -> "Cloth":
        """Draw a cloth; `denim` and `plain` are the probabilities of jeans cloth and of no pattern."""
        jeans = rng.random() < denim
        base = random_colour(rng, denim=1.0 if jeans else 0.0)
        others = [random_colour(rng), random_colour(rng)]
        # Drawn even if it is not used, so that the later draws stay the same.
        pattern = str(rng.choice(list(_PATTERNS), p=list(_PATTERNS.values())))
        if jeans or rng.random() < plain:
            pattern = "plain"
        return cls(
            np.stack([base, *others]),
            pattern,
            rng.uniform(5, 16),
            rng.uniform(0, 2 * np.pi, 3).astype(np.float32),
            rng.uniform(0.03, 0.12),
            rng.uniform(0.03, 0.07) if jeans else rng.uniform(0, 0.04),
            "none" if jeans else str(rng.choice(list(_LOGOS), p=list(_LOGOS.values()))),
        )

    def colour(self, p: np.ndarray) -> np.ndarray:
        """Colours (N, 3) float32 at rest-space points (N, 3)."""
        mix, third = self._mix(p)
        base, second, other = self.colours
        out = base + mix[:, None] * (second - base)
        out[third] = other
        if self.pattern in ("plain", "gradient"):
            out[self._logo(p)] = second
        if self.grain:
            out *= 1 + self.grain * noise(p[:, 0] + p[:, 1], p[:, 2], 900, self.phase[2])[:, None]
        return out

    def shade(self, p: np.ndarray) -> np.ndarray:
        """Brightness (N,) float32 to add for folds at rest-space points (N, 3)."""
        # A coordinate around the body, roughly, so that folds run along it.
        around = p[:, 0] + 0.8 * p[:, 1]
        long_folds = noise(around + 0.25 * p[:, 2], 0.45 * p[:, 2], 150, self.phase[0])
        creases = noise(0.6 * around, p[:, 2] + 0.4 * np.abs(p[:, 0]), 210, self.phase[1])
        return self.folds * (0.6 * long_folds + 0.5 * creases)

    def _mix(self, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The share of the second colour, float (N,), and where the third one shows, bool (N,)."""
        x, z, k = p[:, 0], p[:, 2], 2 * np.pi * self.pitch
        nowhere = np.zeros(len(p), bool)
        if self.pattern == "plain":
            return np.zeros(len(p), np.float32), nowhere
        if self.pattern == "stripes":
            return (np.sin(k * x + self.phase[0]) > 0.3).astype(np.float32), nowhere
        if self.pattern == "hoops":
            return (np.sin(k * z + self.phase[0]) > 0.2).astype(np.float32), nowhere
        if self.pattern == "dots":
            return (np.cos(1.6 * k * x) * np.cos(1.6 * k * z) > 0.5).astype(np.float32), nowhere
        if self.pattern == "check":
            both = 0.5 * (np.sin(k * x) > 0) + 0.5 * (np.sin(k * z) > 0)
            return both.astype(np.float32), nowhere
        if self.pattern == "plaid":
            across, down = np.sin(0.8 * k * x), np.sin(0.8 * k * z)
            return (0.45 * (across > 0.1) + 0.45 * (down > 0.1)).astype(np.float32), (across > 0.95) | (
                down > 0.95
            )
        if self.pattern == "gradient":
            return np.clip(p[:, 2] * 1.6 + 0.3, 0, 1).astype(np.float32), nowhere
        if self.pattern == "floral":
            spots = noise(x + 0.5 * p[:, 1], z, 20 * self.pitch, self.phase[0])
            petals = noise(x + 0.5 * p[:, 1], z, 28 * self.pitch, self.phase[1])
            return (spots > 0.7).astype(np.float32), petals > 1.2
        if self.pattern == "blotches":
            large = noise(x + 0.5 * p[:, 1], z, 12 * self.pitch, self.phase[0])
            return np.clip(3 * large, 0, 1), noise(x, z, 14 * self.pitch, self.phase[1]) > 0.9
        if self.pattern == "blocks":
            split = _CHEST + 0.08 * np.sin(self.phase[0])
            return (z > split).astype(np.float32), np.abs(z - split) < 0.02
        raise ValueError(f"unknown pattern {self.pattern!r}; choose from {list(_PATTERNS)}")

    def _logo(self, p: np.ndarray) -> np.ndarray:
        x, z = p[:, 0], p[:, 2] - _CHEST
        front = p[:, 1] < 0
        if self.logo == "disc":
            return front & (np.hypot(x, z) < 0.045 + 0.01 * self.phase[0] / 2)
        if self.logo == "box":
            return front & (np.abs(x) < 0.07) & (np.abs(z) < 0.035)
        if self.logo == "lines":
            row = np.abs(z) < 0.05
            return (
                front
                & row
                & (np.abs(x) < 0.09)
                & (np.sin(z * 190) > 0.1)
                & (np.sin(x * 150 + self.phase[1]) > -0.6)
            )
        if self.logo == "band":
            return np.abs(z + 0.06) < 0.025
        return np.zeros(len(p), bool)
