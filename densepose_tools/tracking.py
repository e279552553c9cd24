"""Tracks people from frame to frame, so that one can be chosen for a whole clip, also by pointing at them.

Letters in shape comments: ``P`` people of a frame, ``Q`` tracks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from densepose_tools.people import Person
from magicanimate.errors import InputError

_PATIENCE = 15
"""Number of frames after which a track of a person who is not found ends."""
_MIN_OVERLAP = 0.1
"""Smallest intersection over union of a box with a track's expected box to be the same person."""
_NEW_VELOCITY = 0.5
"""Weight of the latest step in the velocity of a track."""


@dataclass(frozen=True)
class PersonAt:
    """The person at a point of a clip.

    Attributes:
        x, y: a pixel of the upright image, from its upper left corner.
        second: time from the beginning of the clip, or of the part of it that is used.
    """

    x: float
    y: float
    second: float = 0.0

    def __post_init__(self) -> None:
        if not all(0 <= value < float("inf") for value in (self.x, self.y, self.second)):
            raise InputError(f"{self} lies outside of the clip; give a pixel and a second from 0.")

    def __str__(self) -> str:
        return f"The point {self.x:g},{self.y:g} at {self.second:g} s"


def people_named(text: str) -> str | tuple[int, ...] | PersonAt:
    """Parse whom to draw: ``largest``, ``all``, ``1,3`` -> (1, 3), ``at=120,80@2.5`` -> `PersonAt`.

    Raises:
        InputError: anything else.
    """
    # Words first; everything else is numbers or a point.
    if text in ("largest", "all"):
        return text
    try:
        if text.startswith("at="):
            point, _, second = text.removeprefix("at=").partition("@")
            x, y = point.split(",")
            return PersonAt(float(x), float(y), float(second or 0))
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(
            f"{text[:40]!r} is not largest, all, numbers such as 1,3, or a point such as at=120,80@2.5"
        ) from error


@dataclass
class _Track:
    """A track: its last box, the velocity in pixels per frame, and the frame in which it was last seen."""

    number: int
    box: np.ndarray
    velocity: np.ndarray
    seen: int

    def expected(self, frame: int) -> np.ndarray:
        return self.box + self.velocity * (frame - self.seen)


def track_people(frames: Iterable[list[Person]]) -> list[list[int]]:
    """Track the people of a clip; returns for each frame the track number of each person.

    A box belongs to the track whose expected box, at constant velocity, it overlaps most. So people whose
    boxes cross keep their numbers as long as they keep moving.
    """
    tracks: list[_Track] = []
    numbers: list[list[int]] = []
    for frame, people in enumerate(frames):
        boxes = np.array([person.box for person in people], dtype=np.float64).reshape(-1, 4)
        # A person may be hidden for a moment and come back.
        alive = [track for track in tracks if frame - track.seen <= _PATIENCE]
        owner: list[int] = [-1] * len(people)
        for p, track in _pairs(boxes, alive, frame):
            step = (boxes[p] - track.box) / (frame - track.seen)
            track.velocity = _NEW_VELOCITY * step + (1 - _NEW_VELOCITY) * track.velocity
            # Sizes are not extrapolated: a person who comes nearer does not do so for ever.
            track.velocity[2:] = 0
            track.box, track.seen = boxes[p], frame
            owner[p] = track.number
        for p, box in enumerate(boxes):
            if owner[p] < 0:
                owner[p] = len(tracks)
                tracks.append(_Track(len(tracks), box, np.zeros(4), frame))
        numbers.append(owner)
    return numbers


def choose_tracks(
    frames: Sequence[list[Person]],
    numbers: list[list[int]],
    who: str | tuple[int, ...] | PersonAt,
    *,
    rate: Fraction,
) -> frozenset[int]:
    """The track numbers of the chosen people.

    Args:
        frames: people of every frame.
        numbers: their track numbers, from `track_people`.
        who: "all"; "largest", the person who covers most pixels over the whole clip, and in frames without
            that track the next largest one, usually the same person coming back; ranks by size, from 1; or
            the person at a point.
        rate: frames per second.

    Raises:
        InputError: there are fewer people, or nobody is at the point.
    """
    if isinstance(who, PersonAt):
        return frozenset([_pointed_at(frames, numbers, who, rate)])
    # Pixels over the whole clip: the dancer in front, not who happens to be large once.
    covered: dict[int, int] = defaultdict(int)
    for people, owners in zip(frames, numbers, strict=True):
        for person, owner in zip(people, owners, strict=True):
            covered[owner] += person.area()
    # Largest first; sorted() is stable, so equals keep their order of appearance.
    order = sorted(covered, key=lambda track: -covered[track])
    if who == "all":
        return frozenset(order)
    if who == "largest":
        return _one_at_a_time(order, numbers)
    if max(who) > len(order):
        raise InputError(
            f"Person {max(who)} is asked for and {len(order)} are seen; choose a smaller number."
        )
    return frozenset(order[place - 1] for place in who)


