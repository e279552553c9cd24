"""A data set in the renderer's format without the renderer: coloured boxes that move."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from magicanimate.palette import PALETTE
from training.dancers.dataset import POINTS_SIDE, DatasetInfo, Identity, Spec, write_identity, write_info


def write_boxes(
    folder: Path, *, identities: int = 4, size: int = 32, stills: int = 2, frames: int = 4
) -> Path:
    """Write a folder of "dancers": a box of two parts before a plain wall, in other colours each.

    The body points of a box are its pixels' places in it, 10 cm apart.
    """
    spec = Spec(size=size, stills=stills, frames=frames)
    folder.mkdir(parents=True, exist_ok=True)
    write_info(folder, DatasetInfo.of(spec, seed=0, count=identities))
    for i in range(identities):
        rng = np.random.default_rng(i)
        wall, skin, cloth = rng.integers(40, 220, (3, 3))
        parts = np.zeros((stills + frames, size, size), np.uint8)
        places = np.zeros((stills + frames, size, size, 4), np.uint8)
        for k in range(stills + frames):
            x = int(rng.integers(4, size // 2)) if k < stills else 4 + k
            parts[k, 6 : size // 2, x : x + 8] = 23
            parts[k, size // 2 : size - 2, x : x + 10] = 2
            places[k, ..., 0] = (10 * (np.arange(size) - x)).clip(0, 200)
            places[k, ..., 2] = (10 * np.arange(size)[:, None]).clip(0, 200)
            places[k, ..., 3] = 1
        places *= (parts > 0)[..., None]
        points = places.repeat(POINTS_SIDE // size, 1).repeat(POINTS_SIDE // size, 2)
        rgb = np.where((parts == 0)[..., None], wall, np.where((parts == 23)[..., None], skin, cloth))
        rgb = rgb.astype(np.uint8)
        arrays = rgb, parts, points
        write_identity(folder, i, Identity(*(a[:stills] for a in arrays), *(a[stills:] for a in arrays)))
    return folder


def control_frames(frames: int, size: int) -> np.ndarray:
    """DensePose-coloured frames of a moving box, uint8 ``F H W 3``."""
    labels = np.zeros((frames, size, size), np.uint8)
    for k in range(frames):
        x = size // 4 + k % (size // 4)
        labels[k, size // 4 : size // 2, x : x + size // 4] = 23
        labels[k, size // 2 : size - 2, x : x + size // 4] = 2
    return PALETTE[labels]
