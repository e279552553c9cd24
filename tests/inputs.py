"""A photo and a DensePose clip for whole runs, small and drawn here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tests.media_files import part_maps, write_clip


def write_photo(path: Path, *, size: int = 48) -> Path:
    """A figure of two colours on a bright ground."""
    pixels = np.full((size, size, 3), 200, np.uint8)
    pixels[size // 6 : size // 3, size * 2 // 5 : size * 3 // 5] = (230, 180, 150)
    pixels[size // 3 :, size // 3 : size * 2 // 3] = (30, 60, 160)
    Image.fromarray(pixels).save(path)
    return path


def write_motion(path: Path, count: int, *, sound: float = 0.0) -> Path:
    """A swaying figure in DensePose colours, 25 frames a second."""
    return write_clip(path, part_maps(count), sound=sound)
