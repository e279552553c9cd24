"""Stage "vae": the image autoencoder, on random crops."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderDC
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset, default_collate

from training.config import StageConfig
from training.data import jitter_colours
from training.pictures import psnr, save_grid

SAMPLED = 16
DISTURBANCE_STREAM = 1  # beside the numbers that the sample's data are drawn from


class VaeStage(nn.Module):
    """Reconstruction: squared and absolute error of the pixels, absolute error of image gradients.

    Args:
        config: of the stage.
        vae: the autoencoder to train.
        samples: of the training data; only the first picture of "target" is used.
        held_out: samples to show.
    """

    def __init__(self, config: StageConfig, vae: AutoencoderDC, *, samples: Dataset, held_out: Dataset):
        super().__init__()
        self.config, self.vae, self.samples, self.held_out = config, vae, samples, held_out

    def forward(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Losses ``B`` of a batch of samples that know their ``index``."""
        rngs = [self._generator(index) for index in batch["index"].tolist()]
        images = torch.cat(
            [self._disturbed(image, rng) for image, rng in zip(batch["target"][:, 0], rngs, strict=True)]
        )
        latents = self.vae.encode(images).latent
        spread = latents.detach().float().std(dim=(0, 2, 3), keepdim=True)  # of this process's pictures
        noise = torch.stack([_normal(rng, latents.shape[1:]) for rng in rngs]).to(latents.device)
        decoded = self.vae.decode(latents + self.config.latent_noise * spread * noise).sample.float()
        return (
            functional.mse_loss(decoded, images, reduction="none").mean(dim=(1, 2, 3))
            + 0.1 * functional.l1_loss(decoded, images, reduction="none").mean(dim=(1, 2, 3))
            + self.config.gradient_weight * gradient_loss(decoded, images)
        )

    def _generator(self, index: int) -> np.random.Generator:
        step, place = divmod(index, self.config.samples_a_step)
        return np.random.default_rng([self.config.seed, step, place, DISTURBANCE_STREAM])

    def _disturbed(self, image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """A random crop of ``3 H W`` in other colours, ``1 3 h w``."""
        crop = self.config.crop
        if crop:
            y, x = (int(rng.integers(size - crop + 1)) for size in image.shape[1:])
            image = image[:, y : y + crop, x : x + crop]
        return jitter_colours(image[None], rng)

    @torch.no_grad()
    def sample(self, step: int, folder: Path) -> dict[str, float]:
        """Held-out pictures and their reconstructions, and the error of these."""
        count = min(SAMPLED, len(self.held_out))
        images = default_collate([self.held_out[k] for k in range(count)])["target"][:, 0]
        decoded = self.vae.decode(self.vae.encode(images.to(self.vae.device)).latent).sample.float().cpu()
        save_grid(folder / f"{step:06d}.png", [images[:8], decoded[:8]])
        return {"psnr": psnr(decoded, images)}


def _normal(rng: np.random.Generator, shape: torch.Size) -> torch.Tensor:
    return torch.from_numpy(rng.standard_normal(tuple(shape), dtype=np.float32))


def gradient_loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mean absolute error of the differences to the neighbours beside and below, ``B C H W`` -> ``B``."""
    across = functional.l1_loss(a.diff(dim=-1), b.diff(dim=-1), reduction="none").mean(dim=(1, 2, 3))
    down = functional.l1_loss(a.diff(dim=-2), b.diff(dim=-2), reduction="none").mean(dim=(1, 2, 3))
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
def latent_scale(vae: AutoencoderDC, samples: Dataset, *, images: int = 512) -> torch.Tensor:
    """Root mean square of the latents per channel, over the first so many samples."""
    squares = []
    for first in range(0, images, 32):
        batch = default_collate([samples[k] for k in range(first, first + 32)])["target"][:, 0]
        squares.append(vae.encode(batch).latent.square().mean(dim=(0, 2, 3)))
    return torch.stack(squares).mean(0).sqrt()
