"""Stage "vae": the image autoencoder, on random crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.nn import functional

from training.config import NetworkConfig, StageConfig
from training.data import DancerData, jitter_colours, step_generator, to_images
from training.networks import build_vae
from training.pictures import psnr, save_grid


class VaeStage:
    """Reconstruction with a little KL: absolute and squared error, and the same of image gradients."""

    def __init__(self, config: StageConfig, network: NetworkConfig, data: DancerData):
        self.config, self.data = config, data
        torch.manual_seed(config.seed)
        self.vae = build_vae(network)
        self.networks = {"vae": self.vae}

    def loss(self, step: int) -> torch.Tensor:
        images = self._batch(step_generator(self.config.seed, step))
        with torch.autocast("cpu", torch.bfloat16):
            posterior = self.vae.encode(images).latent_dist
            decoded = self.vae.decode(posterior.sample()).sample
        decoded = decoded.float()
        return (
            functional.mse_loss(decoded, images)
            + 0.1 * functional.l1_loss(decoded, images)
            + self.config.gradient_weight * gradient_loss(decoded, images)
            + self.config.kl_weight * posterior.kl().float().mean()
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
        decoded = self.vae.decode(self.vae.encode(images).latent_dist.mean).sample
        save_grid(folder / f"{step:06d}.png", [images[:8], decoded[:8]])
        return {"psnr": psnr(decoded, images)}


def gradient_loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of horizontal and vertical neighbour differences (``B C H W``)."""
    across = functional.l1_loss(a.diff(dim=-1), b.diff(dim=-1))
    down = functional.l1_loss(a.diff(dim=-2), b.diff(dim=-2))
    return across + down


@torch.no_grad()
def normalize_latents(vae: AutoencoderKL, mean: torch.Tensor, std: torch.Tensor) -> None:
    """Fold ``(z - mean) / std`` per channel into the 1x1 convolutions around the latents.

    Decoding stays what it was; the latents come out with zero mean and unit variance, which the noise
    schedule expects (Stable Diffusion does it with one factor for all channels).

    Args:
        vae: autoencoder with ``quant_conv`` and ``post_quant_conv``.
        mean, std: of the posterior means, per channel.
    """
    channels = len(mean)
    shift = torch.cat([mean, torch.zeros(channels)])
    scale = torch.cat([std, torch.ones(channels)])
    vae.quant_conv.weight.div_(scale.view(-1, 1, 1, 1))
    vae.quant_conv.bias.sub_(shift).div_(scale)
    vae.quant_conv.bias[channels:].sub_(2 * std.log())  # log variance of the scaled latents
    vae.post_quant_conv.bias.add_(vae.post_quant_conv.weight[:, :, 0, 0] @ mean)
    vae.post_quant_conv.weight.mul_(std.view(1, -1, 1, 1))


@torch.no_grad()
def latent_statistics(
    vae: AutoencoderKL, data: DancerData, *, images: int = 512
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of the posterior means per channel, over training images."""
    rng = step_generator(0, 0)
    means = []
    for _ in range(images // 32):
        rows = rng.choice(data.train, 32)
        columns = rng.integers(data.rgb.shape[1], size=32)
        batch = to_images(np.stack([data.rgb[i, k] for i, k in zip(rows, columns, strict=True)]))
        means.append(vae.encode(batch).latent_dist.mean)
    latents = torch.cat(means).transpose(0, 1).flatten(1)
    return latents.mean(1), latents.std(1)
