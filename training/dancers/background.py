"""Procedural backgrounds that pass for small photos: rooms, walls, woods, hills, streets, stages.

Images are float32 (H, W, 3) in [0, 1], H = W = size. Every function takes its random numbers from the
generator it is given, so changing the order of draws changes all data rendered from the same seeds
(`GENERATOR_VERSION`).
"""

from collections.abc import Callable

import cv2
import numpy as np

from training.dancers.fabric import random_colour

Rng = np.random.Generator


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """x (1, W, 1) and y (H, 1, 1) in [0, 1)."""
    line = (np.arange(size, dtype=np.float32) + 0.5) / size
    return line[None, :, None], line[:, None, None]


def _cloud(
    rng: Rng, size: int, *, roughness: float = 1.5, stretch: tuple[float, float] = (1, 1)
) -> np.ndarray:
    """Noise with a 1/f^roughness spectrum, float32 (H, W, 1), mean 0, deviation 1; stretch of x, y."""
    fy, fx = np.fft.fftfreq(size)[:, None] * stretch[1], np.fft.rfftfreq(size)[None] * stretch[0]
    frequency = np.hypot(fx, fy) * size
    spectrum = rng.normal(size=frequency.shape) * np.exp(2j * np.pi * rng.uniform(size=frequency.shape))
    spectrum[0, 0] = 0
    # The floor avoids a division by zero at the mean and bounds low frequencies that are stretched.
    noise = np.fft.irfft2(spectrum / np.maximum(frequency, 0.7) ** roughness, s=(size, size))
    return (noise / (noise.std() + 1e-9)).astype(np.float32)[..., None]


def _soft_colour(rng: Rng) -> np.ndarray:
    """A wall-like colour (3,), paler than clothes."""
    return (
        (random_colour(rng) * rng.uniform(0.3, 0.8) + rng.uniform(0.1, 0.55))
        .astype(np.float32)
        .clip(0.03, 0.97)
    )


def _sharp(value: np.ndarray, width: float = 0.05) -> np.ndarray:
    """A step from 0 to 1 at value 0, with a soft edge."""
    return np.clip(0.5 + value / width, 0, 1)


def _floor(rng: Rng, size: int, horizon: float) -> tuple[np.ndarray, np.ndarray]:
    """A floor in perspective below the horizon: picture (H, W, 3) and mask (H, W, 1)."""
    x, y = _grid(size)
    # Perspective: rows of the image are depths, which go to infinity at the horizon.
    depth = 0.15 / np.maximum(y - horizon, 0.004)
    across = (x - rng.uniform(0.3, 0.7)) * depth
    colour = _soft_colour(rng) * 0.8
    picture = colour * (0.75 + 0.3 * np.clip((y - horizon) / (1 - horizon), 0, 1)) + np.zeros_like(x)
    kind = rng.integers(4)
    if kind == 0:  # boards
        board = np.floor(across * rng.uniform(6, 14))
        picture = picture * (1 + 0.10 * np.sin(board * 12.9898) + 0.05 * _cloud(rng, size, stretch=(0.3, 3)))
    elif kind == 1:  # tiles
        k = rng.uniform(3, 8)
        tile = np.sign(np.sin(across * k * np.pi) * np.sin(depth * k * 0.5 * np.pi))
        picture = picture * (1 + rng.uniform(0.03, 0.2) * tile * np.clip(4 * (y - horizon), 0, 1))
    elif kind == 2:  # grass, gravel, carpet
        picture = picture * (1 + 0.22 * _cloud(rng, size, roughness=0.7, stretch=(0.6, 2)))
    return picture.clip(0, 1), _sharp(y - horizon, 0.012) + np.zeros_like(x)


def _window(rng: Rng, picture: np.ndarray, size: int) -> None:
    """A bright window with panes, in place."""
    x, y = _grid(size)
    left, top, width, height = (
        rng.uniform(-0.1, 0.8),
        rng.uniform(-0.1, 0.3),
        rng.uniform(0.15, 0.4),
        rng.uniform(0.2, 0.5),
    )
    inside = ((x > left) & (x < left + width) & (y > top) & (y < top + height)).astype(np.float32)
    light = np.clip(0.85 + 0.12 * _cloud(rng, size, roughness=2), 0, 1) * np.float32([0.95, 0.98, 1.0])
    # The cross of the window.
    bars = (np.abs((x - left) / width - 0.5) < 0.02) | (np.abs((y - top) / height - 0.5) < 0.015)
    picture += inside * (np.where(bars, 0.45, light) - picture)


