"""Renders an image of posed, dressed people, its part map, and the place on the body that each pixel shows.

Images are rendered at twice the size and averaged down. Letters: H W pixels, N covered pixels, L layer
vertices, V body vertices.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from training.dancers.body import Body
from training.dancers.dress import Dressed
from training.dancers.paint import Materials
from training.dancers.parts import PART_TABLE, soften, wobble
from training.dancers.raster import Visibility, interpolate, label
from training.dancers.scene import Light, View

_SUPERSAMPLING = 2
_REST_CORNER = np.float32([-1.28, -1.28, -1.28])  # metres; centimetres from it fit into a byte


@dataclass(frozen=True)
class Posed:
    """A person in one pose: points and normals of layers (L, 3) and body (V, 3), float32."""

    dressed: Dressed
    points: np.ndarray
    normals: np.ndarray
    body_points: np.ndarray
    body_normals: np.ndarray


@dataclass(frozen=True)
class Film:
    """Small flaws of an image: `noise`, deviation in 1/255; `blur`, pixels; `jpeg`, quality or None."""

    noise: float
    blur: float
    jpeg: int | None

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Film":
        """Draw small flaws; many films have none."""
        return cls(
            rng.uniform(0.3, 2.5) if rng.random() < 0.5 else 0.0,
            rng.uniform(0.3, 0.6) if rng.random() < 0.25 else 0.0,
            int(rng.integers(70, 95)) if rng.random() < 0.3 else None,
        )

    def develop(self, picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Add the flaws to an image, float32 (H, W, 3) in [0, 1] -> uint8."""
        if self.blur:
            picture = cv2.GaussianBlur(picture, (0, 0), self.blur)
        if self.noise:
            picture = picture + rng.normal(0, self.noise / 255, picture.shape).astype(np.float32)
        out = (picture.clip(0, 1) * 255 + 0.5).astype(np.uint8)
        if self.jpeg is not None:
            _, packed = cv2.imencode(".jpg", out, [cv2.IMWRITE_JPEG_QUALITY, self.jpeg])
            out = cv2.imdecode(packed, cv2.IMREAD_COLOR)
        return out


def render_picture(people: list[Posed], view: View, light: Light, background: np.ndarray) -> np.ndarray:
    """Render the people in front of the background, float32 (H, W, 3) in [0, 1]."""
    size = len(background)
    fine = size * _SUPERSAMPLING
    seen, starts = _draw_dressed(people, view, fine)
    occlusion = _occlusion(seen.inverse_depth)
    front = np.zeros((fine, fine, 4), np.float32)
    for first, person in zip(starts, people, strict=False):
        pixels = seen.covered(first, len(person.dressed.faces))
        colours = _light_person(person, seen, pixels, int(first), view, light)
        front.reshape(-1, 4)[pixels, :3] = colours * occlusion.ravel()[pixels, None]
        front.reshape(-1, 4)[pixels, 3] = 1
    front = cv2.resize(front, (size, size), interpolation=cv2.INTER_AREA)
    # Shadows fall on the background alone, before the people are put in front.
    shaded = background * _cast_shadow(people, view, light, front[..., 3])[..., None]
    # Colours are already multiplied by the coverage, as both were averaged together.
    return front[..., :3] + (1 - front[..., 3:]) * shaded


def _draw_dressed(people: list[Posed], view: View, size: int) -> tuple[Visibility, np.ndarray]:
    """The visibility of the people with their clothes, and the number of each person's first face."""
    seen = Visibility.empty(size)
    starts = np.cumsum([0] + [len(person.dressed.faces) for person in people])
    for first, person in zip(starts, people, strict=False):
        dressed = person.dressed
        seen.draw(view.project(person.points, size), dressed.faces, first_face=int(first), cut=dressed.cut)
    return seen, starts


def _light_person(
    person: Posed, seen: Visibility, pixels: np.ndarray, first: int, view: View, light: Light
) -> np.ndarray:
    """Lit colours (N, 3) float32 of one person's visible pixels."""
    dressed = person.dressed
    values = np.concatenate([dressed.surface, person.normals], 1)
    values = interpolate(seen, pixels, dressed.faces, values, first_face=first)
    surface, normals = values[:, :-3], values[:, -3:]
    layer = dressed.layer[seen.face.ravel()[pixels] - first]
    material = Materials(dressed.body, dressed.person, layer, surface)
    normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-6)
    # Hair and skirts are seen from both sides: normals are turned towards the camera.
    facing = normals @ -view.forward.astype(np.float32)
    normals *= np.where(facing < 0, -1, 1).astype(np.float32)[:, None]
    facing = np.minimum(np.abs(facing), 1)
    # Wrapped diffuse light: surfaces just past the light's horizon are not black.
    key = np.clip(0.22 + 0.78 * (normals @ light.key), 0, 1)
    sky = 0.85 + 0.15 * normals[:, 2]
    lit = light.ambient * sky[:, None] * light.ambient_colour
    lit = lit + ((1.15 - light.ambient) * key)[:, None] * light.key_colour
    lit = (lit + material.folds[:, None]) * (0.8 + 0.2 * facing)[:, None]
    colours = material.colours * lit
    half = light.key - view.forward.astype(np.float32)
    gloss = np.clip(normals @ (half / np.linalg.norm(half)), 0, 1) ** 14
    colours += (gloss * (0.10 * material.skin + 0.12 * material.hair))[:, None]
    # Light from behind shows where the surface turns away from the camera.
    rim = np.clip(normals @ light.rim, 0, 1) * (1 - facing) ** 1.5
    return colours + rim[:, None] * light.rim_colour * (0.3 + material.colours)


