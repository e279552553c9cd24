"""Stage "vae": the image autoencoder, on random crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderDC
from torch.nn import functional

from training.config import NetworkConfig, StageConfig
from training.data import DancerData, jitter_colours, step_generator, to_images
from training.networks import build_vae
from training.pictures import psnr, save_grid


class VaeStage:
    """Reconstruction: squared and absolute error of the pixels, absolute error of image gradients."""

    def __init__(self, config: StageConfig, network: NetworkConfig, data: DancerData):
        self.config, self.data = config, data
        torch.manual_seed(config.seed)
        self.vae = build_vae(network)
        self.networks = {"vae": self.vae}

    def loss(self, step: int) -> torch.Tensor:
        images = self._batch(step_generator(self.config.seed, step))
        with torch.autocast("cpu", torch.bfloat16):
            latents = self.vae.encode(images).latent
            spread = latents.detach().float().std(dim=(0, 2, 3), keepdim=True)
            noise = self.config.latent_noise * spread * torch.randn(latents.shape)
            decoded = self.vae.decode(latents + noise).sample
        decoded = decoded.float()
        return (
            functional.mse_loss(decoded, images)
            + 0.1 * functional.l1_loss(decoded, images)
            + self.config.gradient_weight * gradient_loss(decoded, images)
        )

    def _batch(self, rng: np.random.Generator) -> torch.Tensor:
        data, size, crop = self.data, self.data.rgb.shape[2], self.config.crop
        images = []
        for _ in range(self.config.batch_size):
            image = data.rgb[rng.choice(data.train), rng.integers(data.rgb.shape[1])]
            if crop:
                y, x = rng.integers(0, size - crop + 1, 2)
                image = image[y : y + crop, x : x + crop]
            images.append(image)
        return jitter_colours(to_images(np.stack(images)), rng)

    @torch.no_grad()
    def sample(self, step: int, folder: Path) -> dict[str, float]:
        images = to_images(self.data.rgb[self.data.held_out][:, :2].reshape(-1, *self.data.rgb.shape[2:]))
        decoded = self.vae.decode(self.vae.encode(images).latent).sample
        save_grid(folder / f"{step:06d}.png", [images[:8], decoded[:8]])
        return {"psnr": psnr(decoded, images)}


def gradient_loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of horizontal and vertical neighbour differences (``B C H W``)."""
    across = functional.l1_loss(a.diff(dim=-1), b.diff(dim=-1))
    down = functional.l1_loss(a.diff(dim=-2), b.diff(dim=-2))
    return across + down


@torch.no_grad()
def normalize_latents(vae: AutoencoderDC, scale: torch.Tensor) -> None:
    """Fold the latents' scale per channel into the convolutions around them; decoding stays what it was.

    The noise schedule expects latents of unit size (Stable Diffusion has one factor for all channels).

    Args:
        vae: autoencoder without shortcuts around its latents.
        scale: root mean square of the latents, per channel.
    """
    vae.encoder.conv_out.weight.div_(scale.view(-1, 1, 1, 1))
    vae.encoder.conv_out.bias.div_(scale)
    vae.decoder.conv_in.weight.mul_(scale.view(1, -1, 1, 1))


@torch.no_grad()
def latent_scale(vae: AutoencoderDC, data: DancerData, *, images: int = 512) -> torch.Tensor:
    """Root mean square of the latents per channel, over training images."""
    rng = step_generator(0, 0)
    squares = []
    for _ in range(images // 32):
        rows = rng.choice(data.train, 32)
        columns = rng.integers(data.rgb.shape[1], size=32)
        batch = to_images(np.stack([data.rgb[i, k] for i, k in zip(rows, columns, strict=True)]))
        squares.append(vae.encode(batch).latent.square().mean(dim=(0, 2, 3)))
    return torch.stack(squares).mean(0).sqrt()
