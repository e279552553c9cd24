"""Sampling, for pictures of how far a training is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import DDIMScheduler

Predict = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Noisy latents ``B C F h w`` and timesteps ``B`` -> prediction of the latents' shape."""

SAMPLING_STEPS = 10


@torch.no_grad()
def sample_latents(scheduler: DDIMScheduler, like: torch.Tensor, predict: Predict) -> torch.Tensor:
    """Denoise the same noise each time it is called, in a few steps.

    Args:
        scheduler: noise schedule; a copy of it is used.
        like: latents of the wanted shape ``B C F h w`` and device.
        predict: the networks.

    Returns:
        Latents, float32. All frames of a clip begin with the same noise, as the mini is used.
    """
    shape = like.shape
    noise = torch.randn(shape[:2] + (1,) + shape[3:], generator=torch.Generator().manual_seed(1))
    latents = noise.expand(shape).to(like.device)
    scheduler = DDIMScheduler.from_config(scheduler.config)
    scheduler.set_timesteps(SAMPLING_STEPS, device=like.device)
    for timestep in scheduler.timesteps:
        predicted = predict(latents, timestep.expand(shape[0])).float()
        latents = scheduler.step(predicted, timestep, latents).prev_sample
    return latents
