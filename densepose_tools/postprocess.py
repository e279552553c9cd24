"""Turns the people found into part maps: chooses people, fills gaps, retargets, deflickers, mirrors.

Letters in shape comments: ``H W`` pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import groupby

import numpy as np

from densepose_tools.body import measure_build, sample_step
from densepose_tools.deflicker import SmoothedBoxes, deflickered
from densepose_tools.people import Person, flip_labels, part_map
from densepose_tools.retarget import retargeted, stretches
from densepose_tools.tracking import PersonAt, choose_tracks, track_people
from magicanimate.errors import InputError


@dataclass(frozen=True, eq=False)
class Postprocessing:
    """How part maps are made from the people found.

    Attributes:
        people: whom to draw: "largest", the person who covers most pixels over the clip; "all"; ranks in that
            order, from 1; or the person at a point.
        fill: gaps of up to this many frames in which nobody is found show the people of the nearest frame.
        deflicker: smooth boxes that tremble, and undo labels that change for a moment.
        flip: mirror the image, with left and right parts exchanged.
        like: part map of a photo, uint8 (H, W), for retargeting: the dancer gets the build and position of
            the person in it, and the result the photo's aspect ratio at the clip's height.
    """

    people: str | tuple[int, ...] | PersonAt = "largest"
    fill: int = 12
    deflicker: bool = False
    flip: bool = False
    like: np.ndarray | None = None

    def __post_init__(self) -> None:
        if isinstance(self.people, str):
            if self.people not in ("largest", "all"):
                raise InputError(f"People {self.people!r} is unknown; write largest, all, or numbers from 1.")
        elif isinstance(self.people, tuple) and (not self.people or min(self.people) < 1):
            raise InputError("People are counted from 1, the largest; write for instance 1 or 1,3.")
        if self.fill < 0:
            raise InputError(f"Gaps of {self.fill} frames cannot be filled; give 0 or more.")


@dataclass(frozen=True)
class PartMaps:
    """The part maps of a clip.

    Attributes:
        maps: part ids, uint8 (H, W), of each frame, computed lazily.
        plain: the same without deflickering and retargeting; ``None`` if neither is done.
        empty: numbers of the frames that show nobody.
        filled: numbers of the frames that show the people of a neighbouring frame.
        width, height: size of ``maps``.
        stretch: with retargeting, name of a limb -> factors along and across it.
    """

    maps: Iterator[np.ndarray]
    plain: Iterator[np.ndarray] | None
    empty: list[int]
    filled: list[int]
    width: int
    height: int
    stretch: dict[str, tuple[float, float]] | None


def postprocess(
    found: Sequence[list[Person]], postprocessing: Postprocessing, *, width: int, height: int, rate: Fraction
) -> PartMaps:
    """Make part maps from the people found.

    Args:
        found: people of every frame; they are read several times, and may be on disk.
        postprocessing: what to do.
        width, height: size of the image.
        rate: frames per second.

    Raises:
        InputError: somebody is asked for who is not there, or the build of several people at once.
    """
    # People are chosen for the whole clip, so they have to be followed through it.
    numbers = track_people(found)
    # For the whole clip at once: per frame, "largest" would jump between people.
    wanted = choose_tracks(found, numbers, postprocessing.people, rate=rate)
    # "largest" may consist of several tracks, of which only one is visible at a time.
    if postprocessing.like is not None and len(wanted) > 1 and postprocessing.people != "largest":
        raise InputError("Only one dancer can be given a photo's build; choose one person.")
    seen = [any(number in wanted for number in owners) for owners in numbers]
    sources = _sources(seen, postprocessing.fill)

    def drawn(frame: int, people: Sequence[list[Person]]) -> np.ndarray:
        source = sources[frame]
        chosen = []
        if source is not None:
            pairs = zip(people[source], numbers[source], strict=True)
            chosen = [person for person, owner in pairs if owner in wanted]
        return part_map(chosen, width=width, height=height)

    count = len(sources)
    # Boxes first: afterwards there are only maps.
    people = SmoothedBoxes(found, numbers) if postprocessing.deflicker else found
    part_maps = postprocess_maps(
        lambda step: (drawn(frame, people) for frame in range(0, count, step)),
        count,
        postprocessing,
        width=width,
        height=height,
    )
    empty = [frame for frame, source in enumerate(sources) if source is None]
    filled = [frame for frame, source in enumerate(sources) if source not in (None, frame)]
    plain = None
    if part_maps.plain is not None:
        plain = _flipped((drawn(frame, found) for frame in range(count)), postprocessing)
    return replace(part_maps, plain=plain, empty=empty, filled=filled)


def postprocess_maps(
    read: Callable[[int], Iterator[np.ndarray]],
    count: int,
    postprocessing: Postprocessing,
    *,
    width: int,
    height: int,
) -> PartMaps:
    """Retarget, deflicker and mirror finished part maps: the steps that do not need single people.

    Args:
        read: returns every n-th map from the first on, uint8 (H, W).
        count: number of frames, may be approximate.
        postprocessing: what to do; ``people`` and ``fill`` have no effect.
        width, height: size of the maps.

    Raises:
        InputError: no torso is seen, by which the build could be told.
    """
    maps, stretch, across = read(1), None, width
    if postprocessing.like is not None:
        # Both bodies are measured in the pixels of the result.
        photo = _at_height(postprocessing.like, height)
        reference, dancer = measure_build([photo]), measure_build(read(sample_step(count)))
        stretch, across = stretches(dancer, reference), photo.shape[1]
        maps = retargeted(maps, dancer, reference, width=across, height=height)
    if postprocessing.deflicker:
        maps = deflickered(maps)
    changed = postprocessing.deflicker or postprocessing.like is not None
    plain = _flipped(read(1), postprocessing) if changed else None
    return PartMaps(_flipped(maps, postprocessing), plain, [], [], across, height, stretch)


def _flipped(maps: Iterator[np.ndarray], postprocessing: Postprocessing) -> Iterator[np.ndarray]:
    return (flip_labels(labels) for labels in maps) if postprocessing.flip else maps


def _at_height(labels: np.ndarray, height: int) -> np.ndarray:
    """Resize a part map to a height, uint8 (height, w), by nearest neighbour."""
    before, across = labels.shape
    width = max(1, round(across * height / before))
    return labels[np.arange(height) * before // height][:, np.arange(width) * across // width]


def _sources(seen: list[bool], fill: int) -> list[int | None]:
    """For each frame the number of the frame whose people it shows, ``None`` for nobody."""
    sources: list[int | None] = [frame if here else None for frame, here in enumerate(seen)]
    start = 0
    for here, run in groupby(seen):
        length = len(list(run))
        before, after = start - 1, start + length
        # A clip without anybody has no neighbour to fill from.
        if not here and length <= fill and length < len(seen):
            for frame in range(start, after):
                # From the nearer side; at the ends of the clip there is only one.
                nearer_before = after >= len(seen) or (before >= 0 and frame - before <= after - frame)
                sources[frame] = before if nearer_before else after
        start = after
    return sources
