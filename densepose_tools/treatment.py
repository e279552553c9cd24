"""From people found to part maps: whom to draw, gaps filled, built like another, steadied, mirrored.

Letters in shape comments: ``H W`` pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from densepose_tools.body import measure_build, sample
from densepose_tools.people import Person, flip_labels, part_map
from densepose_tools.retarget import retargeted
from densepose_tools.steady import steadied
from densepose_tools.tracking import choose_tracks, track_people
from magicanimate.errors import InputError


@dataclass(frozen=True, eq=False)
class Treatment:
    """What happens between finding and drawing.

    Attributes:
        people: "largest", the person who covers most of the clip; "all"; or places in that order, from 1.
        fill: gaps of up to so many frames in which nobody is seen show the nearest frame's people.
        steady: take out parts that change for a moment and change back.
        flip: mirror the picture, left and right parts changing places.
        like: part map of a photo, uint8 (H, W): the dancer gets the build and the place of the person in it,
            and the result the photo's aspect at the clip's height.
    """

    people: str | tuple[int, ...] = "largest"
    fill: int = 12
    steady: bool = False
    flip: bool = False
    like: np.ndarray | None = None

    def __post_init__(self) -> None:
        if isinstance(self.people, str):
            if self.people not in ("largest", "all"):
                raise InputError(f"People {self.people!r} is unknown; write largest, all, or numbers from 1.")
        elif not self.people or min(self.people) < 1:
            raise InputError("People are counted from 1, the largest; write for instance 1 or 1,3.")
        if self.fill < 0:
            raise InputError(f"Gaps of {self.fill} frames cannot be filled; give 0 or more.")


@dataclass(frozen=True)
class Sequel:
    """The part maps of a clip.

    Attributes:
        maps: labels uint8 (H, W), one a frame, made when they are asked for.
        empty: numbers of the frames that show nobody.
        filled: numbers of the frames that show a neighbour's people.
        width, height: of the maps.
    """

    maps: Iterator[np.ndarray]
    empty: list[int]
    filled: list[int]
    width: int
    height: int


def treat(found: Sequence[list[Person]], treatment: Treatment, *, width: int, height: int) -> Sequel:
    """Make part maps of what was found.

    Args:
        found: people of every frame, on disk for all that this function minds: it reads them several times.
        treatment: what to do.
        width, height: of the picture.

    Raises:
        InputError: somebody is asked for who is not there, or the build of several people at once.
    """
    numbers = track_people(found)
    wanted = choose_tracks(found, numbers, treatment.people)
    seen = [any(number in wanted for number in owners) for owners in numbers]
    sources = _sources(seen, treatment.fill)

    def drawn(frame: int) -> np.ndarray:
        source = sources[frame]
        people = [] if source is None else found[source]
        owners = [] if source is None else numbers[source]
        chosen = [person for person, owner in zip(people, owners, strict=True) if owner in wanted]
        return part_map(chosen, width=width, height=height)

    maps = (drawn(frame) for frame in range(len(sources)))
    if treatment.like is not None:
        if len(wanted) > 1:
            raise InputError("Only one dancer can be given a photo's build; choose one person.")
        photo = _at_height(treatment.like, height)
        reference = measure_build([photo])
        dancer = measure_build(drawn(frame) for frame in sample(len(sources)))
        width = photo.shape[1]
        maps = retargeted(maps, dancer, reference, width=width, height=height)
    empty = [frame for frame, source in enumerate(sources) if source is None]
    filled = [frame for frame, source in enumerate(sources) if source not in (None, frame)]
    return Sequel(finished(maps, treatment), empty, filled, width, height)


def finished(maps: Iterator[np.ndarray], treatment: Treatment) -> Iterator[np.ndarray]:
    """What can be done to part maps themselves: steady, then mirror."""
    if treatment.steady:
        maps = steadied(maps)
    return (flip_labels(labels) for labels in maps) if treatment.flip else maps


def _at_height(labels: np.ndarray, height: int) -> np.ndarray:
    """A part map scaled to ``height`` pixels, uint8 (height, w)."""
    before, across = labels.shape
    width = max(1, round(across * height / before))
    return labels[np.arange(height) * before // height][:, np.arange(width) * across // width]


def _sources(seen: list[bool], fill: int) -> list[int | None]:
    """For each frame the frame whose people it shows, ``None`` for nobody."""
    sources: list[int | None] = [frame if here else None for frame, here in enumerate(seen)]
    start = 0
    for here, run in groupby(seen):
        length = len(list(run))
        before, after = start - 1, start + length
        if not here and length <= fill and length < len(seen):
            for frame in range(start, after):
                nearer_before = after >= len(seen) or (before >= 0 and frame - before <= after - frame)
                sources[frame] = before if nearer_before else after
        start = after
    return sources
