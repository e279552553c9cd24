"""Finds the people in a photo with the part segmenter: whether there are any, how many, and where.

Letters in shape comments: ``H W`` pixels.
"""

from __future__ import annotations

import threading
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from densepose_tools.body import LIMBS, limb_labels, segments
from densepose_tools.segmenter import DEFAULT_FOLDER, PartSegmenter, is_segmenter
from magicanimate.media.fit import Box, mask_box

_HEAD = next(limb for limb in LIMBS if limb.name == "head")

_LONGER_SIDE = 160
"""Longer side of the part maps that are analysed, pixels."""

_SOLID, _SMALLEST_HEAD = 0.4, 16
"""Smallest share of its bounding box that a head fills, and smallest number of its pixels."""

_LEAST_OF_LARGEST = 0.25
"""Smallest size of a head relative to the largest one; smaller ones are errors."""

_NARROWEST, _BROADEST = 0.6, 2.6
"""Range of the width of a torso relative to the length of a head."""

_GAP = 0.02
"""Gap, relative to the image's width, that separates two heads."""


class PersonDetector:
    """Detects people in photos by their body parts. The network is loaded when it is first used.

    Args:
        folder: folder of a part segmenter.
    """

    def __init__(self, folder: Path):
        self._folder, self._lock = folder, threading.Lock()

    @classmethod
    def at_hand(cls) -> PersonDetector | None:
        """A detector with the bundled segmenter, or ``None`` if that is missing."""
        return cls(DEFAULT_FOLDER) if is_segmenter(DEFAULT_FOLDER) else None

    @cached_property
    def _segmenter(self) -> PartSegmenter:
        return PartSegmenter.load(self._folder)

    def labels(self, photo: np.ndarray) -> np.ndarray:
        """Segment a photo, uint8 (H, W, 3): a smaller part map, uint8 (h, w).

        Raises:
            InputError: the segmenter's folder cannot be used.
        """
        # Never enlarged: that would add nothing to see.
        scale = min(1.0, _LONGER_SIDE / max(photo.shape[:2]))
        size = (max(1, round(photo.shape[1] * scale)), max(1, round(photo.shape[0] * scale)))
        small = np.array(Image.fromarray(photo).resize(size, Image.Resampling.BICUBIC))
        # cached_property and the network are not safe when two photos are examined at once.
        with self._lock:
            return self._segmenter.labels(small[None])[0]

    def people(self, photo: np.ndarray) -> Box | None:
        """The box around all people in a photo, uint8 (H, W, 3); ``None`` if nobody is detected.

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
    """Subsample a part map (H, W) to about the size at which they are analysed."""
    step = max(1, round(max(labels.shape) / _LONGER_SIDE))
    return labels[::step, ::step]


def count_people(labels: np.ndarray) -> int:
    """Count the people in a part map, uint8 (H, W), by heads that are side by side."""
    head = limb_labels(labels, _HEAD) > 0
    runs = [head[:, first:last] for first, last in _column_runs(head)]
    # Scattered pixels with the head's labels are no head.
    areas = [int(run.sum()) for run in runs if _is_solid(run)]
    return sum(area >= _LEAST_OF_LARGEST * max(areas) for area in areas)


def is_plausible(labels: np.ndarray) -> bool:
    """Whether a photo's part map, uint8 (H, W), plausibly shows people: heads, torsos, proportions."""
    people, found = count_people(labels), measures(labels)
    if people == 0 or found is None:
        return False
    head, shoulders = found
    # The torsos of several people are measured as one, which may be wider accordingly.
    return _NARROWEST < shoulders / head < _BROADEST * people


def measures(labels: np.ndarray) -> np.ndarray | None:
    """Length of the head and width of the torso in pixels; ``None`` unless both are there."""
    found = segments(labels)
    if "head" not in found or "torso" not in found:
        return None
    return np.array([found["head"].length, found["torso"].width])


def _is_solid(mask: np.ndarray) -> bool:
    """Whether a mask (H, W) is a compact body part and not scattered pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if mask.sum() < _SMALLEST_HEAD:
        return False
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return bool(part.mean() >= _SOLID)


def _column_runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """First column and one past the last of each run of columns with pixels; small gaps are closed."""
    # Single pixels are noise.
    columns = np.flatnonzero(mask.sum(axis=0) >= 2)
    if len(columns) == 0:
        return []
    breaks = np.flatnonzero(np.diff(columns) > max(1, _GAP * mask.shape[1]))
    firsts, lasts = columns[[0, *(breaks + 1)]], columns[[*breaks, -1]]
    return [(int(first), int(last) + 1) for first, last in zip(firsts, lasts, strict=True)]
