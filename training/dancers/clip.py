"""One identity: a person (or two) before one background, as separate stills and as one clip.

Letters: S stills, T frames, V vertices.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from training.dancers.background import random_background
from training.dancers.body import BODY_VERTICES, Body
from training.dancers.dataset import Identity, Spec
from training.dancers.dress import Dressed, lag
from training.dancers.motion import Dance, choreograph
from training.dancers.render import Film, Posed, detector_like, render_parts, render_picture
from training.dancers.scene import CLIP_SHOTS, PAIR_SHOTS, STILL_SHOTS, Camera, Framing, Light, View
from training.dancers.wardrobe import random_person

_PAIR_CHANCE = 0.12
_PAIR_WIDTH = 1.2  # metres two people need beside each other


@dataclass(frozen=True)
class _Set:
    """Everything that all pictures of an identity share."""

    people: list[Dressed]
    camera: Camera
    light: Light
    film: Film
    background: np.ndarray
    blob: float
    unsteady: float


def _on_the_floor(vertices: np.ndarray, *, steady: bool) -> np.ndarray:
    """Shift (T, V, 3) so that the lowest point is at height 0; steady: smoothly over time."""
    lowest = vertices[:, :BODY_VERTICES, 2].min(1).astype(np.float32)
    if steady and len(lowest) > 1:
        lowest = cv2.GaussianBlur(lowest[None], (0, 0), 1.2, borderType=cv2.BORDER_REPLICATE)[0]
    out = vertices.copy()
    out[:, :, 2] -= lowest[:, None]
    return out


def _move_apart(bodies: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Put the first of two people at the left, the second at the right, (T, V, 3) each."""
    if len(bodies) == 1:
        return bodies
    apart = rng.uniform(0.28, 0.45)
    offsets = [np.array([side * apart, rng.normal(0, 0.12), 0], np.float32) for side in (-1, 1)]
    return [body + offset for body, offset in zip(bodies, offsets, strict=True)]


def _frame(shared: _Set, bodies: list[np.ndarray], rng: np.random.Generator, shots: dict[str, float]) -> View:
    """A view of bodies (T, V, 3) that holds for all T."""
    pair = len(bodies) > 1
    framing = Framing.random(rng, PAIR_SHOTS if pair else shots, pair=pair)
    crown = shared.people[0].body.head_top
    top = max(float(np.percentile(body[:, crown, 2], 80)) for body in bodies) + 0.03
    middle = np.mean([body[:, :BODY_VERTICES, :2].mean((0, 1)) for body in bodies], 0)
    return framing.view(shared.camera, top=top, floor=0.0, middle=middle, width=_PAIR_WIDTH if pair else 0.0)


def _shoot(
    shared: _Set, bodies: list[np.ndarray], view: View, rng: np.random.Generator, *, fps: float
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (T, H, W, 3) and part ids (T, H, W) of bodies (T, V, 3) seen in one view."""
    size = len(shared.background)
    lagged = [lag(body, fps=fps) for body in bodies]
    pictures, maps = [], []
    for t in range(len(bodies[0])):
        posed = []
        for dressed, body, behind in zip(shared.people, bodies, lagged, strict=True):
            points, normals, body_normals = dressed.place(body[t], behind[t])
            posed.append(Posed(dressed, points, normals, body[t], body_normals))
        pictures.append(
            shared.film.develop(render_picture(posed, view, shared.light, shared.background), rng)
        )
        exact = render_parts(posed, view, size)
        maps.append(detector_like(exact, rng, blob=shared.blob, unsteady=shared.unsteady))
    return np.stack(pictures), np.stack(maps)


def _dance(
    shared: _Set, rng: np.random.Generator, *, frames: int, fps: float, frontal: float
) -> list[np.ndarray]:
    """Bodies (frames, V, 3) of every person of the set in one dance each."""
    bodies = []
    for dressed in shared.people:
        dance = Dance.random(rng, frontal=frontal)
        poses = choreograph(dressed.body, dance, rng, frames=frames, fps=fps)
        bodies.append(_on_the_floor(dressed.body.pose(poses, dressed.person.shape), steady=True))
    return _move_apart(bodies, rng)


def render_identity(body: Body, seed: int | Sequence[int], spec: Spec) -> Identity:
    """Render one identity; the same seed and spec give the same pixels.

    Each still is another dance, turn and framing of the same person; the clip is consecutive frames of one
    dance.
    """
    who, where, stills_rng, clip_rng = np.random.default_rng(seed).spawn(4)
    count = 2 if who.random() < _PAIR_CHANCE else 1
    people = [Dressed(body, random_person(who, body, in_pair=count > 1)) for _ in range(count)]
    background = random_background(where, spec.size)
    shared = _Set(
        people,
        Camera.random(where),
        Light.random(where, background.mean((0, 1))),
        Film.random(where),
        background,
        blob=where.uniform(1.4, 2.4),
        unsteady=where.uniform(0.2, 0.7),
    )
    stills = []
    for _ in range(spec.stills):
        bodies = _dance(shared, stills_rng, frames=1, fps=spec.fps, frontal=0.8)
        view = _frame(shared, bodies, stills_rng, STILL_SHOTS)
        stills.append(_shoot(shared, bodies, view, stills_rng, fps=spec.fps))
    bodies = _dance(shared, clip_rng, frames=spec.frames, fps=spec.fps, frontal=0.85)
    clip = _shoot(shared, bodies, _frame(shared, bodies, clip_rng, CLIP_SHOTS), clip_rng, fps=spec.fps)
    return Identity(
        np.concatenate([rgb for rgb, _ in stills]),
        np.concatenate([ids for _, ids in stills]),
        clip[0],
        clip[1],
    )
