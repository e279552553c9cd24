"""Steadier boxes: a detector's box trembles around a person, and a map drawn into it trembles along.

Letters in shape comments: ``N`` boxes of one track, ``h w`` pixels of a box.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from densepose_tools.people import Person

_REACH = 5
"""Frames before and after that have a say in where a box is."""

_GRID = 96
"""Points a side at which two maps are compared."""

_CLEARLY = 0.9
"""A map trembles with its box if that explains at least a tenth of its changes."""


class SteadyBoxes(Sequence[list[Person]]):
    """The people of a clip in boxes that move smoothly, the maps drawn into those.

    Whether that is right differs from detector to detector: a map may tremble with its box, or lie still on
    the person while only the box around it trembles. So a track's boxes are changed only where the map is
    stiller as seen from them than as seen from the smooth path.

    Args:
        found: people of every frame.
        numbers: whose they are, of `densepose_tools.tracking.track_people`.
    """

    def __init__(self, found: Sequence[list[Person]], numbers: list[list[int]]):
        self._found, self._numbers = found, numbers
        frames: dict[int, list[int]] = defaultdict(list)
        boxes: dict[int, list[tuple[float, ...]]] = defaultdict(list)
        for frame, (people, owners) in enumerate(zip(found, numbers, strict=True)):
            for person, owner in zip(people, owners, strict=True):
                frames[owner].append(frame)
                boxes[owner].append(person.box)
        smooth = {
            (track, frame): box
            for track, seen in frames.items()
            for frame, box in zip(seen, smoothed(np.array(seen), np.array(boxes[track])), strict=True)
        }
        wanted = self._trembling(smooth)
        # (track, frame) -> where the box is moved to
        self._boxes = {key: box for key, box in smooth.items() if key[0] in wanted}

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, frame: int) -> list[Person]:
        people, owners = self._found[frame], self._numbers[frame]
        return [
            moved(person, self._boxes[owner, frame]) if (owner, frame) in self._boxes else person
            for person, owner in zip(people, owners, strict=True)
        ]

    def __iter__(self) -> Iterator[list[Person]]:
        return (self[frame] for frame in range(len(self)))

    def _trembling(self, smooth: dict[tuple[int, int], np.ndarray]) -> frozenset[int]:
        """Tracks whose maps change less as seen from their own boxes than as seen from the smooth path."""
        before: dict[int, tuple[int, np.ndarray]] = {}
        changes: dict[int, np.ndarray] = defaultdict(lambda: np.zeros(2))
        for frame, (people, owners) in enumerate(zip(self._found, self._numbers, strict=True)):
            for person, owner in zip(people, owners, strict=True):
                views = np.stack([_seen_from(person, box) for box in (person.box, smooth[owner, frame])])
                last, earlier = before.get(owner, (-1, views))
                if last == frame - 1:
                    changes[owner] += (views != earlier).mean(axis=(1, 2))
                before[owner] = frame, views
        return frozenset(track for track, (own, path) in changes.items() if own < _CLEARLY * path)


def smoothed(frames: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Boxes on a smooth path: at each frame a parabola through those around it, near ones counting more.

    (Savitzky and Golay, "Smoothing and differentiation of data", 1964, with tricube weights, for frames
    that may be missing.)

    Args:
        frames: increasing numbers, int (N,).
        boxes: x, y, width, height, (N, 4).

    Returns:
        float64 (N, 4); sides are at least one pixel.
    """
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1).astype(np.float64)
    result = corners.copy()
    for k, frame in enumerate(frames):
        near = np.flatnonzero(np.abs(frames - frame) <= _REACH)
        if len(near) < 3:
            continue
        distance = (frames[near] - frame) / (_REACH + 1)
        weights = np.sqrt((1 - np.abs(distance) ** 3) ** 3)
        powers = distance[:, None] ** np.arange(3 if len(near) > 3 else 2)
        fitted = np.linalg.lstsq(powers * weights[:, None], corners[near] * weights[:, None], rcond=None)[0]
        result[k] = fitted[0]  # the parabola's value at distance 0
    return np.concatenate([result[:, :2], np.maximum(result[:, 2:] - result[:, :2], 1)], axis=1)


def moved(person: Person, box: np.ndarray) -> Person:
    """A person in another box (4,), the map stretched to it."""
    to = replace(person, box=tuple(float(number) for number in box))
    _, _, width, height = to.corner_and_size()
    h, w = person.labels.shape
    rows = np.arange(max(height, 1)) * h // max(height, 1)
    columns = np.arange(max(width, 1)) * w // max(width, 1)
    coordinates = person.coordinates
    return replace(
        to,
        labels=person.labels[rows][:, columns],
        coordinates=None if coordinates is None else coordinates[:, rows][:, :, columns],
    )


def _seen_from(person: Person, box: Sequence[float]) -> np.ndarray:
    """Labels on a grid over a box x, y, width, height, uint8 (``_GRID``, ``_GRID``); 0 where nobody is."""
    x, y = (low + side * (np.arange(_GRID) + 0.5) / _GRID for low, side in zip(box[:2], box[2:], strict=True))
    left, top = person.box[:2]
    h, w = person.labels.shape
    rows, columns = np.floor(y - top).astype(int), np.floor(x - left).astype(int)
    inside = ((rows >= 0) & (rows < h))[:, None] & ((columns >= 0) & (columns < w))
    return np.where(inside, person.labels[np.clip(rows, 0, h - 1)][:, np.clip(columns, 0, w - 1)], 0)