def _things(rng: Rng, picture: np.ndarray, count: int, lowest: float) -> None:
    """Furniture-like shapes with a light and a dark side, in place; `lowest` is the height they stand at."""
    size = len(picture)
    for _ in range(count):
        colour, thing = random_colour(rng) * 0.8 + 0.08, np.zeros((size, size), np.float32)
        w, h = rng.uniform(0.05, 0.3), rng.uniform(0.06, 0.5)
        x0 = rng.uniform(-0.1, 1)
        y1 = lowest + rng.uniform(-0.02, 0.06) if rng.random() < 0.7 else rng.uniform(0.1, 0.6)
        # Fixed-point coordinates with 4 fractional bits, as the shift in fillConvexPoly says.
        corners = (np.array([[x0, y1 - h], [x0 + w, y1 - h], [x0 + w, y1], [x0, y1]]) * size * 16).astype(
            np.int32
        )
        if rng.random() < 0.25:
            cv2.ellipse(
                thing,
                (int((x0 + w / 2) * size), int((y1 - h / 2) * size)),
                (int(w * size / 2) + 1, int(h * size / 3) + 1),
                0,
                0,
                360,
                1.0,
                -1,
                cv2.LINE_AA,
            )
        else:
            cv2.fillConvexPoly(thing, corners, 1.0, cv2.LINE_AA, 4)
        ramp = np.linspace(rng.uniform(0.7, 1), rng.uniform(0.5, 1), size, dtype=np.float32)[None, :, None]
        texture = 1 + rng.uniform(0, 0.12) * _cloud(rng, size, roughness=1.2)
        picture += thing[..., None] * (colour * ramp * texture - picture)


def _studio(rng: Rng, size: int) -> np.ndarray:
    x, y = _grid(size)
    a, b = _soft_colour(rng), _soft_colour(rng)
    if rng.random() < 0.5:
        b = a * rng.uniform(0.6, 1.1)
    glow = np.exp(
        -(((x - rng.uniform(0.2, 0.8)) ** 2 + (y - rng.uniform(0.1, 0.7)) ** 2) / rng.uniform(0.1, 0.6))
    )
    picture = b + (a - b) * glow
    return picture * (1 + rng.uniform(0, 0.05) * _cloud(rng, size, roughness=1.8))


def _room(rng: Rng, size: int) -> np.ndarray:
    x, _ = _grid(size)
    picture = _soft_colour(rng) * (1 - rng.uniform(0, 0.5) * np.abs(x - rng.uniform(0, 1))) + np.zeros(
        (size, 1, 1), np.float32
    )
    picture *= 1 + 0.03 * _cloud(rng, size, roughness=1.5)
    kind = rng.integers(4)
    if kind == 0:  # wallpaper
        picture *= 1 + rng.uniform(0.03, 0.15) * np.sign(np.sin(x * rng.uniform(20, 90)))
    if rng.random() < 0.4:
        _window(rng, picture, size)
    horizon = rng.uniform(0.58, 0.92)
    floor, below = _floor(rng, size, horizon)
    picture = picture + below * (floor - picture)
    skirting = np.abs(_grid(size)[1] - horizon) < rng.uniform(0.004, 0.015)
    picture = np.where(skirting, picture * rng.uniform(0.6, 1.25), picture)
    _things(rng, picture, rng.integers(0, 7), horizon + 0.03)
    return picture


def _bricks(rng: Rng, size: int) -> np.ndarray:
    x, y = _grid(size)
    rows = rng.uniform(9, 24)
    course = np.floor(y * rows)
    # Every second course is shifted by half a brick.
    column = x * rows * 0.42 + 0.5 * (course % 2)
    # A hash of row and column: each brick has a brightness of its own.
    brick = np.abs(np.sin(course * 78.233 + np.floor(column) * 12.9898) * 43758.5453) % 1
    joint = (np.abs(y * rows % 1 - 0.5) > 0.43) | (np.abs(column % 1 - 0.5) > 0.46)
    wall = np.array([rng.uniform(0.45, 0.65), rng.uniform(0.24, 0.42), rng.uniform(0.18, 0.34)], np.float32)
    if rng.random() < 0.4:
        wall = _soft_colour(rng)
    picture = wall * (0.8 + 0.35 * brick) * (1 + 0.12 * _cloud(rng, size, roughness=1.1))
    return np.where(joint, np.float32(rng.uniform(0.4, 0.75)) * (0.9 + 0.1 * picture), picture)


