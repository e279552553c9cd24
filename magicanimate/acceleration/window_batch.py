"""Predict several context windows in one call of the networks, which fills a large GPU.

Letters in shape comments: see `magicanimate.sampling`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from magicanimate.sampling import Networks, Window


def batch_windows(networks: Networks, size: int) -> Networks:
    """Predict ``size`` windows of a step at a time; a clip's windows are all equally long."""

    def fuse(
        outer: Networks, latents: torch.Tensor, timestep: torch.Tensor, windows: Sequence[Window]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        total, weight = latents.new_zeros(()), latents.new_zeros(latents.shape[2])
        for first in range(0, len(windows), size):
            batch = windows[first : first + size]
            # Several windows are so many videos in one batch: frames one after the other for the ControlNet,
            # which knows no videos, and side by side for the UNet.
            frames = [frame for window in batch for frame in window.frames]
            noisy = torch.cat([latents.index_select(2, window.index) for window in batch])  # N C K h w
            residuals = outer.control(frames, noisy.transpose(1, 2).flatten(0, 1), timestep)
            noise = outer.predict(frames, noisy, timestep, residuals).float()
            noise = noise.unflatten(0, (-1, len(batch)))  # (B N) C K h w -> B N C K h w
            if not total.ndim:
                total = noise.new_zeros(len(noise), noise.shape[2], *latents.shape[2:])  # B C F h w
            # Added up one by one: windows of a batch may overlap, and index_add_ sums what meets.
            for i, window in enumerate(batch):
                total.index_add_(2, window.index, noise[:, i] * window.weight.view(-1, 1, 1))
                weight.index_add_(0, window.index, window.weight)
        return total, weight

    return replace(networks, fuse=fuse)
