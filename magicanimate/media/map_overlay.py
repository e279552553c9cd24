"""DensePose parts that are drawn half transparent over the picture in which they were found."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import numpy as np

from magicanimate.palette import MEETING_PARTS, PALETTE

_STRENGTHS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""Opacities of the parts that are tried."""

_FLAT, _COLOURED = 16, 30
"""Levels of 255: how even the two sides of a step are, and how much its channels differ."""

_FEWEST_STEPS, _MOST_STEPS = 300, 1000
_SPREAD = 7.0
"""RGB distance by which steps between parts vary, because the picture behind is not quite the same there."""

_MIN_EVIDENCE, _MIN_LEAD = 0.6, 0.1
"""Mean logarithms of likelihood ratios; see `is_drawn_over_video`."""


def is_drawn_over_video(frames: Sequence[np.ndarray]) -> bool:
    """Whether part colours seem to be blended with a video, in colour or grey, uint8 (h, w, 3) each.

    So DensePose's own tool shows what it found, over the picture in grey.

    Where two parts meet, the picture behind is nearly the same on both sides, so that the colour steps by
    their difference times the opacity. It is asked how much better that explains the coloured steps of the
    frames than chance does, and compared with the same for the part colours with their channels exchanged:
    steps of ordinary pictures fit those as well or better.

    Measured: photographs, drawings and flat random rectangles have less than 0.6, or lie behind the exchanged
    colours; real maps blended with photographs and compressed have 0.7 to 2.2 and lead by 0.1 to 0.8. Where
    the picture behind is very lively, or hardly to be seen, they are not recognised.
    """
    steps = _coloured_steps(frames)
    if len(steps) < _FEWEST_STEPS:
        return False
    evidence = {
        order: max(_evidence(steps[:, order], strength) for strength in _STRENGTHS)
        for order in permutations(range(3))
    }
    own = evidence.pop((0, 1, 2))
    return own >= _MIN_EVIDENCE and own - max(evidence.values()) >= _MIN_LEAD


def _coloured_steps(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Colour differences, float32 (N, 3), across places where the picture is even on both sides."""
    found = []
    for frame in frames:
        for axis in (0, 1):
            lines = np.moveaxis(frame.astype(np.float32), axis, 0)
            outer, inner, after, beyond = lines[:-4], lines[1:-3], lines[3:-1], lines[4:]
            even = (np.abs(outer - inner).max(axis=-1) < _FLAT) & (
                np.abs(beyond - after).max(axis=-1) < _FLAT
            )
            steps = (inner - after)[even]
            found.append(steps[np.ptp(steps, axis=1) > _COLOURED])
    steps = np.concatenate(found)
    return steps[:: max(1, len(steps) // _MOST_STEPS)]


def _evidence(steps: np.ndarray, strength: float) -> float:
    """Mean log likelihood ratio of steps (N, 3): half lie between parts of that opacity, or none."""
    colours = PALETTE.astype(np.float32)
    one, other = np.array(MEETING_PARTS).T
    expected = strength * (colours[one] - colours[other])
    expected = np.concatenate([expected, -expected])
    expected = expected[np.ptp(expected, axis=1) > _COLOURED]
    away = ((steps[:, None] - expected) ** 2).sum(axis=-1) / (2 * _SPREAD**2)
    likelihood = np.exp(-away).mean(axis=1) / ((2 * np.pi) ** 1.5 * _SPREAD**3)
    chance = 1 / 300**3  # all differences alike
    return float(np.log(0.5 + 0.5 * likelihood / chance).mean())
