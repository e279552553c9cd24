"""Scale part maps without inventing parts.

A colour between two parts is, on the viridis map, often the colour of a third: half torso and half head gives
the colour of a leg. DensePose draws labels at the size of the picture and never blends, so a map of another
size is made here as it would have drawn it: each new pixel takes the part that covers most of it.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from magicanimate.palette import PALETTE, nearest_labels

_UNSURE_DISTANCE = 96.0
"""RGB distance at which a pixel has lost its vote; the blurred edges of compressed maps lie beyond 32."""


def resize_map(frame: np.ndarray, *, width: int, height: int) -> np.ndarray:
    """Scale a part map by vote of its labels, weighted by how close each pixel is to its palette colour.

    Args:
        frame: uint8 (h, w, 3), colours near the palette.
        width, height: of the result.

    Returns:
        uint8 (height, width, 3), palette colours only.
    """
    labels, distance = nearest_labels(frame)
    weight = (255.0 * (1.0 - distance / _UNSURE_DISTANCE)).clip(1, 255).astype(np.uint8)
    result = np.zeros((height, width), dtype=np.uint8)
    # Only where parts are is there anything to vote on.
    left, right = _span((labels > 0).any(axis=0), width)
    top, bottom = _span((labels > 0).any(axis=1), height)
    if right > left and bottom > top:
        across, down = frame.shape[1] / width, frame.shape[0] / height
        box = (left * across, top * down, right * across, bottom * down)
        result[top:bottom, left:right] = _vote(labels, weight, (right - left, bottom - top), box)
    return PALETTE[result]


def _span(used: np.ndarray, size: int) -> tuple[int, int]:
    """The part of 0..size that the used positions cover when scaled to ``size``, and two more at each end."""
    found = np.flatnonzero(used)
    if len(found) == 0:
        return 0, 0
    scale = size / len(used)
    return max(0, int(found[0] * scale) - 2), min(size, int((found[-1] + 1) * scale) + 3)


def _vote(
    labels: np.ndarray, weight: np.ndarray, size: tuple[int, int], box: tuple[float, float, float, float]
) -> np.ndarray:
    """The label with most weight at every new pixel of a box.

    Args:
        labels, weight: uint8 (h, w).
        size: (width, height) of the result.
        box: part of the map that is scaled: left, top, right, bottom in its pixels.

    Returns:
        uint8 (height, width).
    """
    enlarges = size[0] > box[2] - box[0] or size[1] > box[3] - box[1]
    best = np.zeros(size[::-1], dtype=np.uint8)
    winner = np.zeros(size[::-1], dtype=np.uint8)
    for label in np.flatnonzero(np.bincount(labels.ravel(), minlength=len(PALETTE))):
        ballot = Image.fromarray(np.where(labels == label, weight, np.uint8(0)))
        if enlarges:
            # The blurred edges of a compressed map pass through other parts' colours, one pixel wide.
            ballot = ballot.filter(ImageFilter.BoxBlur(1))
        # Bilinear averages over the new pixel when it makes smaller and gives smooth outlines when larger.
        share = np.asarray(ballot.resize(size, Image.Resampling.BILINEAR, box=box))
        better = share > best
        np.copyto(best, share, where=better)
        winner[better] = label
    return winner
