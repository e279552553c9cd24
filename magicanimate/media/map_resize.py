"""Scale part maps without inventing parts.

A colour between two parts is, on the viridis map, often the colour of a third: half torso and half head gives
the colour of a leg. DensePose draws labels at the size of the picture and never blends, so a map of another
size is made here as it would have drawn it: each new pixel takes the part that covers most of it.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

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
    best = np.zeros((height, width), dtype=np.uint8)
    winner = np.zeros((height, width), dtype=np.uint8)
    for label in np.flatnonzero(np.bincount(labels.ravel(), minlength=len(PALETTE))):
        votes = np.where(labels == label, weight, np.uint8(0))
        # Bilinear averages over the new pixel when it makes smaller and gives smooth outlines when larger.
        share = np.asarray(Image.fromarray(votes).resize((width, height), Image.Resampling.BILINEAR))
        better = share > best
        np.copyto(best, share, where=better)
        winner[better] = label
    return PALETTE[winner]
