"""Keypoints of people, and drawings of them in the style of OpenPose and DWPose: the other control signal.

Points are in DWPose's order (Yang et al., "Effective whole-body pose estimation with two-stages
distillation", 2023; github.com/IDEA-Research/DWPose): 18 of the body in OpenPose's COCO order (Cao et al.,
"OpenPose", TPAMI 2019), 6 of the feet, 68 of the face, 21 of the left hand, 21 of the right hand. Only the 18
are required. Limbs, colours and widths are those of DWPose's drawings for ControlNet.

Letters in shape comments: ``T`` frames, ``P`` people, ``N`` points (18 or 134), ``H W`` pixels.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from densepose_tools.arrays import ArrayFile
from magicanimate.config import MediaLimits
from magicanimate.errors import InputError
from magicanimate.files import Unreadable, whole_file

BODY_POINTS = (
    "nose",
    "neck",
    "right shoulder",
    "right elbow",
    "right wrist",
    "left shoulder",
    "left elbow",
    "left wrist",
    "right hip",
    "right knee",
    "right ankle",
    "left hip",
    "left knee",
    "left ankle",
    "right eye",
    "left eye",
    "right ear",
    "left ear",
)
NUM_BODY, NUM_ALL = 18, 134
FEET, FACE = slice(18, 24), slice(24, 92)
LEFT_HAND, RIGHT_HAND = slice(92, 113), slice(113, 134)

BODY_LIMBS = (
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10)),
    *((1, 11), (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17)),
)
"""Pairs of body points that are connected, in drawing order."""

HAND_BONES = tuple(
    (0 if k == 0 else 4 * finger + k, 4 * finger + k + 1) for finger in range(5) for k in range(4)
)
"""Pairs of hand points. Point 0 is the wrist; then there are four points per finger, from the thumb on."""

BODY_COLOURS = (
    *((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0)),
    *((0, 255, 0), (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255)),
    *((0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85)),
)
"""RGB of the limbs, and of the points, by their numbers."""

_HAND_COLOURS = tuple(
    tuple(round(255 * channel) for channel in colorsys.hsv_to_rgb(i / len(HAND_BONES), 1, 1))
    for i in range(len(HAND_BONES))
)
_HAND_POINT, _FACE_POINT = (0, 0, 255), (255, 255, 255)

_LIMB_SHADE = 0.6
"""Factor of a limb's brightness: limbs are darker than the points at their ends."""

_LIMB_RADIUS, _BODY_RADIUS, _HAND_RADIUS, _FACE_RADIUS, _HAND_WIDTH = 4, 4, 4, 3, 2
"""Sizes in pixels, in an image whose shorter side is `_NOMINAL`."""

_NOMINAL = 512
"""Shorter side for which the sizes are meant; smaller drawings are drawn at least this large and shrunk."""

_LARGEST_POINTS = 2**30
"""Largest size of a file's points in bytes: over 600,000 people."""

_SEEN = 0.3
"""Smallest confidence of a visible point (DWPose)."""


def draw_keypoints(points: np.ndarray, *, width: int, height: int) -> np.ndarray:
    """Draw people on black.

    Args:
        points: (P, N, 3) of x and y in pixels and confidence 0..1; points below 0.3 and their limbs are left
            out.
        width, height: size of the drawing.

    Returns:
        uint8 (height, width, 3).

    Raises:
        ValueError: another shape.
    """
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 3 or points.shape[1] not in (NUM_BODY, NUM_ALL) or points.shape[2] != 3:
        raise ValueError(f"keypoints must be (people, 18 or 134, 3), not {points.shape}")
    # Rounded up: drawn at a whole multiple, small drawings are averaged down smoothly.
    factor = -(-_NOMINAL // min(width, height))
    scale = factor * min(width, height) / _NOMINAL
    image = Image.new("RGB", (width * factor, height * factor))
    points = points * (factor, factor, 1)
    draw = ImageDraw.Draw(image)
    for person in points:
        _draw_limbs(draw, person[:NUM_BODY], scale)
    for person in points:
        # All points over all limbs, as in DWPose's drawings.
        _draw_points(draw, person[:NUM_BODY], BODY_COLOURS, _BODY_RADIUS * scale)
    for person in points if points.shape[1] == NUM_ALL else ():
        for hand in (person[LEFT_HAND], person[RIGHT_HAND]):
            _draw_hand(draw, hand, scale)
        _draw_points(draw, person[FACE], [_FACE_POINT] * 68, _FACE_RADIUS * scale)
    return np.array(image.reduce(factor) if factor > 1 else image)


def _draw_limbs(draw: ImageDraw.ImageDraw, person: np.ndarray, scale: float) -> None:
    """Draw limbs as slim ellipses."""
    turn = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    # 17 limbs, 18 colours: the last colour is for a point only.
    for (a, b), colour in zip(BODY_LIMBS, BODY_COLOURS, strict=False):
        if min(person[a, 2], person[b, 2]) < _SEEN:
            continue
        middle, half = (person[a, :2] + person[b, :2]) / 2, (person[b, :2] - person[a, :2]) / 2
        length = np.hypot(*half)
        if length == 0:
            continue
        along, across = half / length, np.array([-half[1], half[0]]) / length
        # In the limb's own axes: half its length along, a fixed radius across.
        outline = middle + circle[:, :1] * length * along + circle[:, 1:] * _LIMB_RADIUS * scale * across
        shade = tuple(int(_LIMB_SHADE * channel) for channel in colour)
        draw.polygon([tuple(corner) for corner in outline], fill=shade)


def _draw_hand(draw: ImageDraw.ImageDraw, hand: np.ndarray, scale: float) -> None:
    for (a, b), colour in zip(HAND_BONES, _HAND_COLOURS, strict=True):
        if min(hand[a, 2], hand[b, 2]) >= _SEEN:
            ends = [tuple(hand[a, :2]), tuple(hand[b, :2])]
            draw.line(ends, fill=colour, width=max(1, round(_HAND_WIDTH * scale)))
    _draw_points(draw, hand, [_HAND_POINT] * 21, _HAND_RADIUS * scale)


def _draw_points(draw: ImageDraw.ImageDraw, points: np.ndarray, colours, radius: float) -> None:
    for (x, y, confidence), colour in zip(points, colours, strict=True):
        if confidence >= _SEEN:
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)