def _occlusion(inverse_depth: np.ndarray) -> np.ndarray:
    """Ambient occlusion, (H, W) in [0.6, 1]: darker where something, such as an arm, is just in front."""
    covered = (inverse_depth > 0).astype(np.float32)
    sigma = 0.022 * len(inverse_depth)
    around = cv2.GaussianBlur(inverse_depth, (0, 0), sigma) / np.maximum(
        cv2.GaussianBlur(covered, (0, 0), sigma), 1e-4
    )
    own = np.maximum(inverse_depth, 1e-4)
    metres_in_front = (around / own - 1) / own
    return 1 - np.clip(3 * (metres_in_front - 0.012), 0, 0.4)


def _cast_shadow(people: list[Posed], view: View, light: Light, alpha: np.ndarray) -> np.ndarray:
    """Brightness of the background, (H, W): a soft shadow on the wall and one under the feet."""
    size = len(alpha)
    out = np.ones((size, size), np.float32)
    if not light.shadow:
        return out
    dx, dy = light.shadow_shift
    shift = np.float32([[1, 0, dx * size], [0, 1, dy * size]])
    wall = cv2.GaussianBlur(cv2.warpAffine(alpha, shift, (size, size)), (0, 0), 0.02 * size + 3 * abs(dx))
    out -= light.shadow * wall
    ground = np.zeros((size, size), np.float32)
    for person in people:
        standing = person.body_points[person.dressed.body.foot_weight > 0.5]
        # Only feet that are near the lowest point have a shadow under them.
        standing = standing[standing[:, 2] < standing[:, 2].min() + 0.08]
        spot = view.project(np.concatenate([standing.mean(0)[None] + [[0, 0, 0], [0.3, 0, 0]]]), size)
        radius = float(spot[1, 0] - spot[0, 0])
        if 0 <= spot[0, 1] < 1.2 * size:
            centre = (int(spot[0, 0]), int(spot[0, 1]))
            cv2.ellipse(ground, centre, (int(radius) + 1, int(0.28 * radius) + 1), 0, 0, 360, 1.0, -1)
    return out * (1 - 0.6 * cv2.GaussianBlur(ground, (0, 0), 0.02 * size))


def render_parts(people: list[Posed], view: View, size: int) -> np.ndarray:
    """Exact part ids of the people without clothes, uint8 (size, size), as DensePose defines them."""
    seen = Visibility.empty(size)
    body: Body = people[0].dressed.body
    faces, first = body.faces["body"], 0
    for person in people:
        # DensePose counts hair as head, see `Body`.
        grown = person.body_points + body.map_growth[:, None] * person.body_normals
        seen.draw(view.project(grown, size), faces, first_face=first)
        first += len(faces)
    out = np.zeros((size, size), np.uint8)
    for i in range(len(people)):
        pixels = seen.covered(i * len(faces), len(faces))
        label(
            seen,
            pixels,
            faces,
            body.region_scores,
            body.region_sides,
            PART_TABLE,
            out,
            first_face=i * len(faces),
        )
    return out


def render_points(people: list[Posed], view: View, size: int) -> np.ndarray:
    """`render_places` in bytes, as stored for losses on correspondences.

    Returns:
        (size, size, 4) uint8: x, y, z in centimetres from a corner of the space around the rest pose, and the
        person's number; all 0 where there is nobody.
    """
    places = render_places(people, view, size)
    somebody = places[..., 3:] > 0
    places[..., :3] = 100 * (places[..., :3] - _REST_CORNER)
    return (places * somebody).round().clip(0, 255).astype(np.uint8)


def render_places(people: list[Posed], view: View, size: int) -> np.ndarray:
    """Render the place on the dressed body that each pixel shows.

    Returns:
        (size, size, 4) float32: x, y, z in metres of the rest pose, which is the same for all people, and the
        person's number from 1 on; all 0 where there is nobody.
    """
    seen, starts = _draw_dressed(people, view, size)
    out = np.zeros((size * size, 4), np.float32)
    for number, (first, person) in enumerate(zip(starts, people, strict=False), 1):
        dressed = person.dressed
        pixels = seen.covered(int(first), len(dressed.faces))
        rest = np.ascontiguousarray(dressed.surface[:, :3])
        out[pixels, :3] = interpolate(seen, pixels, dressed.faces, rest, first_face=int(first))
        out[pixels, 3] = number
    return out.reshape(size, size, 4)


def detector_like(ids: np.ndarray, rng: np.random.Generator, *, blob: float, unsteady: float) -> np.ndarray:
    """Make exact ids look detected; `blob` (blur), `unsteady` (displacement) in pixels of a size of 256."""
    scale = len(ids) / 256
    return soften(ids, blob * scale, wobble(rng, len(ids), unsteady * scale))
