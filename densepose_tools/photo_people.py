"""Decide from a part map whether a photo shows people, how many, and where.

Letters in shape comments: ``H W`` pixels.
"""

from __future__ import annotations

import threading
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from densepose_tools.body import LIMBS, alone, segments
from densepose_tools.segmenter import DEFAULT_FOLDER, PartSegmenter, is_segmenter
from magicanimate.media.fit import Box, mask_box

_HEAD = next(limb for limb in LIMBS if limb.name == "head")

_LONGER_SIDE = 160
"""Pixels at which bodies are looked at."""

_SOLID, _SMALLEST_HEAD = 0.4, 16
"""A head fills at least this share of the box around it, and so many pixels."""

_LEAST_OF_LARGEST = 0.25
"""Of the largest head's pixels; smaller heads are mistakes."""

_NARROWEST, _BROADEST = 0.6, 2.6
"""Of a torso's width by a head's length."""

_GAP = 0.02
"""Of the width; heads this far apart are two."""


class PersonDetector:
    """Finds the parts of the people in photos; loads its network when it is first asked.

    Args:
        folder: of a part segmenter.
    """

    def __init__(self, folder: Path):
        self._folder, self._lock = folder, threading.Lock()

    @classmethod
    def at_hand(cls) -> PersonDetector | None:
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

    def people(self, photo: np.ndarray) -> Box | None:
        """Where the people in a photo, uint8 (H, W, 3), are; ``None`` if nobody is recognised.

        Raises:
            InputError: the segmenter's folder cannot be used.
        """
        labels = self.labels(photo)
        box = mask_box(labels > 0) if is_plausible(labels) else None
        if box is None:
            return None
        across, down = photo.shape[1] / labels.shape[1], photo.shape[0] / labels.shape[0]
        return round(box[0] * across), round(box[1] * down), round(box[2] * across), round(box[3] * down)


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
    people, found = count_people(labels), measures(labels)
    if people == 0 or found is None:
        return False
    head, shoulders = found
    return _NARROWEST < shoulders / head < _BROADEST * people


def measures(labels: np.ndarray) -> np.ndarray | None:
    """Length of the head and width of the torso in pixels, if both are there."""
    found = segments(labels)
    if "head" not in found or "torso" not in found:
        return None
    return np.array([found["head"].length, found["torso"].width])


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