def _pointed_at(
    frames: Sequence[list[Person]], numbers: list[list[int]], point: PersonAt, rate: Fraction
) -> int:
    """The track whose body, or else whose box, contains the point; of several the one drawn on top."""
    frame = round(point.second * rate)
    if frame >= len(frames):
        raise InputError(
            f"{point} lies behind the end of the clip, which has {float(len(frames) / rate):.2f} s; point "
            "at an earlier moment."
        )
    people = frames[frame]
    # The box only if no body is there, as boxes of dancers overlap a lot.
    for holds in (_body_holds, _box_holds):
        there = [k for k, person in enumerate(people) if holds(person, point.x, point.y)]
        if there:
            # Later people are drawn over earlier ones.
            return numbers[frame][there[-1]]
    middles = (tuple(round(corner + side / 2) for corner, side in _halves(person)) for person in people)
    where = (
        "; people are at " + ", ".join(f"{x},{y}" for x, y in middles) if people else ", nor anywhere else"
    )
    raise InputError(f"{point} shows nobody{where}. Point at somebody.")


def _body_holds(person: Person, x: float, y: float) -> bool:
    left, top, width, height = person.corner_and_size()
    column, row = int(x) - left, int(y) - top
    return 0 <= column < width and 0 <= row < height and person.labels[row, column] > 0


def _box_holds(person: Person, x: float, y: float) -> bool:
    return all(low <= value < low + side for value, (low, side) in zip((x, y), _halves(person), strict=True))


def _halves(person: Person) -> tuple[tuple[float, float], tuple[float, float]]:
    """Start and length of a box, horizontally and vertically."""
    x, y, width, height = person.box
    return (x, width), (y, height)


def _one_at_a_time(order: list[int], numbers: list[list[int]]) -> frozenset[int]:
    """Choose tracks in the given order, except those that share a frame with one chosen before."""
    frames: dict[int, set[int]] = defaultdict(set)
    for frame, owners in enumerate(numbers):
        for owner in owners:
            frames[owner].add(frame)
    chosen: list[int] = []
    taken: set[int] = set()
    for track in order:
        if not frames[track] & taken:
            chosen.append(track)
            taken |= frames[track]
    return frozenset(chosen)


def _pairs(boxes: np.ndarray, tracks: list[_Track], frame: int) -> list[tuple[int, _Track]]:
    """Match boxes with tracks, greedily by overlap; returns pairs of box number and track."""
    if not len(boxes) or not tracks:
        return []
    overlap = _overlaps(boxes, np.array([track.expected(frame) for track in tracks]))
    pairs = []
    while overlap.max() > _MIN_OVERLAP:
        p, q = np.unravel_index(overlap.argmax(), overlap.shape)
        pairs.append((int(p), tracks[q]))
        # Each box and each track is used once.
        overlap[p, :] = overlap[:, q] = 0
    return pairs


def _overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (x, y, width, height), (P, 4) and (Q, 4) -> (P, Q)."""
    start = np.maximum(first[:, None, :2], second[None, :, :2])
    end = np.minimum((first[:, :2] + first[:, 2:])[:, None], (second[:, :2] + second[:, 2:])[None])
    both = np.clip(end - start, 0, None).prod(axis=2)
    either = first[:, 2:].prod(axis=1)[:, None] + second[:, 2:].prod(axis=1)[None] - both
    return both / np.maximum(either, 1e-9)


def picture_at(path: Path, second: float) -> np.ndarray:
    """The frame of a clip at a time in seconds, RGB uint8 (H, W, 3).

    Raises:
        InputError: the clip cannot be read, or is shorter.
    """
    from magicanimate.media.motion import open_motion  # heavy, and the command line imports this file

    frames = open_motion(path, start=second).frames()
    with closing(frames):
        for frame in frames:
            return frame
    raise InputError(f"The clip {path} shows nothing at {second:g} s; choose an earlier moment.")


def with_mark(picture: np.ndarray, x: float, y: float) -> np.ndarray:
    """Mark a pixel in a copy of an image, RGB uint8 (H, W, 3), by a dot and a ring."""
    from PIL import Image, ImageDraw

    marked = Image.fromarray(picture)
    draw = ImageDraw.Draw(marked)
    unit = max(2.0, min(marked.size) / 90)
    for radius, width, colour in ((4.0, 1.0, "black"), (3.5, 0.7, "white")):
        reach = radius * unit
        draw.ellipse((x - reach, y - reach, x + reach, y + reach), outline=colour, width=round(width * unit))
    draw.ellipse((x - unit, y - unit, x + unit, y + unit), fill="white", outline="black")
    return np.array(marked)
