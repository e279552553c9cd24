"""Latents of samples: encoded when needed, unless the samples bring precomputed ones.

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
    """Loss weights of the latent channels, ``C`` with mean 1, by how much each changes the decoded image.

    All channels have unit variance, but some carry the image and others only its grain. The weight is the
    square root of the root mean square change of the pixels ``N 3 H W`` when a channel is shifted a little.
    """
    here = latents.encode(pixels)[:, :, None]
    before, changes = latents.decode(here), []
    for channel in range(here.shape[1]):
        moved = here.clone()
        # A tenth of the channel's standard deviation: small, but well above rounding.
        moved[:, channel] += 0.1
        changes.append((latents.decode(moved) - before).square().mean().sqrt())
    weights = torch.stack(changes).sqrt()
    return weights / weights.mean()


def weights_digest(network: nn.Module) -> str:
    """SHA-256 of a network's weights and their names, shortened to 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        # As raw bytes: numpy has no bfloat16.
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


class Latents:
    """Encodes samples with the frozen autoencoder, and decodes latents.

    Args:
        vae: the autoencoder, on the device of the training; it is frozen and set to evaluation mode.
        precision: of the encoder's arithmetic, as `StageConfig.mixed_precision`, but not "auto".
    """

    def __init__(self, vae: Autoencoder, *, precision: Precision = "no"):
        self.vae = vae.requires_grad_(False).eval()
        self.format = FORMATS.get(precision)

    def target(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Latents of the target frames, float32 ``B C F h w``."""
        if "latents" in batch:
            return batch["latents"].transpose(1, 2)
        frames = batch["target"]
        return self.encode(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).transpose(1, 2)

    def reference(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Latents of the references, float32 ``B C h w``."""
        if "reference_latents" in batch:
            return batch["reference_latents"]
        return self.encode(batch["reference"])

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode images ``N 3 H W`` in [-1, 1], on any device: float32 ``N C h w`` on the autoencoder's."""
        device = self.vae.device
        with torch.autocast(device.type, self.format, enabled=self.format is not None):
            # A few images at a time, as the encoder's activations at full size take the most memory of all.
            parts = pixels.split(ENCODED_AT_ONCE if device.type == "cpu" else ENCODED_ON_GPU)
            return torch.cat([encode_scaled(self.vae, part.to(device)).float() for part in parts])

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode latents, float32 ``B C F h w``, to images ``B F 3 H W`` in [-1, 1]."""
        flat = latents.transpose(1, 2).flatten(0, 1)
        pixels = torch.cat([decode_scaled(self.vae, part) for part in flat.split(ENCODED_AT_ONCE)])
        return pixels.clamp(-1, 1).unflatten(0, (latents.shape[0], latents.shape[2]))
