"""Recognise ordinary videos over which DensePose's parts are drawn, as its own tool shows what it found."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import numpy as np

from magicanimate.palette import (
    BACKGROUND,
    FAR,
    MEETING_PARTS,
    NEAR,
    PALETTE,
    colour_distance,
    nearest_labels,
)

JUMP = 3  # difference of the labels on the two sides of a hard edge, at least
_STRENGTHS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)  # opacities of the parts that are tried
# Levels of 255: how even the two sides of a step are, and how much its channels differ.
_FLAT, _COLOURED = 16, 30
_FEWEST_STEPS, _MOST_STEPS = 300, 1000
# RGB distance by which steps between parts vary, because the picture behind is not quite the same there.
_SPREAD = 7.0
_MIN_EVIDENCE, _MIN_LEAD = 0.6, 0.1  # mean logarithms of likelihood ratios; see `is_drawn_over_video`
# Least share of pixels in part colours, least number of parts with a hundredth of these, and the range of
# hard edges for each such pixel; see `_hides_video`.
_DRAWN_SHARE, _DRAWN_PARTS, _DRAWN_JUMPS = 0.03, 12, (0.02, 0.1)


def is_drawn_over_video(frames: Sequence[np.ndarray]) -> bool:
    """Whether part colours seem to be blended with a video, in colour or grey, uint8 (h, w, 3) each.

    Where two parts meet, the picture behind is nearly the same on both sides, so that the colour steps by
    their difference times the opacity. Compared is how much better that explains the coloured steps of the
    frames than chance does, and compared with the same for the part colours with their channels exchanged:
    steps of ordinary pictures fit those as well or better. Opacities above 0.8 hide the picture, so that the
    colours themselves tell.

    Measured: photographs, drawings and flat random rectangles have less than 0.6, or lie behind the exchanged
    colours; real maps blended with photographs and compressed have 0.7 to 2.2 and lead by 0.1 to 0.8. Where
    the picture behind is very lively, they are not recognised below an opacity of about 0.8.
    """
    if _hides_video(frames):
        return True
    steps = _coloured_steps(frames)
    if len(steps) < _FEWEST_STEPS:
        return False
    evidence = {
        order: max(_evidence(steps[:, order], strength) for strength in _STRENGTHS)
        for order in permutations(range(3))
    }
    # Any lively picture explains something; only a lead over exchanged channels tells part colours.
    own = evidence.pop((0, 1, 2))
    return own >= _MIN_EVIDENCE and own - max(evidence.values()) >= _MIN_LEAD


def _hides_video(frames: Sequence[np.ndarray]) -> bool:
    """Whether a part of the frames is in the colours of many parts, which meet at hard edges.

    Measured: maps drawn over photographs at 0.8 and more show 12 to 21 parts with 0.026 to 0.065 hard edges a
    pixel; photographs and drawings show at most 7 parts, noise has 0.13 edges.
    """
    seen, jumps, pixels = np.zeros(len(PALETTE), int), 0, 0
    for frame in frames:
        labels, distance = nearest_labels(frame)
        part = (distance < FAR) & (colour_distance(frame, BACKGROUND) > NEAR)
        labels = np.where(part, labels, 0).astype(np.int8)
        seen += np.bincount(labels.ravel(), minlength=len(PALETTE))
        pixels += labels.size
        for lines in (labels, labels.T):
            one, other = lines[:-2], lines[2:]  # the pixel between is a mixture
            jumps += int(((one > 0) & (other > 0) & (np.abs(one - other) >= JUMP)).sum())
    parts = seen[1:].sum()
    return bool(
        parts > _DRAWN_SHARE * pixels
        and (seen[1:] > 0.01 * parts).sum() >= _DRAWN_PARTS
        and _DRAWN_JUMPS[0] < jumps / parts < _DRAWN_JUMPS[1]
    )


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
