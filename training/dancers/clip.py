"""One identity: one or two people in front of a background, as separate stills and as a clip.

`render_identity` renders it; `render_all` renders and writes many on several processes, with the same pixels
on any number of them. Letters: S stills, T frames, V vertices, B bones, P people, N keypoints, M side of a
point map.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

from densepose_tools.keypoints import Keypoints, write_keypoints
from training.dancers.background import random_background
from training.dancers.body import BODY_VERTICES, Body, body_points
from training.dancers.dataset import (
    POINTS_SIDE,
    DatasetInfo,
    Identity,
    Spec,
    is_written,
    keypoints_path,
    write_identity,
)
from training.dancers.dress import Dressed, lag
from training.dancers.motion import Dance, choreograph
from training.dancers.render import (
    Film,
    Posed,
    detector_like,
    render_parts,
    render_picture,
    render_places,
    render_points,
)
from training.dancers.scene import FRAMINGS, PAIR_SHOTS, Camera, Framing, Light, View
from training.dancers.wardrobe import random_person

_PAIR_WIDTH = 1.2  # metres two people need beside each other


@dataclass(frozen=True)
class _Set:
    """What all images of an identity share: people, camera, light, film and background."""

    people: list[Dressed]
    camera: Camera
    light: Light
    film: Film
    background: np.ndarray
    blob: float
    unsteady: float


@dataclass(frozen=True)
class _Dancing:
    """One person's body over time: vertices, float32 (T, V, 3), and joints, float32 (T, B, 3)."""

    vertices: np.ndarray
    joints: np.ndarray

    def moved(self, by: np.ndarray) -> "_Dancing":
        """The same body, shifted by (3,), or by (T, 1, 3)."""
        return _Dancing(self.vertices + by, self.joints + by)


@dataclass(frozen=True)
class _Shot:
    """One still or the clip: the people's poses, the view, and random numbers for the flaws of its images."""

    dancing: list[_Dancing]
    view: View
    rng: np.random.Generator


def _on_the_floor(dancing: _Dancing) -> _Dancing:
    """Shift a body so that its lowest point is on the floor (height 0), smoothly over time."""
    lowest = dancing.vertices[:, :BODY_VERTICES, 2].min(1).astype(np.float32)
    if len(lowest) > 1:
        # Smoothed over time: feet may leave the floor for a moment.
        lowest = cv2.GaussianBlur(lowest[None], (0, 0), 1.2, borderType=cv2.BORDER_REPLICATE)[0]
    return dancing.moved(np.float32([0, 0, -1]) * lowest[:, None, None])


def _move_apart(people: list[_Dancing], rng: np.random.Generator) -> list[_Dancing]:
    """Place the first of two people on the left and the second on the right."""
    if len(people) == 1:
        return people
    # Metres from the middle, for each of the two.
    apart = rng.uniform(0.28, 0.45)
    offsets = [np.array([side * apart, rng.normal(0, 0.12), 0], np.float32) for side in (-1, 1)]
    return [person.moved(offset) for person, offset in zip(people, offsets, strict=True)]


def _frame(shared: _Set, people: list[_Dancing], rng: np.random.Generator, shots: dict[str, float]) -> View:
    """A view of the people, the same for all T frames."""
    pair = len(people) > 1
    framing = Framing.random(rng, PAIR_SHOTS if pair else shots, pair=pair)
    crown = shared.people[0].body.head_top
    # The 80th percentile: a jump does not widen the frame.
    top = max(float(np.percentile(person.vertices[:, crown, 2], 80)) for person in people) + 0.03
    middle = np.mean([person.vertices[:, :BODY_VERTICES, :2].mean((0, 1)) for person in people], 0)
    return framing.view(shared.camera, top=top, floor=0.0, middle=middle, width=_PAIR_WIDTH if pair else 0.0)


