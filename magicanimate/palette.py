"""The colours of a DensePose part map: 24 body parts and background on the viridis colour map.

Part ``i`` is drawn with viridis colour ``trunc(i * 255 / 24)``; background is viridis(0) = RGB (68, 1, 84).
Part numbers are those of DensePose's "fine segmentation" (Guler et al., "DensePose", CVPR 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

PALETTE = np.array(
    [
        (68, 1, 84),
        (71, 16, 99),
        (72, 31, 112),
        (71, 44, 122),
        (68, 57, 131),
        (64, 70, 136),
        (59, 81, 139),
        (54, 93, 141),
        (49, 104, 142),
        (44, 113, 142),
        (40, 124, 142),
        (37, 133, 142),
        (33, 144, 141),
        (31, 154, 138),
        (32, 163, 134),
        (39, 173, 129),
        (53, 183, 121),
        (70, 192, 111),
        (92, 200, 99),
        (115, 208, 86),
        (142, 214, 69),
        (170, 220, 50),
        (197, 224, 33),
        (226, 228, 24),
        (253, 231, 37),
    ],
    dtype=np.uint8,
)
"""RGB of every label, uint8 (25, 3)."""

PALETTE.setflags(write=False)

BACKGROUND: tuple[int, int, int] = (68, 1, 84)
"""RGB of label 0."""

PART_NAMES: tuple[str, ...] = (
    "background",
    "torso back",
    "torso front",
    "right hand",
    "left hand",
    "left foot",
    "right foot",
    "upper leg right back",
    "upper leg left back",
    "upper leg right front",
    "upper leg left front",
    "lower leg right back",
    "lower leg left back",
    "lower leg right front",
    "lower leg left front",
    "upper arm left front/inner",
    "upper arm right front/inner",
    "upper arm left back/outer",
    "upper arm right back/outer",
    "lower arm left front/inner",
    "lower arm right front/inner",
    "lower arm left back/outer",
    "lower arm right back/outer",
    "head right half",
    "head left half",
)

# Part -> parts of higher numbers that it meets on a body.
_MEETS = {
    1: (2, 7, 8, 17, 18, 23, 24),
    2: (9, 10, 15, 16, 23, 24),
    3: (20, 22),
    4: (19, 21),
    5: (12, 14),
    6: (11, 13),
    7: (8, 9, 11),
    8: (10, 12),
    9: (10, 13),
    10: (14,),
    11: (13,),
    12: (14,),
    15: (17, 19),
    16: (18, 20),
    17: (21,),
    18: (22,),
    19: (21,),
    20: (22,),
    23: (24,),
}

MEETING_PARTS: tuple[tuple[int, int], ...] = tuple(
    (one, other) for one, others in _MEETS.items() for other in others
)
"""Pairs of parts that meet on a body."""

FLIP_PERMUTATION = np.array(
    [0, 1, 2, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15, 18, 17, 20, 19, 22, 21, 24, 23], dtype=np.uint8
)
"""Label of the mirrored body: ``FLIP_PERMUTATION[labels[:, ::-1]]`` is the mirrored map."""

FLIP_PERMUTATION.setflags(write=False)

_AMBIGUOUS = 255

# The lookup table of colours has cells of 4 x 4 x 4.
_CELL_BITS = 2


def _nearest_exact(rgb: np.ndarray) -> np.ndarray:
    """Label of the nearest palette colour of float32 (N, 3); ties go to the lower label.

    |c|^2 - 2 p.c stays below 2^24, so float32 holds it exactly.
    """
    colours = PALETTE.astype(np.float32)
    score = rgb @ (-2.0 * colours.T) + (colours**2).sum(axis=1)
    return score.argmin(axis=1).astype(np.uint8)


@lru_cache(maxsize=1)
def _cells() -> np.ndarray:
    """Label of every colour cell, uint8 (64, 64, 64), or 255 where the cell holds several.

    The region nearest to one colour is convex, so a cell whose eight corners agree is all of that label.
    """
    size = 1 << _CELL_BITS
    # Both ends of each cell on an axis.
    ends = np.arange(0, 256, size, dtype=np.float32)
    axis = np.stack([ends, ends + size - 1], axis=1).ravel()
    green, blue = (plane.ravel() for plane in np.meshgrid(axis, axis, indexing="ij"))
    count = len(ends)
    cells = np.empty((count, count, count), dtype=np.uint8)
    for row, pair in enumerate(axis.reshape(-1, 2)):
        corners = np.concatenate(
            [
                _nearest_exact(np.stack([np.full_like(green, red), green, blue], axis=1))
                .reshape(count, 2, count, 2)
                .transpose(1, 3, 0, 2)
                .reshape(4, count, count)
                for red in pair
            ]
        )
        same = (corners == corners[0]).all(axis=0)
        cells[row] = np.where(same, corners[0], _AMBIGUOUS)
    return cells


def nearest_labels(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Label of the nearest palette colour of every pixel, uint8 (..., 3), and how far away that colour is.

    Returns:
        labels, uint8 (...), 0..24, and the Euclidean RGB distances, float32 (...), 0..442. Both are exact.

    Raises:
        ValueError: the array is not uint8 or its last axis is not 3.
    """
    rgb = np.asarray(rgb)
    if rgb.dtype != np.uint8 or rgb.ndim == 0 or rgb.shape[-1] != 3:
        raise ValueError(f"colours must be uint8 (..., 3), not {rgb.dtype} {rgb.shape}")
    flat = rgb.reshape(-1, 3)
    cell = flat >> _CELL_BITS
    labels = _cells()[cell[:, 0], cell[:, 1], cell[:, 2]]
    # Few pixels: cells between two colours are rare in part maps.
    unsure = np.flatnonzero(labels == _AMBIGUOUS)
    if unsure.size:
        labels[unsure] = _nearest_exact(flat[unsure].astype(np.float32))
    squares = np.zeros(len(flat), dtype=np.int32)
    # Channel by channel: the difference of whole pictures would take three times the memory.
    for channel in range(3):
        difference = flat[:, channel].astype(np.int32) - PALETTE[:, channel].astype(np.int32)[labels]
        squares += difference * difference
    distance = np.sqrt(squares.astype(np.float32))
    return labels.reshape(rgb.shape[:-1]), distance.reshape(rgb.shape[:-1])


