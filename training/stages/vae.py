"""Stage "vae": the mini's image autoencoder, trained on random crops; and the basis of its latents."""

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
from training.data.draws import Stream, generator
from training.pictures import psnr, save_grid

SAMPLED = 16
PROBED, PROBE = 24, 0.1
"""Images in which the decoder's gain is measured, and the change of a channel, in its standard deviations."""


class VaeStage(nn.Module):
    """Reconstruction loss: squared and absolute error of the pixels, absolute error of the image gradients.

    Args:
        config: settings of the stage.
        vae: the autoencoder to train.
        samples: training samples, uint8 pictures only (``bare``).
        held_out: validation samples.
    """

    def __init__(self, config: StageConfig, vae: AutoencoderDC, *, samples: Dataset, held_out: Dataset):
        super().__init__()
        self.config, self.vae, self.samples, self.held_out = config, vae, samples, held_out

    def forward(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Losses ``B`` of a batch of samples with their global ``index``."""
        rngs = [self._generator(index) for index in batch["index"].tolist()]
        pictures = batch["target"][:, 0].float() / 127.5 - 1
        images = torch.cat([self._disturbed(image, rng) for image, rng in zip(pictures, rngs, strict=True)])
        latents = self.vae.encode(images).latent
        # Noise in units of each channel's spread, detached: else the encoder would escape it by larger
        # latents. Of this process's images, so several processes differ slightly.
        spread = latents.detach().float().std(dim=(0, 2, 3), keepdim=True)
        shape = tuple(latents.shape[1:])
        # Drawn on the CPU, so that every device gets the same.
        noise = [torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)) for rng in rngs]
        noise = torch.stack(noise).to(latents.device)
        decoded = self.vae.decode(latents + self.config.latent_noise * spread * noise).sample.float()
        return (
            functional.mse_loss(decoded, images, reduction="none").mean(dim=(1, 2, 3))
            # The squared error alone leaves small errors everywhere, as it hardly counts them.
            + 0.1 * functional.l1_loss(decoded, images, reduction="none").mean(dim=(1, 2, 3))
            + self.config.gradient_weight * gradient_loss(decoded, images)
        )

    def _generator(self, index: int) -> np.random.Generator:
        step, place = divmod(index, self.config.samples_a_step)
        return generator(Stream.DISTURBANCE, self.config.seed, step, place)

    def _disturbed(self, image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Augment ``3 H W``: a random crop in other colours, ``1 3 h w``; some crops are halved in size."""
        crop, halved = self.config.crop, self.config.halved_share
        if crop:
            cut = 2 * crop if halved and rng.random() < halved else crop
            y, x = (int(rng.integers(size - cut + 1)) for size in image.shape[1:])
            image = functional.adaptive_avg_pool2d(image[:, y : y + cut, x : x + cut], crop)
        return jitter_colours(image[None], rng)

    @torch.no_grad()
    def sample(self, step: int, folder: Path) -> dict[str, float]:
        """Reconstruct held-out images: a sheet of both, and the PSNR."""
        count = min(SAMPLED, len(self.held_out))
        images = default_collate([self.held_out[k] for k in range(count)])["target"][:, 0]
        decoded = self.vae.decode(self.vae.encode(images.to(self.vae.device)).latent).sample.float().cpu()
        save_grid(folder / f"{step:06d}.png", [images[:8], decoded[:8]])
        return {"psnr": psnr(decoded, images)}


def jitter_colours(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Change the channel order, gain and offset of each image at random; images are ``B 3 H W`` in [-1, 1].

    The autoencoder must also reproduce photos, whose colours the renderer never draws.
    """
    order, gain, offset = [], [], []
    for _ in images:
        order.append(torch.from_numpy(rng.permutation(3)))
        gain.append(torch.from_numpy(rng.uniform(0.7, 1.3, (3, 1, 1))).float())
        offset.append(torch.from_numpy(rng.uniform(-0.2, 0.2, (3, 1, 1))).float())
    # Drawn on the CPU, the same for every device, and brought to the pictures' device in one copy each.
    order, gain, offset = (
        torch.stack(drawn).to(images.device, non_blocking=True) for drawn in (order, gain, offset)
    )
    shuffled = images.gather(1, order[:, :, None, None].expand_as(images))
    return (shuffled * gain + offset).clamp(-1, 1)


def gradient_loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """L1 distance of the horizontal and vertical image gradients, ``B C H W`` -> ``B``."""
    across = functional.l1_loss(a.diff(dim=-1), b.diff(dim=-1), reduction="none").mean(dim=(1, 2, 3))
    down = functional.l1_loss(a.diff(dim=-2), b.diff(dim=-2), reduction="none").mean(dim=(1, 2, 3))
    return across + down


@torch.no_grad()
def change_basis(vae: AutoencoderDC, basis: torch.Tensor) -> None:
    """Fold a change of basis of the latents into the convolutions around them; reconstructions stay the same.

    Args:
        vae: an autoencoder without shortcuts around its latents.
        basis: ``C C``; the new latents are ``basis @ latents`` at every position.
    """
    # encode: basis @ (W x + b); decode: W (basis^-1 z). The decoder's bias is not affected.
    encoded, decoded = vae.encoder.conv_out, vae.decoder.conv_in
    encoded.weight.copy_(torch.einsum("kc,cihw->kihw", basis, encoded.weight))
    encoded.bias.copy_(basis @ encoded.bias)
    decoded.weight.copy_(torch.einsum("ochw,ck->okhw", decoded.weight, torch.linalg.inv(basis)))


@torch.no_grad()
def latent_basis(vae: AutoencoderDC, samples: Dataset, *, images: int = 512) -> torch.Tensor:
    """A basis ``C C`` of the latents: principal components of the image, each of mean square 1.

    An autoencoder that is trained for reconstruction only mixes brightness and grain in every channel, and
    its latents are nearly as rough as noise. A denoiser learns much faster when the first channels carry what
    is most visible and the last ones grain. The principal components are those of the change of pixels, not
    of latents: the latents are first multiplied by the square root of the decoder's mean Gram matrix ``J^T
    J``.

    Args:
        vae: the trained autoencoder.
        samples: training images.
        images: how many of them to measure the latents' second moments with.
    """
    batches = [range(first, min(first + 32, images)) for first in range(0, images, 32)]
    # A generator, so that only one batch of pictures is in memory.
    pictures = (default_collate([samples[k] for k in b])["target"][:, 0] for b in batches)
    encoded = [vae.encode(p.to(vae.device)).latent for p in pictures]
    flat = torch.cat(encoded).cpu().double().movedim(1, -1).flatten(0, -2)  # (N h w) C
    # Second moments, not a covariance: the mean counts as part of the latents' size.
    size = flat.T @ flat / len(flat)
    gain = _gain(vae, torch.cat(encoded)[:PROBED])
    values, vectors = torch.linalg.eigh(gain)
    # The floor keeps channels that change nothing from a division by zero.
    root = vectors @ torch.diag(values.clamp_min(1e-9 * values.max()).sqrt()) @ vectors.T
    energy, directions = torch.linalg.eigh(root @ size @ root)
    # eigh sorts upwards; the largest component is to be the first channel.
    energy, directions = energy.flip(0), directions.flip(1)
    return (directions.T @ root / energy.sqrt()[:, None]).float()


def _gain(vae: AutoencoderDC, latents: torch.Tensor) -> torch.Tensor:
    """The decoder's mean ``J^T J``, by changes of one channel at a time, float64 ``C C``."""
    rms = latents.square().mean(dim=(0, 2, 3)).sqrt()
    picture, changes = vae.decode(latents).sample, []
    for channel, size in enumerate(rms):
        moved = latents.clone()
        moved[:, channel] += PROBE * size
        changes.append(((vae.decode(moved).sample - picture) / (PROBE * size)).flatten().cpu())
    changes = torch.stack(changes).double()
    return changes @ changes.T / latents[:, 0].numel()
