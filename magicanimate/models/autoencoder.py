"""The two image autoencoders a checkpoint may have, and cheap previews in the decoder's place.

The full checkpoint has Stable Diffusion's ``AutoencoderKL``, the mini the quicker ``AutoencoderDC``.

Previews are one small convolution: a latent and its eight neighbours hold nearly all that the decoder
makes of their place, and to a large part linearly, so that a map from them to a few pixels can be fitted in
a moment, for any autoencoder. With the mini's, on photos, they are 27 dB from the decoder's pictures; one
colour for each latent is 21 dB from them.

Letters in shape comments: ``N`` pictures, ``F`` frames, ``C h w`` latents, ``H W`` pixels.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch
from diffusers import AutoencoderDC, AutoencoderKL
from torch.nn import functional

Autoencoder: TypeAlias = AutoencoderKL | AutoencoderDC


def encode_scaled(vae: Autoencoder, pixels: torch.Tensor) -> torch.Tensor:
    """Latents ``N C h w``, in the networks' scale and without noise, of pixels ``N 3 H W`` in [-1, 1]."""
    # The mean and not a sample of the posterior: a photo has the same latents every time.
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
    # Every level but the first halves the sides.
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


MOST_FRAMES = 16  # of a preview
MOST_PIXELS = 128  # of its side
FINENESS = 4  # pixels of a side that a latent becomes
_PICTURES, _SIDE, _AT_ONCE = 48, 64, 16  # to fit with
_RIDGE = 1e-4


class LatentPreview:
    """Turns an autoencoder's latents into small pictures.

    The map is fitted once to what the autoencoder makes of random pictures, from even areas to fine grain,
    so it suits any checkpoint; even areas alone would let the channels of texture run wild.
    """

    def __init__(self, vae: Autoencoder):
        pictures = _random_pictures()
        with torch.no_grad():
            encoded = [
                encode_scaled(vae, some.to(vae.device)).float().cpu() for some in pictures.split(_AT_ONCE)
            ]
        latents = torch.cat(encoded)
        seen = functional.unfold(_padded(latents), 3).movedim(1, -1).flatten(0, 1)  # (N h w) (9 C)
        seen = torch.cat([seen, torch.ones(len(seen), 1)], dim=1)
        height, width = (FINENESS * side for side in latents.shape[2:])
        shrunk = functional.adaptive_avg_pool2d(pictures, (height, width))
        wanted = functional.pixel_unshuffle(shrunk, FINENESS)
        wanted = wanted.movedim(1, -1).flatten(0, 2)  # (N h w) (3 x FINENESS^2)
        # Neighbouring latents are much alike; without a ridge they would get large weights of opposite signs.
        ridge = _RIDGE * len(seen) * torch.eye(seen.shape[1])
        fitted = torch.linalg.solve(seen.T @ seen + ridge, seen.T @ wanted)
        self.weight = fitted[:-1].T.unflatten(1, (-1, 3, 3)).contiguous()
        self.bias = fitted[-1]

    def __call__(self, latents: torch.Tensor) -> np.ndarray:
        """Latents ``1 C F h w`` -> uint8 ``F' H W 3``, at most 16 frames spread over the clip.

        ``H W`` are four times ``h w``, or an even share of that where a side would have over 128 pixels.
        """
        count = latents.shape[2]
        # Few and small: the page is sent one of these after every step.
        index = torch.linspace(0, count - 1, min(count, MOST_FRAMES)).round().long()
        frames = latents[0].float().cpu()[:, index].transpose(0, 1)  # F' C h w
        rgb = functional.conv2d(_padded(frames), self.weight, self.bias)
        rgb = functional.pixel_shuffle(rgb, FINENESS)
        rgb = functional.avg_pool2d(rgb, max(1, -(-max(rgb.shape[2:]) // MOST_PIXELS)))
        return ((rgb.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).movedim(1, -1).numpy()


def _padded(latents: torch.Tensor) -> torch.Tensor:
    return functional.pad(latents, (1, 1, 1, 1), mode="replicate")


def _random_pictures() -> torch.Tensor:
    """Noise of all scales about random colours, float32 ``N 3 H W`` in [-1, 1], always the same.

    Half of it has edges and half is smooth.
    """
    generator = torch.Generator().manual_seed(0)
    pictures = 2 * torch.rand(_PICTURES, 3, 1, 1, generator=generator) - 1
    for side in (2, 4, 8, 16, 32, _SIDE):
        noise = torch.randn(_PICTURES, 3, side, side, generator=generator)
        strength = 0.4 * torch.rand(_PICTURES, 1, 1, 1, generator=generator) ** 2
        grown = functional.interpolate(noise, size=_SIDE, mode="nearest")
        grown[::2] = functional.interpolate(noise[::2], size=_SIDE, mode="bicubic")
        pictures = pictures + strength * grown
    return pictures.clamp(-1, 1)