def colourise(labels: np.ndarray) -> np.ndarray:
    """Draw labels with the palette: integers (...), 0..24, become uint8 (..., 3).

    Raises:
        ValueError: a label is outside 0..24 or not an integer.
    """
    labels = np.asarray(labels)
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be integers, not {labels.dtype}")
    if labels.size and (labels.min() < 0 or labels.max() >= len(PALETTE)):
        raise ValueError(f"labels must be 0..24, not {labels.min()}..{labels.max()}")
    return PALETTE[labels]


@lru_cache(maxsize=1)
def meeting_labels() -> np.ndarray:
    """Which labels meet on a body, bool (25, 25); background meets nothing."""
    meets = np.zeros((len(PALETTE), len(PALETTE)), dtype=bool)
    for one, other in MEETING_PARTS:
        meets[one, other] = meets[other, one] = True
    return meets


def meeting_share(frames: Sequence[np.ndarray]) -> float:
    """Of unlike neighbours in label maps, uint8 (h, w), the share that meets on a body; background aside."""
    meets = meeting_labels()
    meeting = pairs = 0
    for labels in frames:
        for first in (labels, labels.T):
            # Across one pixel, which compression may have mixed.
            unlike = (first[:-2] != first[2:]) & (first[:-2] > 0) & (first[2:] > 0)
            pairs += int(unlike.sum())
            meeting += int(meets[first[:-2], first[2:]][unlike].sum())
    return meeting / max(1, pairs)