def _planks(rng: Rng, size: int) -> np.ndarray:
    x, y = _grid(size)
    along, across = (y, x) if rng.random() < 0.6 else (x, y)
    count = rng.uniform(4, 14)
    board = np.floor(across * count)
    wood = np.array([0.55, 0.38, 0.24], np.float32) * rng.uniform(0.45, 1.4) + rng.normal(0, 0.03, 3).astype(
        np.float32
    )
    grain = _cloud(rng, size, roughness=1.1, stretch=(0.3, 4) if along is x else (4, 0.3))
    picture = wood * (1 + 0.14 * np.sin(board * 12.99) + 0.12 * grain + 0 * along)
    return np.where(np.abs(across * count % 1 - 0.5) > 0.475, picture * 0.55, picture)


def _foliage(rng: Rng, size: int) -> np.ndarray:
    green = np.array([rng.uniform(0.12, 0.38), rng.uniform(0.26, 0.48), rng.uniform(0.06, 0.2)], np.float32)
    if rng.random() < 0.2:
        green = np.array([0.55, 0.33, 0.12], np.float32) * rng.uniform(0.7, 1.2)  # autumn
    leaves = _cloud(rng, size, roughness=rng.uniform(0.8, 1.2))
    masses = _cloud(rng, size, roughness=2.2)
    picture = green * np.exp(0.45 * leaves + 0.45 * masses)
    sky = _sharp(masses + 0.5 * leaves - rng.uniform(0.8, 2.0), 0.6)
    picture = picture + sky * (np.array([0.85, 0.92, 0.95], np.float32) - picture)
    for _ in range(rng.integers(0, 4)):
        x, _ = _grid(size)
        trunk = _sharp(rng.uniform(0.01, 0.05) - np.abs(x - rng.uniform(0, 1) - 0.02 * masses), 0.02)
        picture = picture + trunk * (np.array([0.24, 0.17, 0.12], np.float32) * (1 + 0.2 * leaves) - picture)
    return picture


def _hills(rng: Rng, size: int) -> np.ndarray:
    x, y = _grid(size)
    zenith = np.array([rng.uniform(0.25, 0.6), rng.uniform(0.4, 0.7), rng.uniform(0.6, 0.95)], np.float32)
    haze = np.array([rng.uniform(0.75, 1.0), rng.uniform(0.7, 0.95), rng.uniform(0.6, 0.95)], np.float32)
    picture = zenith + (haze - zenith) * np.clip(y * 1.7, 0, 1)
    clouds = _sharp(_cloud(rng, size, roughness=2, stretch=(0.6, 2)) - rng.uniform(0.2, 2), 1.2)
    picture = picture + 0.7 * clouds * (0.97 - picture)
    land = np.array([rng.uniform(0.15, 0.4), rng.uniform(0.22, 0.4), rng.uniform(0.15, 0.35)], np.float32)
    layers, horizon = rng.integers(1, 5), rng.uniform(0.35, 0.75)
    for i in range(layers):
        near = (i + 1) / layers
        steps = rng.normal(0, 1, size).astype(np.float32)
        # A random walk, smoothed, is the silhouette of a hill.
        line = cv2.GaussianBlur(
            np.cumsum(steps - steps.mean())[None], (0, 0), size * rng.uniform(0.004, 0.05)
        )[0]
        ridge = horizon + 0.22 * (near - 0.6) - 0.05 * line / (line.std() + 1e-6) * (1.2 - near)
        # Far hills fade into the haze.
        tone = haze + (land - haze) * (0.25 + 0.75 * near)
        ground = tone * (1 + (0.05 + 0.15 * near) * _cloud(rng, size, roughness=1.2, stretch=(0.7, 1.6)))
        picture = picture + _sharp(y - ridge[None, :, None], 0.01) * (ground - picture)
    return picture


def _street(rng: Rng, size: int) -> np.ndarray:
    x, y = _grid(size)
    picture = _soft_colour(rng) * (1.1 - 0.3 * y) + np.zeros_like(x)
    horizon = rng.uniform(0.55, 0.85)
    edge = 0.0
    while edge < 1:
        width, top = rng.uniform(0.1, 0.35), rng.uniform(-0.2, 0.35)
        wall = _soft_colour(rng) * rng.uniform(0.4, 1)
        panes = (np.sin(x * rng.uniform(40, 120)) > 0.2) & (np.sin(y * rng.uniform(40, 120)) > 0.2)
        front = np.where(panes, wall * rng.choice([0.5, 0.6, 1.5]), wall)
        picture = np.where((x >= edge) & (x < edge + width) & (y > top), front, picture)
        edge += width
    floor, below = _floor(rng, size, horizon)
    picture = picture + below * (floor - picture)
    _things(rng, picture, rng.integers(0, 4), horizon + 0.04)
    return picture * (1 + 0.06 * _cloud(rng, size, roughness=1.2))


