"""Pictures of a clip on which somebody points at a person."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from magicanimate.errors import InputError
from magicanimate.media.motion import open_motion


def picture_at(path: Path, second: float) -> np.ndarray:
    """The frame of a clip at a second, RGB uint8 (H, W, 3).

    Raises:
        InputError: the clip cannot be read, or is shorter.
    """
    frames = open_motion(path, start=second).frames()
    with closing(frames):
        for frame in frames:
            return frame
    raise InputError(f"The clip {path} shows nothing at {second:g} s; choose an earlier moment.")


def with_mark(picture: np.ndarray, x: float, y: float) -> np.ndarray:
    """A copy of a picture, RGB uint8 (H, W, 3), with a ring around a pixel and a dot on it."""
    marked = Image.fromarray(picture)
    draw = ImageDraw.Draw(marked)
    unit = max(2.0, min(marked.size) / 90)
    for radius, width, colour in ((4.0, 1.0, "black"), (3.5, 0.7, "white")):
        reach = radius * unit
        draw.ellipse((x - reach, y - reach, x + reach, y + reach), outline=colour, width=round(width * unit))
    draw.ellipse((x - unit, y - unit, x + unit, y + unit), fill="white", outline="black")
    return np.array(marked)
