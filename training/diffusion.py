"""The diffusion part that the denoising stages share: the loss of a batch, and sampling for pictures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch.nn import functional

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
) -> torch.Tensor:
    """Mean squared error of the predicted velocity at random timesteps.

    Args:
        scheduler: noise schedule.
        clean: latents ``B ...``; one timestep is drawn for each of the batch.
        predict: the networks.
        rng: of this step; the noise itself comes from torch's generator.
        share_noise: give all frames of a clip (``B C F h w``) the same noise.
    """
    timesteps = torch.from_numpy(rng.integers(scheduler.config.num_train_timesteps, size=len(clean)))
    noise = torch.randn_like(clean)
    if share_noise:
        noise = noise[:, :, :1].expand_as(clean)
    noisy = scheduler.add_noise(clean, noise, timesteps)
    with torch.autocast("cpu", torch.bfloat16):
        predicted = predict(noisy, timesteps)
    return functional.mse_loss(predicted.float(), scheduler.get_velocity(clean, noise, timesteps))


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
