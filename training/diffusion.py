"""The diffusion part that the denoising stages share: the loss of a batch, and sampling for pictures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from diffusers import DDIMScheduler

Predict = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Noisy latents ``B ...`` and timesteps ``B`` -> predicted velocity of the latents' shape."""

SAMPLING_STEPS = 10


def velocity_loss(
    scheduler: DDIMScheduler,
    clean: torch.Tensor,
    predict: Predict,
    rng: np.random.Generator,
    *,
    share_noise: bool = False,
    share_timestep: int = 1,
    noisy_share: float = 0.0,
    noisy_from: int = 600,
    weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean squared error of the predicted velocity at random timesteps.

    Args:
        scheduler: noise schedule.
        clean: latents ``B ...``; a timestep is drawn for each of the batch.
        predict: the networks.
        rng: of this step; the noise itself comes from torch's generator.
        share_noise: give all frames of a clip (``B C F h w``) the same noise.
        share_timestep: so many neighbours in the batch get the same timestep, as they share a reference.
        noisy_share: this share of the timesteps is drawn from ``noisy_from`` up only.
        noisy_from: timestep.
        weight: of each latent channel in the mean, broadcast against ``clean``.
    """
    last = scheduler.config.num_train_timesteps
    lowest = np.where(rng.random(len(clean) // share_timestep) < noisy_share, noisy_from, 0)
    timesteps = torch.from_numpy(rng.integers(lowest, last)).repeat_interleave(share_timestep)
    noise = torch.randn_like(clean)
    if share_noise:
        noise = noise[:, :, :1].expand_as(clean)
    noisy = scheduler.add_noise(clean, noise, timesteps)
    with torch.autocast("cpu", torch.bfloat16):
        predicted = predict(noisy, timesteps)
    error = (predicted.float() - scheduler.get_velocity(clean, noise, timesteps)).square()
    return (error if weight is None else error * weight).mean()


@torch.no_grad()
def sample_latents(scheduler: DDIMScheduler, shape: tuple[int, ...], predict: Predict) -> torch.Tensor:
    """Denoise the same noise each time it is called, in a few steps; returns latents of ``shape``.

    All frames of a clip (``B C F h w``) begin with the same noise, as the mini is used.
    """
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    if len(shape) == 5:
        latents = latents[:, :, :1].expand(shape)
    scheduler.set_timesteps(SAMPLING_STEPS)
    for timestep in scheduler.timesteps:
        with torch.autocast("cpu", torch.bfloat16):
            velocity = predict(latents, timestep.expand(shape[0])).float()
        latents = scheduler.step(velocity, timestep, latents).prev_sample
    return latents