def _lights(rng: Rng, size: int) -> np.ndarray:
    """Out-of-focus lights in the dark."""
    _, y = _grid(size)
    tint = random_colour(rng) * rng.uniform(0.1, 0.5)
    picture = tint * (1 + 0.4 * _cloud(rng, size, roughness=2)) * (1.1 - 0.5 * y)
    radius = rng.uniform(0.01, 0.07)
    for _ in range(rng.integers(15, 70)):
        disc = np.zeros((size, size), np.float32)
        centre = (rng.uniform(0, 1, 2) * np.array([1, rng.uniform(0.5, 1)]) * size * 16).astype(int)
        cv2.circle(
            disc,
            (int(centre[0]), int(centre[1])),
            int(radius * rng.uniform(0.5, 1.2) * size * 16) + 16,
            1.0,
            -1,
            cv2.LINE_AA,
            4,
        )
        colour = np.float32([1, rng.uniform(0.5, 1), rng.uniform(0.2, 1)])[
            rng.permutation(3) if rng.random() < 0.3 else slice(None)
        ]
        picture = picture + disc[..., None] * colour * rng.uniform(0.1, 0.7)
    return picture


def _nebula(rng: Rng, size: int) -> np.ndarray:
    """Coloured smoke, a painted backdrop, a night sky."""
    picture = np.zeros((size, size, 3), np.float32) + random_colour(rng) * rng.uniform(0.1, 0.7)
    for _ in range(rng.integers(2, 5)):
        veil = _sharp(_cloud(rng, size, roughness=rng.uniform(1.3, 2.2)), rng.uniform(1.5, 4))
        picture = picture + veil * rng.uniform(0.3, 0.9) * (random_colour(rng) - picture)
    if rng.random() < 0.4:
        stars = cv2.GaussianBlur((rng.random((size, size)) > 0.996).astype(np.float32), (0, 0), 0.7)
        picture = picture + 3 * stars[..., None]
    return picture


def _stage(rng: Rng, size: int) -> np.ndarray:
    x, y = _grid(size)
    picture = np.zeros((size, size, 3), np.float32) + random_colour(rng) * rng.uniform(0.05, 0.3)
    for _ in range(rng.integers(1, 5)):
        foot, lean, width = rng.uniform(0, 1), rng.normal(0, 0.3), rng.uniform(0.04, 0.16)
        beam = np.exp(-(((x - foot - lean * y) / (width * (0.3 + y))) ** 2)) * (1.1 - 0.6 * y)
        picture = picture + rng.uniform(0.15, 0.6) * beam * np.float32(rng.uniform(0.3, 1, 3))
    floor, below = _floor(rng, size, rng.uniform(0.7, 0.92))
    return picture + below * (floor * 0.4 - 0.5 * picture)


# Kind -> its share of the backgrounds; they add up to 1.
_KINDS: dict[Callable[[Rng, int], np.ndarray], float] = {
    _studio: 0.17, _room: 0.23, _bricks: 0.06, _planks: 0.05, _foliage: 0.11, _hills: 0.11, _street: 0.1,
    _lights: 0.06, _nebula: 0.06, _stage: 0.05,
}  # fmt: skip


def random_background(rng: Rng, size: int) -> np.ndarray:
    """A background (size, size, 3) float32 in [0, 1], sometimes out of focus, dim, tinted or vignetted."""
    kinds = list(_KINDS)
    kind = kinds[rng.choice(len(kinds), p=np.array(list(_KINDS.values())))]
    picture = np.ascontiguousarray(np.broadcast_to(kind(rng, size), (size, size, 3)), dtype=np.float32)
    if rng.random() < 0.5:
        # Out of focus, as behind people in photos.
        blur = size * rng.uniform(0.003, 0.03)
        picture = cv2.GaussianBlur(picture.clip(0, 1.5), (0, 0), blur, borderType=cv2.BORDER_REFLECT)
    x, y = _grid(size)
    picture = picture * np.clip(1 + rng.normal(0, 0.05, 3), 0.85, 1.15)
    picture = picture * (1 - rng.uniform(0, 0.5) * 2 * ((x - 0.5) ** 2 + (y - 0.5) ** 2))
    return (picture * rng.uniform(0.65, 1.15)).clip(0, 1).astype(np.float32)
