"""The two image autoencoders a checkpoint may have, behind two functions.

The full checkpoint has Stable Diffusion's ``AutoencoderKL``, the mini the quicker ``AutoencoderDC``.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from diffusers import AutoencoderDC, AutoencoderKL

Autoencoder: TypeAlias = AutoencoderKL | AutoencoderDC


def encode_scaled(vae: Autoencoder, pixels: torch.Tensor) -> torch.Tensor:
    """Latents without sampling noise, in the networks' scale.

    Args:
        vae: the autoencoder; of a KL autoencoder the posterior's mean is taken.
        pixels: ``N 3 H W`` in [-1, 1].

    Returns:
        ``N C h w`` in the autoencoder's number format.
    """
    encoded = vae.encode(pixels.to(vae.dtype))
    latents = encoded.latent if isinstance(vae, AutoencoderDC) else encoded.latent_dist.mean
    return latents * vae.config.scaling_factor


def decode_scaled(vae: Autoencoder, latents: torch.Tensor) -> torch.Tensor:
    """Pixels ``N 3 H W``, float32 and about [-1, 1], of latents ``N C h w`` in the networks' scale."""
    return vae.decode((latents / vae.config.scaling_factor).to(vae.dtype)).sample.float()


def spatial_factor(vae: Autoencoder) -> int:
    """How many times smaller than the picture the latents are in each direction."""
    config = vae.config
    levels = (
        config.encoder_block_out_channels if isinstance(vae, AutoencoderDC) else config.block_out_channels
    )
    return 2 ** (len(levels) - 1)


def set_sliced(vae: Autoencoder, tile: int | None) -> None:
    """Let the autoencoder take pictures one by one, those above ``tile`` pixels in overlapping tiles.

    ``None`` takes both back. Slices change nothing but the order of sums; seams of tiles are blended.
    """
    if tile is None:
        vae.disable_slicing()
        vae.disable_tiling()
        return
    vae.enable_slicing()
    vae.enable_tiling()
    if isinstance(vae, AutoencoderDC):
        scale = spatial_factor(vae)
        stride = tile // scale * 7 // 8 * scale  # what is left of a tile overlaps
        vae.enable_tiling(tile, tile, stride, stride)
    else:  # which has no arguments for it; its own tiles are as large as its training pictures
        vae.tile_sample_min_size = tile
        vae.tile_latent_min_size = tile // spatial_factor(vae)
