"""The colours of a DensePose part map: 24 body parts and background on viridis, and other tables of them.

Part ``i`` is drawn with viridis colour ``trunc(i * 255 / 24)``; background is viridis(0) = RGB (68, 1, 84).
Part numbers are those of DensePose's "fine segmentation" (Guler et al., "DensePose", CVPR 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np


def _table(colours: str) -> np.ndarray:
    """Colours in hexadecimal, RGB, as uint8 (N, 3)."""
    return np.array([list(bytes.fromhex(colour)) for colour in colours.split()], dtype=np.uint8)


PALETTE = _table(
    "440154 471063 481f70 472c7a 443983 404688 3b518b 365d8d 31688e 2c718e 287c8e 25858e 21908d "
    "1f9a8a 20a386 27ad81 35b779 46c06f 5cc863 73d056 8ed645 aadc32 c5e021 e2e418 fde725"
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

NEAR, FAR = 12, 32
"""RGB distances within which a pixel counts as background, or as some part. The back of a torso is 21 from
the background, in compressed maps 14."""

SHIFTED = (
    "viridis with shifted colours (full range taken for limited)",
    "viridis with shifted colours (limited range taken for full)",
)
# OpenCV's colours of part i at index trunc(i * 255 / 24), RGB, background first.
_COLOUR_MAPS = {
    "jet": "000080 0000a8 0000d4 0000fc 0028ff 0054ff 007cff 00a8ff 00d4ff 00fcff 2affd6 52ffae 7eff82 "
    "aaff56 d2ff2e feff01 ffd400 ffac00 ff8000 ff5800 ff2c00 ff0000 d80000 ac0000 800000",
    "parula": "352a87 253ca3 1450c2 0461df 086edd 0e7ad8 1484d4 0f90d0 0b9ccb 06a6c6 16adb9 26b3ac 37b99f "
    "56bb90 72bd82 91bf74 aabd69 c0bc60 d8ba56 e4c04a f0c73c fcce2e fbdc24 faeb19 f9fb0e",
    "turbo": "30123b 3b2f80 434eba 4669e0 4685fa 3ba0fd 2ab9ee 1ad2d2 1ae4b6 2ff19b 55fa76 7dff56 a1fd3d "
    "bef434 d7e535 ecd13a faba39 fea130 fb8122 f36315 e5470b d23105 bc2002 9e1001 7a0403",
    "plasma": "0d0887 260591 3a049a 4b03a1 5c01a6 6e00a8 7d03a8 8d0ba5 9c179e a82296 b52f8c c03a83 cb4679 "
    "d5536f dd5e66 e56b5d ed7953 f3854b f89441 fba238 fdb22f fdc328 fbd324 f6e626 f0f921",
    "inferno": "000004 050417 110a30 1f0c48 320a5e 450a69 550f6d 67166e 781c6d 88226a 9a2865 a92e5e ba3655 "
    "ca404a d74b3f e35933 ed6925 f47918 f98c0a fc9f07 fcb418 f9c932 f4dd4f f1f179 fcffa4",
    "rainbow": "ff0000 ff1900 ff3400 ff4e00 ff6900 ff8400 ff9e00 ffb900 ffd400 ffee00 ebff00 b9ff00 82ff00 "
    "4bff00 19ff00 00e11e 00aa55 007887 0041be 000ff0 1b00ff 3f00ff 6100ff 8500ff aa00ff",
}

_AMBIGUOUS = 255

# The lookup table of colours has cells of 4 x 4 x 4.
_CELL_BITS = 2


def _nearest(rgb: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Index of the nearest colour of a table, (M, 3), to each of float32 (N, 3); ties go to the lower one."""
    # |c|^2 - 2 p.c stays below 2^24, so float32 holds it exactly.
    colours = table.astype(np.float32)
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
                _nearest(np.stack([np.full_like(green, red), green, blue], axis=1), PALETTE)
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
        labels[unsure] = _nearest(flat[unsure].astype(np.float32), PALETTE)
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


@lru_cache(maxsize=1)
def map_tables() -> dict[str, np.ndarray]:
    """The known colour tables of part maps by name, uint8 (25, 3)."""
    tables = {"viridis": PALETTE} | {name: _table(text) for name, text in _COLOUR_MAPS.items()}
    tables |= {f"{name} with red and blue swapped": table[:, ::-1] for name, table in tables.items()}
    usual = PALETTE.astype(np.float32)
    for name, shifted in zip(SHIFTED, ((usual - 16) * 255 / 219, usual * 219 / 255 + 16), strict=True):
        tables[name] = np.rint(shifted.clip(0, 255)).astype(np.uint8)
    return tables


def nearest_colours(pixels: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the nearest colour and its distance for every pixel of (..., 3)."""
    flat = pixels.reshape(-1, 3).astype(np.float32)
    labels = _nearest(flat, table)
    distance = np.sqrt(((flat - table.astype(np.float32)[labels]) ** 2).sum(axis=1))
    return labels.reshape(pixels.shape[:-1]), distance.reshape(pixels.shape[:-1])


def colour_distance(colours: np.ndarray, colour: np.ndarray | tuple[int, int, int]) -> np.ndarray:
    """RGB distances of (..., 3) from one colour, float32 (...)."""
    difference = colours.astype(np.float32) - np.asarray(colour, dtype=np.float32)
    return np.sqrt((difference**2).sum(axis=-1))
