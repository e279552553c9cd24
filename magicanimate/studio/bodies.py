"""Who is in the photo, and how the dancer of a clip differs: what a small network can tell in an instant.

The bundled part segmenter looks at the photo. It learned from drawn people, so what is said here is a guess.

Letters in shape comments: ``H W`` pixels.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from densepose_tools.body import LIMBS, alone, segments
from densepose_tools.segmenter import DEFAULT_FOLDER, PartSegmenter, is_segmenter

_HEAD = next(limb for limb in LIMBS if limb.name == "head")
_LEGS = {"thighs": (7, 8, 9, 10), "lower legs": (11, 12, 13, 14), "feet": (5, 6)}

_LONGER_SIDE = 160
"""Pixels at which bodies are looked at."""

_SMALLEST_PART = 0.003
"""Of the picture; fewer pixels of a part are noise."""

_SOLID, _SMALLEST_HEAD = 0.4, 16
"""A head fills at least this share of the box around it, and so many pixels."""

_LEAST_OF_LARGEST = 0.25
"""Of the largest head's pixels; smaller heads are mistakes."""

_NARROWEST, _BROADEST = 0.6, 2.6
"""Of a torso's width by a head's length."""

_GAP = 0.02
"""Of the width; heads this far apart are two."""

_SIZE_MISMATCH, _BREADTH_MISMATCH = 1.25, 1.4
"""From these ratios on it is said: on pairs that suit each other the guesses scatter by 1.1 and 1.25."""


class PhotoBodies:
    """Finds the parts of the people in photos; loads its network when it is first asked.

    Args:
        folder: of a part segmenter.
    """

    def __init__(self, folder: Path):
        self._folder, self._lock = folder, threading.Lock()

    @classmethod
    def at_hand(cls) -> PhotoBodies | None:
        """With the bundled segmenter, if it is there."""
        return cls(DEFAULT_FOLDER) if is_segmenter(DEFAULT_FOLDER) else None

    @cached_property
    def _segmenter(self) -> PartSegmenter:
        return PartSegmenter.load(self._folder)

    def labels(self, photo: np.ndarray) -> np.ndarray:
        """Parts in a photo, uint8 (H, W, 3), as a smaller map, uint8 (h, w).

        Raises:
            InputError: the segmenter's folder cannot be used.
        """
        scale = min(1.0, _LONGER_SIDE / max(photo.shape[:2]))
        size = (max(1, round(photo.shape[1] * scale)), max(1, round(photo.shape[0] * scale)))
        small = np.array(Image.fromarray(photo).resize(size, Image.Resampling.BICUBIC))
        with self._lock:
            return self._segmenter.labels(small[None])[0]


def thinned(labels: np.ndarray) -> np.ndarray:
    """A part map (H, W) at about the size at which bodies are looked at."""
    step = max(1, round(max(labels.shape) / _LONGER_SIDE))
    return labels[::step, ::step]


def count_people(labels: np.ndarray) -> int:
    """People whose heads stand side by side in a part map, uint8 (H, W)."""
    head = alone(labels, _HEAD) > 0
    runs = [head[:, first:last] for first, last in _column_runs(head)]
    areas = [int(run.sum()) for run in runs if _is_solid(run)]
    return sum(area >= _LEAST_OF_LARGEST * max(areas) for area in areas)


def is_plausible(labels: np.ndarray) -> bool:
    """Whether what was found in a photo, uint8 (H, W), has heads, torsos, and proportions of people."""
    people, found = count_people(labels), _measures(labels)
    if people == 0 or found is None:
        return False
    head, shoulders = found
    return _NARROWEST < shoulders / head < _BROADEST * people


@dataclass(frozen=True)
class Comparison:
    """How a dancer differs from the person in a photo, both in the picture of the result.

    Attributes:
        size: the photo's person by the dancer; 2 is twice as large.
        breadth: the same of the shoulders' width by the head's size.
        unseen: parts of the legs that the clip shows and the photo does not.
    """

    size: float | None
    breadth: float | None
    unseen: tuple[str, ...]

    def sentences(self) -> list[str]:
        """What is worth saying, if anything."""
        said, differs = [], []
        if self.size is not None and max(self.size, 1 / self.size) >= _SIZE_MISMATCH:
            larger = self.size > 1
            differs.append(f"larger ({self.size:.1f}:1)" if larger else f"smaller (1:{1 / self.size:.1f})")
        if self.breadth is not None and max(self.breadth, 1 / self.breadth) >= _BREADTH_MISMATCH:
            differs.append("broader" if self.breadth > 1 else "narrower")
        if differs:
            said.append(
                f"The person in the photo seems {' and '.join(differs)} than the dancer, whose build the "
                "result takes; the DensePose tab can retarget the clip to the photo."
            )
        if self.unseen:
            names = " and ".join(filter(None, (", ".join(self.unseen[:-1]), self.unseen[-1])))
            said.append(
                f"The clip shows {names}, which the photo does not seem to show: they will be made up."
            )
        return said


def compare(photo: np.ndarray, maps: Sequence[np.ndarray]) -> Comparison:
    """Compare one person with one dancer.

    Args:
        photo: part map of the photo, uint8 (H, W).
        maps: some of the clip's, uint8 (H, W) each.
    """
    size = breadth = None
    person, dancers = _measures(photo), [found for found in map(_measures, maps) if found is not None]
    if person is not None and dancers:
        # Relative to the picture, since the maps may be of another size.
        dancer = np.median(
            [found / labels.shape[0] for found, labels in zip(dancers, maps, strict=False)], axis=0
        )
        head, shoulders = person / photo.shape[0] / dancer
        size, breadth = float(np.sqrt(head * shoulders)), float(shoulders / head)
    unseen = tuple(
        name
        for name, labels in _LEGS.items()
        if np.median([_share(found, labels) for found in maps]) >= 2 * _SMALLEST_PART
        and _share(photo, labels) < _SMALLEST_PART / 2
    )
    return Comparison(size, breadth, unseen)


def _measures(labels: np.ndarray) -> np.ndarray | None:
    """Length of the head and width of the torso in pixels, if both are there."""
    found = segments(labels)
    if "head" not in found or "torso" not in found:
        return None
    return np.array([found["head"].length, found["torso"].width])


def _share(labels: np.ndarray, wanted: tuple[int, ...]) -> float:
    return float(np.isin(labels, wanted).mean())


def _is_solid(mask: np.ndarray) -> bool:
    """Whether a mask (H, W) is a body part rather than scattered pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if mask.sum() < _SMALLEST_HEAD:
        return False
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return bool(part.mean() >= _SOLID)


def _column_runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """First and behind-last column of each stretch of columns that have pixels, small gaps closed."""
    columns = np.flatnonzero(mask.sum(axis=0) >= 2)
    if len(columns) == 0:
        return []
    breaks = np.flatnonzero(np.diff(columns) > max(1, _GAP * mask.shape[1]))
    firsts, lasts = columns[[0, *(breaks + 1)]], columns[[*breaks, -1]]
    return [(int(first), int(last) + 1) for first, last in zip(firsts, lasts, strict=True)]
