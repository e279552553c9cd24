"""Images and figures of a training's samples; metrics for evaluations are in `training.metrics`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

log = logging.getLogger(__name__)

_FPS = 8.0  # slower than the clips are, to see each frame


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB, mean over images ``B 3 H W`` in [-1, 1]."""
    # A perfect reconstruction would otherwise be infinite, which JSON cannot hold.
    error = (a.clamp(-1, 1) - b.clamp(-1, 1)).square().mean(dim=(1, 2, 3)).clamp_min(1e-10)
    return float((10 * torch.log10(4 / error)).mean())


def sharpness(result: torch.Tensor, truth: torch.Tensor) -> float:
    """Energy of the image gradients of ``B 3 H W``, relative to the truth's: below 1 is blurred."""
    energies = [
        sum(float(pictures.clamp(-1, 1).diff(dim=dim).square().sum()) for dim in (-2, -1))
        for pictures in (result, truth)
    ]
    return energies[0] / max(energies[1], 1e-9)


def save_grid(path: Path, rows: Sequence[torch.Tensor]) -> None:
    """Write a PNG with one row of images per entry of ``rows``, each ``B 3 H W`` in [-1, 1]."""
    sheet = torch.cat([torch.cat(list(row.clamp(-1, 1)), dim=-1) for row in rows], dim=-2)
    pixels = ((sheet + 1) * 127.5).round().to(torch.uint8).movedim(0, -1)
    # Renamed when complete: the browser's Train tab shows the newest sheet while it is written.
    temporary = path.with_suffix(".tmp")
    Image.fromarray(pixels.numpy()).save(temporary, "PNG")
    temporary.replace(path)


def save_video(path: Path, columns: Sequence[torch.Tensor]) -> None:
    """Write an mp4 with the clips of ``columns``, each ``B F 3 H W`` in [-1, 1], side by side and samples
    below each other. Nothing is written without the package av, which a training on rendered dancers does not
    need otherwise.
    """
    try:
        from magicanimate.media.writer import VideoWriter
    except ModuleNotFoundError as error:
        log.info("no video of the samples: %s is not installed", error.name)
        return
    wide = torch.cat([column.clamp(-1, 1) for column in columns], dim=-1)  # B F 3 H W'
    frames = ((torch.cat(list(wide), dim=-2) + 1) * 127.5).round().to(torch.uint8).movedim(1, -1).numpy()
    with VideoWriter(path, width=frames.shape[2], height=frames.shape[1], fps=_FPS) as writer:
        for frame in frames:
            writer.write(np.ascontiguousarray(frame))
