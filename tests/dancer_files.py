"""A data set in the renderer's format without the renderer: coloured boxes that move."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from magicanimate.palette import PALETTE
from training.dancers.dataset import DatasetInfo, Identity, Spec, write_identity, write_info


def write_boxes(
    folder: Path, *, identities: int = 4, size: int = 32, stills: int = 2, frames: int = 4
) -> Path:
    """Write a folder of "dancers": a box of two parts before a plain wall, in other colours each."""
    spec = Spec(size=size, stills=stills, frames=frames)
    folder.mkdir(parents=True, exist_ok=True)
    write_info(folder, DatasetInfo.of(spec, seed=0, count=identities))
    for i in range(identities):
        rng = np.random.default_rng(i)
        wall, skin, cloth = rng.integers(40, 220, (3, 3))
        parts = np.zeros((stills + frames, size, size), np.uint8)
        for k in range(stills + frames):
            x = int(rng.integers(4, size // 2)) if k < stills else 4 + k
            parts[k, 6 : size // 2, x : x + 8] = 23
            parts[k, size // 2 : size - 2, x : x + 10] = 2
        rgb = np.where((parts == 0)[..., None], wall, np.where((parts == 23)[..., None], skin, cloth))
        rgb = rgb.astype(np.uint8)
        write_identity(folder, i, Identity(rgb[:stills], parts[:stills], rgb[stills:], parts[stills:]))
    return folder


def control_frames(frames: int, size: int) -> np.ndarray:
    """DensePose-coloured frames of a moving box, uint8 ``F H W 3``."""
    labels = np.zeros((frames, size, size), np.uint8)
    for k in range(frames):
        x = size // 4 + k % (size // 4)
        labels[k, size // 4 : size // 2, x : x + size // 4] = 23
        labels[k, size // 2 : size - 2, x : x + size // 4] = 2
    return PALETTE[labels]
