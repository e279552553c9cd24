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
from training.data.draws import Stream, generator
from training.pictures import psnr, save_grid

SAMPLED = 16


class VaeStage(nn.Module):
    """Reconstruction: squared and absolute error of the pixels, absolute error of image gradients.

    Args:
        config: of the stage.
        vae: the autoencoder to train.
        samples: of the training data, bare pictures.
        held_out: samples to show.
    """

    def __init__(self, config: StageConfig, vae: AutoencoderDC, *, samples: Dataset, held_out: Dataset):
        super().__init__()
        self.config, self.vae, self.samples, self.held_out = config, vae, samples, held_out

    def forward(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Losses ``B`` of a batch of samples that know their ``index``."""
        rngs = [self._generator(index) for index in batch["index"].tolist()]
        pictures = batch["target"][:, 0].float() / 127.5 - 1
        images = torch.cat([self._disturbed(image, rng) for image, rng in zip(pictures, rngs, strict=True)])
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
        return generator(Stream.DISTURBANCE, self.config.seed, step, place)

    def _disturbed(self, image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """A random crop of ``3 H W`` in other colours, ``1 3 h w``; some are halved in size."""
        crop, halved = self.config.crop, self.config.halved_share
        if crop:
            cut = 2 * crop if halved and rng.random() < halved else crop
            y, x = (int(rng.integers(size - cut + 1)) for size in image.shape[1:])
            image = functional.adaptive_avg_pool2d(image[:, y : y + cut, x : x + cut], crop)
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


def jitter_colours(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Random channel order, gain and offset per image (``B 3 H W`` in [-1, 1]).

    The autoencoder must reproduce photographs whose colours the renderer never draws.
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
    """Mean absolute error of the differences to the neighbours beside and below, ``B C H W`` -> ``B``."""
    across = functional.l1_loss(a.diff(dim=-1), b.diff(dim=-1), reduction="none").mean(dim=(1, 2, 3))
    down = functional.l1_loss(a.diff(dim=-2), b.diff(dim=-2), reduction="none").mean(dim=(1, 2, 3))
    return across + down


@torch.no_grad()
def change_basis(vae: AutoencoderDC, basis: torch.Tensor) -> None:
    """Fold a change of the latents' basis into the convolutions around them; decoding stays what it was.

    Args:
        vae: autoencoder without shortcuts around its latents.
        basis: ``C C``; the new latents are ``basis @ latents`` at every position.
    """
    encoded, decoded = vae.encoder.conv_out, vae.decoder.conv_in
    encoded.weight.copy_(torch.einsum("kc,cihw->kihw", basis, encoded.weight))
    encoded.bias.copy_(basis @ encoded.bias)
    decoded.weight.copy_(torch.einsum("ochw,ck->okhw", decoded.weight, torch.linalg.inv(basis)))


@torch.no_grad()
def latent_basis(
    vae: AutoencoderDC, samples: Dataset, *, images: int = 512, probed: int = 24
) -> torch.Tensor:
    """Basis ``C C`` in which the latents are the principal components of the picture, each of unit size.

    Trained for nothing but reconstruction, an autoencoder mixes brightness and grain in every channel, and
    its latents are nearly as rough as noise. A denoiser learns much sooner when the first channels carry what
    shows most and the last ones grain. The principal components are taken where distance means change of
    pixels: the latents are first weighed by the root of the decoder's mean gain ``J^T J``.

    Args:
        vae: trained autoencoder.
        samples: training pictures.
        images: so many of them for the size of the latents.
        probed: so many of them for the gain, measured by changing one channel at a time.
    """
    batches = [range(first, min(first + 32, images)) for first in range(0, images, 32)]
    pictures = (default_collate([samples[k] for k in b])["target"][:, 0] for b in batches)
    encoded = [vae.encode(p.to(vae.device)).latent for p in pictures]
    flat = torch.cat(encoded).cpu().double().movedim(1, -1).flatten(0, -2)  # (N h w) C
    size = flat.T @ flat / len(flat)
    gain = _gain(vae, torch.cat(encoded)[:probed])
    values, vectors = torch.linalg.eigh(gain)
    root = vectors @ torch.diag(values.clamp_min(1e-9 * values.max()).sqrt()) @ vectors.T
    energy, directions = torch.linalg.eigh(root @ size @ root)
    energy, directions = energy.flip(0), directions.flip(1)
    return (directions.T @ root / energy.sqrt()[:, None]).float()


def _gain(vae: AutoencoderDC, latents: torch.Tensor, *, step: float = 0.1) -> torch.Tensor:
    """Squared change of the pixels per squared change of a position's latents, float64 ``C C``."""
    rms = latents.square().mean(dim=(0, 2, 3)).sqrt()
    picture, changes = vae.decode(latents).sample, []
    for channel, size in enumerate(rms):
        moved = latents.clone()
        moved[:, channel] += step * size
        changes.append(((vae.decode(moved).sample - picture) / (step * size)).flatten().cpu())
    changes = torch.stack(changes).double()
    return changes @ changes.T / latents[:, 0].numel()
