"""Photo, motion and result in one picture."""

from __future__ import annotations

import numpy as np
from PIL import Image

_SEPARATOR = 4
"""Pixels between the pictures; even, as H.264 wants even widths."""

_SEPARATOR_COLOUR = (255, 255, 255)


def side_by_side(photo: np.ndarray, motion: np.ndarray, result: np.ndarray) -> np.ndarray:
    """Put three pictures in a row, each scaled to the height of the result with its own aspect.

    Args:
        photo, motion, result: uint8 (h, w, 3), of any sizes.

    Returns:
        uint8 (height of the result, sum of the widths and two separators, 3).
    """
    height = result.shape[0]
    line = np.empty((height, _SEPARATOR, 3), dtype=np.uint8)
    line[:] = _SEPARATOR_COLOUR
    return np.concatenate([_at_height(photo, height), line, _at_height(motion, height), line, result], axis=1)


def _at_height(frame: np.ndarray, height: int) -> np.ndarray:
    if frame.shape[0] == height:
        return frame
    width = max(1, round(frame.shape[1] * height / frame.shape[0]))
    return np.array(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))