def _flip_permutation() -> np.ndarray:
    """For each point, the number of its mirror image."""
    order = np.arange(NUM_ALL)
    for a, b in ((2, 5), (3, 6), (4, 7), (8, 11), (9, 12), (10, 13), (14, 15), (16, 17)):
        order[[a, b]] = b, a
    order[FEET] = np.roll(order[FEET], 3)  # big toe, small toe and heel of the left, then of the right
    order[FACE] = 24 + _flipped_face()
    order[LEFT_HAND], order[RIGHT_HAND] = np.arange(NUM_ALL)[RIGHT_HAND], np.arange(NUM_ALL)[LEFT_HAND]
    return order


def _flipped_face() -> np.ndarray:
    """The same for the 68 face landmarks of iBUG 300-W: jaw, brows, nose, eyes and mouth."""
    order = np.arange(68)
    # The jaw runs from one ear to the other, so its mirror image is its reverse.
    order[:17] = order[:17][::-1]
    order[17:27] = order[17:27][::-1]
    order[31:36] = order[31:36][::-1]
    eye = np.arange(36, 48)
    order[eye] = [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40]
    order[48:55] = order[48:55][::-1]
    order[55:60] = order[55:60][::-1]
    order[60:65] = order[60:65][::-1]
    order[65:68] = order[65:68][::-1]
    return order


FLIP_PERMUTATION = _flip_permutation()
"""Permutation of the points that exchanges left and right, see `flip_keypoints`."""
FLIP_PERMUTATION.setflags(write=False)


def flip_keypoints(points: np.ndarray, *, width: int) -> np.ndarray:
    """The points (..., N, 3) of the mirrored image, which is ``width`` pixels wide."""
    flipped = np.array(points)[..., FLIP_PERMUTATION[: points.shape[-2]], :]
    flipped[..., 0] = width - flipped[..., 0]
    return flipped


@dataclass(frozen=True)
class Keypoints:
    """Keypoints of a clip or image.

    Attributes:
        points: float32 (T, P, N, 3): x and y in pixels, confidence 0..1. Frames with fewer than P people are
            filled up with people of confidence 0.
        width, height: size of the image that the points belong to.
    """

    points: np.ndarray
    width: int
    height: int

    def person(self) -> tuple[float, float, float, float] | None:
        """The box around all visible points inside the image, as shares of it; ``None`` if there are none."""
        # Shares, so that the box fits the video at any resolution.
        share = self.points[..., :2] / (self.width, self.height)
        seen = (self.points[..., 2] >= _SEEN) & (share >= 0).all(-1) & (share <= 1).all(-1)
        if not seen.any():
            return None
        (left, top), (right, bottom) = share[seen].min(axis=0), share[seen].max(axis=0)
        return float(left), float(top), float(right), float(bottom)


def write_keypoints(path: Path, keypoints: Keypoints) -> None:
    """Write keypoints to an npz file, which appears when it is complete."""
    with whole_file(path) as partial, partial.open("wb") as file:
        np.savez_compressed(
            file,
            points=keypoints.points.astype(np.float32),
            size=np.array([keypoints.width, keypoints.height]),
        )


def read_keypoints(path: Path) -> Keypoints:
    """Read a file of `write_keypoints`.

    Raises:
        InputError: the file is missing, damaged or holds something else.
    """
    try:
        with ArrayFile(path) as arrays:
            width, height = arrays.read("size", kind="iu", shape=(2,)).tolist()
            points = arrays.read("points", kind="f", shape=(None,) * 4, most=_LARGEST_POINTS)
    except Unreadable as error:
        raise InputError(
            f"The keypoints {path} cannot be read ({error.reason}); write them again."
        ) from error
    # Any other number would have points of unknown meaning.
    if points.shape[2] not in (NUM_BODY, NUM_ALL) or points.shape[3] != 3 or 0 in points.shape:
        raise InputError(
            f"The keypoints {path} have the shape {points.shape} instead of (frames, people, 18 or 134, 3)."
        )
    if width < 1 or height < 1 or width * height > MediaLimits().max_pixels:
        raise InputError(
            f"The keypoints {path} are of a picture of {width}x{height} pixels; write them again."
        )
    points = points.astype(np.float32)
    # NaN would pass every comparison that follows and end up in a drawing.
    if not np.isfinite(points).all():
        raise InputError(f"The keypoints {path} hold what is no number; write them again.")
    return Keypoints(points, width, height)
