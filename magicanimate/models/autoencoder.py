"""The two image autoencoders a checkpoint may have, behind two functions.

The full checkpoint has Stable Diffusion's ``AutoencoderKL``, the mini the quicker ``AutoencoderDC``.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderDC, AutoencoderKL

Autoencoder = AutoencoderKL | AutoencoderDC


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
