"""Sample sheets and the plainest image figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean over images of the peak signal-to-noise ratio in dB; ``B 3 H W`` in [-1, 1]."""
    error = (a.clamp(-1, 1) - b.clamp(-1, 1)).square().mean(dim=(1, 2, 3)).clamp_min(1e-10)
    return float((10 * torch.log10(4 / error)).mean())


def save_grid(path: Path, rows: Sequence[torch.Tensor]) -> None:
    """PNG with one row of pictures per entry of ``rows`` (each ``B 3 H W`` in [-1, 1])."""
    sheet = torch.cat([torch.cat(list(row.clamp(-1, 1)), dim=-1) for row in rows], dim=-2)
    pixels = ((sheet + 1) * 127.5).round().to(torch.uint8).movedim(0, -1)
    Image.fromarray(pixels.numpy()).save(path)
