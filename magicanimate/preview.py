"""Cheap pictures of half-denoised latents: one linear map from latent channels to colour."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from magicanimate.models.autoencoder import Autoencoder, encode_scaled

MOST_FRAMES = 16
_SIDE = 32


class LatentPreview:
    """Fits, once, the linear map that turns the autoencoder's latents into small pictures.

    The fit uses flat colour patches that the autoencoder encodes itself, so it suits any checkpoint.
    """

    def __init__(self, vae: Autoencoder):
        levels = torch.tensor([-0.9, -0.3, 0.3, 0.9])
        colours = torch.tensor(list(itertools.product(levels.tolist(), repeat=3)))  # N 3
        patches = colours[:, :, None, None].expand(-1, -1, _SIDE, _SIDE)
        with torch.no_grad():
            latents = encode_scaled(vae, patches.to(vae.device))
        middle = latents.float().cpu()[:, :, 1:-1, 1:-1].mean(dim=(2, 3))  # borders see the padding
        with_one = torch.cat([middle, torch.ones(len(middle), 1)], dim=1)
        # A few latent channels carry colour; the small ridge keeps the others from being amplified.
        ridge = 1e-3 * torch.eye(with_one.shape[1])
        self.map = torch.linalg.solve(with_one.T @ with_one + ridge, with_one.T @ colours)  # (C + 1) 3

    def __call__(self, latents: torch.Tensor) -> np.ndarray:
        """Latents ``1 C F h w`` -> uint8 ``F' h w 3``, at most 16 frames spread over the clip."""
        count = latents.shape[2]
        index = torch.linspace(0, count - 1, min(count, MOST_FRAMES)).round().long()
        frames = latents[0].float().cpu()[:, index].movedim(0, -1)  # F' h w C
        rgb = frames @ self.map[:-1] + self.map[-1]
        return ((rgb.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
