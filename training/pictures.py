"""Sample sheets and the plainest image figure."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

log = logging.getLogger(__name__)


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean over images of the peak signal-to-noise ratio in dB; ``B 3 H W`` in [-1, 1]."""
    error = (a.clamp(-1, 1) - b.clamp(-1, 1)).square().mean(dim=(1, 2, 3)).clamp_min(1e-10)
    return float((10 * torch.log10(4 / error)).mean())


def sharpness(result: torch.Tensor, truth: torch.Tensor) -> float:
    """Squared differences to the neighbours beside and below as a share of the truth's; ``B 3 H W``.

    1 is as sharp as the truth, less is blurred, more is grain.
    """
    energies = [
        sum(float(pictures.clamp(-1, 1).diff(dim=dim).square().sum()) for dim in (-2, -1))
        for pictures in (result, truth)
    ]
    return energies[0] / max(energies[1], 1e-9)


def save_grid(path: Path, rows: Sequence[torch.Tensor]) -> None:
    """PNG with one row of pictures per entry of ``rows`` (each ``B 3 H W`` in [-1, 1]), written at once."""
    sheet = torch.cat([torch.cat(list(row.clamp(-1, 1)), dim=-1) for row in rows], dim=-2)
    pixels = ((sheet + 1) * 127.5).round().to(torch.uint8).movedim(0, -1)
    temporary = path.with_suffix(".tmp")
    Image.fromarray(pixels.numpy()).save(temporary, "PNG")
    temporary.replace(path)


def save_video(path: Path, columns: Sequence[torch.Tensor], *, fps: float = 8.0) -> None:
    """mp4 with the clips of ``columns`` (each ``B F 3 H W`` in [-1, 1]) side by side, one sample below
    the other; none where the package av is missing, which a training does not need otherwise.
    """
    try:
        from magicanimate.media.writer import VideoWriter
    except ModuleNotFoundError as error:
        log.info("no video of the samples: %s is not installed", error.name)
        return
    wide = torch.cat([column.clamp(-1, 1) for column in columns], dim=-1)  # B F 3 H W'
    frames = ((torch.cat(list(wide), dim=-2) + 1) * 127.5).round().to(torch.uint8).movedim(1, -1).numpy()
    with VideoWriter(path, width=frames.shape[2], height=frames.shape[1], fps=fps) as writer:
        for frame in frames:
            writer.write(np.ascontiguousarray(frame))
