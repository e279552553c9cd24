"""Latents of samples: encoded when needed, unless they come with the samples.

Letters in shape comments: ``B`` samples, ``F`` frames, ``H W`` pixels, ``C h w`` channels and size of the
latents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from magicanimate.models.autoencoder import Autoencoder, decode_scaled, encode_scaled
from training.config import Precision

ENCODED_AT_ONCE = 8  # on a CPU, which keeps so few in its caches
ENCODED_ON_GPU = 64
FORMATS = {"bf16": torch.bfloat16, "fp16": torch.float16}


@torch.no_grad()
def channel_weights(latents: Latents, pixels: torch.Tensor) -> torch.Tensor:
    """Weight of each latent channel, ``C`` with mean 1: how much it shows in pictures ``N 3 H W``.

    The root of the change of the pixels per change of the channel: all channels have unit size, but some
    carry the picture and others only its grain.
    """
    here = latents.encode(pixels)[:, :, None]
    before, changes = latents.decode(here), []
    for channel in range(here.shape[1]):
        moved = here.clone()
        moved[:, channel] += 0.1
        changes.append((latents.decode(moved) - before).square().mean().sqrt())
    weights = torch.stack(changes).sqrt()
    return weights / weights.mean()


def weights_digest(network: nn.Module) -> str:
    """Tells a network's weights from any other's, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


class Latents:
    """The frozen autoencoder's view of samples.

    Args:
        vae: the autoencoder, in evaluation mode, on the device of the training.
        precision: number format of the encoder's arithmetic, as a training's `mixed_precision`, not "auto".
    """

    def __init__(self, vae: Autoencoder, *, precision: Precision = "no"):
        self.vae = vae.requires_grad_(False).eval()
        self.format = FORMATS.get(precision)

    def target(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Of the frames to be denoised, float32 ``B C F h w``."""
        if "latents" in batch:
            return batch["latents"].transpose(1, 2)
        frames = batch["target"]
        return self.encode(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).transpose(1, 2)

    def reference(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Of the references, float32 ``B C h w``."""
        if "reference_latents" in batch:
            return batch["reference_latents"]
        return self.encode(batch["reference"])

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """``N 3 H W`` in [-1, 1], on any device -> float32 ``N C h w`` on the autoencoder's.

        A few pictures at a time.
        """
        device = self.vae.device
        with torch.autocast(device.type, self.format, enabled=self.format is not None):
            parts = pixels.split(ENCODED_AT_ONCE if device.type == "cpu" else ENCODED_ON_GPU)
            return torch.cat([encode_scaled(self.vae, part.to(device)).float() for part in parts])

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Float32 ``B C F h w`` -> ``B F 3 H W`` in [-1, 1]."""
        flat = latents.transpose(1, 2).flatten(0, 1)
        pixels = torch.cat([decode_scaled(self.vae, part) for part in flat.split(ENCODED_AT_ONCE)])
        return pixels.clamp(-1, 1).unflatten(0, (latents.shape[0], latents.shape[2]))
