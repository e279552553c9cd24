"""Cheap pictures of half-denoised latents: one linear map from latent channels to colour."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from magicanimate.models.autoencoder import Autoencoder, encode_scaled

MOST_FRAMES = 16
_PICTURES, _SIDE = 24, 64  # to fit with


class LatentPreview:
    """Fits, once, the linear map that turns the autoencoder's latents into small pictures.

    The fit uses random pictures, from even areas to fine grain, that the autoencoder encodes itself, so it
    suits any checkpoint; even areas alone would let the channels of texture run wild.
    """

    def __init__(self, vae: Autoencoder):
        pictures = _random_pictures()
        with torch.no_grad():
            latents = encode_scaled(vae, pictures.to(vae.device)).float().cpu()
        colours = functional.adaptive_avg_pool2d(pictures, latents.shape[2:]).movedim(1, -1).flatten(0, 2)
        latents = latents.movedim(1, -1).flatten(0, 2)  # (N h w) C
        with_one = torch.cat([latents, torch.ones(len(latents), 1)], dim=1)
        # A few latent channels carry colour; the small ridge keeps the others from being amplified.
        ridge = 1e-3 * len(latents) * torch.eye(with_one.shape[1])
        self.map = torch.linalg.solve(with_one.T @ with_one + ridge, with_one.T @ colours)  # (C + 1) 3

    def __call__(self, latents: torch.Tensor) -> np.ndarray:
        """Latents ``1 C F h w`` -> uint8 ``F' h w 3``, at most 16 frames spread over the clip."""
        count = latents.shape[2]
        index = torch.linspace(0, count - 1, min(count, MOST_FRAMES)).round().long()
        frames = latents[0].float().cpu()[:, index].movedim(0, -1)  # F' h w C
        rgb = frames @ self.map[:-1] + self.map[-1]
        return ((rgb.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()


def _random_pictures() -> torch.Tensor:
    """Noise of all scales about random colours, float32 ``N 3 H W`` in [-1, 1], always the same."""
    generator = torch.Generator().manual_seed(0)
    pictures = 2 * torch.rand(_PICTURES, 3, 1, 1, generator=generator) - 1
    for side in (2, 4, 8, 16, 32, _SIDE):
        noise = torch.randn(_PICTURES, 3, side, side, generator=generator)
        strength = 0.4 * torch.rand(_PICTURES, 1, 1, 1, generator=generator) ** 2
        pictures = pictures + strength * functional.interpolate(noise, size=_SIDE, mode="nearest")
    return pictures.clamp(-1, 1)
