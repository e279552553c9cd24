"""Pictures to look at: the photo on the left, then moments of the clip, a row for each video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def strip(photo: np.ndarray, videos: Sequence[np.ndarray], *, moments: int) -> np.ndarray:
    """One picture, uint8: ``moments`` evenly spaced frames of each video under each other.

    Args:
        photo: uint8 ``H W 3``, in the top left corner.
        videos: uint8 ``F H W 3`` each, all of one length and of the photo's size.
        moments: columns beside the photo.
    """
    picked = np.linspace(0, len(videos[0]) - 1, moments).round().astype(int)
    blank = np.full_like(photo, 255)
    rows = [
        np.concatenate([photo if i == 0 else blank, *video[picked]], axis=1) for i, video in enumerate(videos)
    ]
    return np.concatenate(rows)


def save_png(path: Path, picture: np.ndarray) -> None:
    """Write uint8 ``H W 3``."""
    Image.fromarray(picture).save(path)