def _shoot(shared: _Set, shot: _Shot, *, fps: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Render a shot: images (T, H, W, 3), part ids (T, H, W) and body points (T, M, M, 4), uint8."""
    size = len(shared.background)
    pictures, maps, points = [], [], []
    for posed in _posed(shared, shot, fps=fps):
        picture = render_picture(posed, shot.view, shared.light, shared.background)
        # Exact part ids are made to look like a detector's, which is what drives an animation.
        exact = render_parts(posed, shot.view, size)
        developed, softened = _with_faults(shared, picture, exact, shot.rng)
        pictures.append(developed)
        maps.append(softened)
        points.append(render_points(posed, shot.view, POINTS_SIDE))
    return np.stack(pictures), np.stack(maps), np.stack(points)


def _posed(shared: _Set, shot: _Shot, *, fps: float) -> Iterator[list[Posed]]:
    """Yield the dressed and posed people of each of the T images."""
    bodies = [person.vertices for person in shot.dancing]
    # Of the whole clip in advance: where cloth is depends on where the body was before.
    lagged = [lag(body, fps=fps) for body in bodies]
    for t in range(len(bodies[0])):
        posed = []
        for dressed, body, behind in zip(shared.people, bodies, lagged, strict=True):
            placed, normals, body_normals = dressed.place(body[t], behind[t])
            posed.append(Posed(dressed, placed, normals, body[t], body_normals))
        yield posed


def _with_faults(
    shared: _Set, picture: np.ndarray, exact: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The image as filmed and its part ids as detected; both always draw as many random numbers."""
    developed = shared.film.develop(picture, rng)
    return developed, detector_like(exact, rng, blob=shared.blob, unsteady=shared.unsteady)


def _dance(
    shared: _Set, rng: np.random.Generator, *, frames: int, fps: float, frontal: float
) -> list[_Dancing]:
    """Let every person dance, each a dance of their own."""
    people = []
    for dressed in shared.people:
        dance = Dance.random(rng, frontal=frontal)
        poses = choreograph(dressed.body, dance, rng, frames=frames, fps=fps)
        people.append(_on_the_floor(_Dancing(*dressed.body.pose(poses, dressed.person.shape))))
    return _move_apart(people, rng)


def _shots(
    body: Body,
    seed: int | Sequence[int],
    spec: Spec,
    *,
    person: int | Sequence[int] | None = None,
) -> Iterator[tuple[_Set, _Shot]]:
    """Yield the stills and the clip of one identity; with ``person`` another seed's people dance.

    Each has to be shot, or passed over (`_pass_over`), before the next is requested, since they share their
    random numbers.
    """
    # Separate streams, so that `person` can replace who dances while nothing else changes.
    who, where, stills_rng, clip_rng = np.random.default_rng(seed).spawn(4)
    if person is not None:
        who = np.random.default_rng(person).spawn(1)[0]
    shots = FRAMINGS[spec.framing]
    # The number of people belongs to who they are, not to the scene.
    count = 2 if who.random() < shots.pairs else 1
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
    for _ in range(spec.stills):
        dancing = _dance(shared, stills_rng, frames=1, fps=spec.fps, frontal=0.8)
        yield shared, _Shot(dancing, _frame(shared, dancing, stills_rng, shots.still), stills_rng)
    dancing = _dance(shared, clip_rng, frames=spec.frames, fps=spec.fps, frontal=0.85)
    yield shared, _Shot(dancing, _frame(shared, dancing, clip_rng, shots.clip), clip_rng)


def render_identity(
    body: Body,
    seed: int | Sequence[int],
    spec: Spec,
    *,
    person: int | Sequence[int] | None = None,
) -> Identity:
    """Render one identity. The same seed and spec give the same pixels.

    Each still shows the same people in another dance, orientation and framing; the clip has consecutive
    frames of one dance. ``person`` is the seed of another identity whose people dance instead: the same
    scene, light and choreography with somebody else.
    """
    shots = _shots(body, seed, spec, person=person)
    *stills, clip = [_shoot(shared, shot, fps=spec.fps) for shared, shot in shots]
    return Identity(*(np.concatenate(kind) for kind in zip(*stills, strict=True)), *clip)


def identity_keypoints(body: Body, seed: int | Sequence[int], spec: Spec) -> np.ndarray:
    """Keypoints of the people of `render_identity`, float32 (S + T, P, N, 3), stills first.

    P is 1 or 2; N and the order are those of `densepose_tools.keypoints`; x and y are in pixels. The
    confidence is 1 inside the image, even for hidden points, and 0 outside and for points that are not
    recorded.
    """
    found = []
    for shared, shot in _shots(body, seed, spec):
        people = [body_points(body, person.vertices, person.joints) for person in shot.dancing]
        found.append(np.stack([_in_picture(points, shot.view, spec.size) for points in people], 1))
        _pass_over(shared, shot)
    return np.concatenate(found)


def identity_places(
    body: Body,
    seed: int | Sequence[int],
    spec: Spec,
    *,
    person: int | Sequence[int] | None = None,
) -> np.ndarray:
    """The place on the body that each pixel of `render_identity` shows, without rendering; stills first.

    Returns:
        (S + T, H, W, 4) float32, see `training.dancers.render.render_places`.
    """
    found = []
    for shared, shot in _shots(body, seed, spec, person=person):
        found += [render_places(p, shot.view, spec.size) for p in _posed(shared, shot, fps=spec.fps)]
        _pass_over(shared, shot)
    return np.stack(found)


def _pass_over(shared: _Set, shot: _Shot) -> None:
    """Draw the random numbers of a shot's images without rendering, so that the next shot is the same."""
    size = len(shared.background)
    blank = np.zeros((size, size, 3), np.float32), np.zeros((size, size), np.uint8)
    # One draw for each frame, of whatever image.
    for _ in shot.dancing[0].vertices:
        _with_faults(shared, *blank, shot.rng)


def _in_picture(points: np.ndarray, view: View, size: int) -> np.ndarray:
    """World points with confidence, (T, N, 4) -> x, y in pixels, confidence, float32 (T, N, 3)."""
    out = np.stack([view.project(frame[:, :3], size) for frame in points])
    inside = ((out[..., :2] >= 0) & (out[..., :2] < size)).all(-1)
    out[..., 2] = points[..., 3] * inside
    return out


class Renderer:
    """Renders and writes what is missing of an identity. Each process has one, which uses one thread."""

    def __init__(self, folder: Path, info: DatasetInfo, keypoints: bool) -> None:
        import torch

        # Before the body model: several processes with several threads each would get in each other's way.
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        self.folder, self.info, self.keypoints, self.body = folder, info, keypoints, Body()

    def __call__(self, index: int) -> int:
        seed, spec = (self.info.seed, index), self.info.spec
        if not is_written(self.folder, index):
            write_identity(self.folder, index, render_identity(self.body, seed, spec))
        path = keypoints_path(self.folder, index)
        if self.keypoints and not path.exists():
            points = identity_keypoints(self.body, seed, spec)
            write_keypoints(path, Keypoints(points, spec.size, spec.size))
        return index


_renderer: Renderer | None = None


def _start_worker(folder: Path, info: DatasetInfo, keypoints: bool) -> None:
    global _renderer
    _renderer = Renderer(folder, info, keypoints)


def _render_in_worker(index: int) -> int:
    return _renderer(index)


def render_all(
    folder: Path, info: DatasetInfo, todo: list[int], workers: int, *, keypoints: bool = False
) -> Iterator[int]:
    """Render what is missing of the identities `todo`; yields the index of each when it is done.

    With `keypoints` their keypoints are written, too.
    """
    # The first construction fills anny's cache, which all workers share.
    renderer = Renderer(folder, info, keypoints)
    if workers <= 1:
        yield from map(renderer, todo)
        return
    del renderer
    # Spawned, so what they run has to be importable: it could not live in `__main__`.
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker, (folder, info, keypoints)) as pool:
        for done in as_completed([pool.submit(_render_in_worker, index) for index in todo]):
            yield done.result()
