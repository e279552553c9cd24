"""Sampling, for pictures of how far a training is, and for a decoder that learns from them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import DDIMScheduler

Predict = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Noisy latents ``B C F h w`` and timesteps ``B`` -> prediction of the latents' shape."""

SAMPLING_STEPS = 10


def same_noise(like: torch.Tensor) -> torch.Tensor:
    """The same noise each time it is called, of the shape ``B C F h w`` and device of ``like``.

    All frames of a clip have the same noise, as the mini is used.
    """
    shape = like.shape
    noise = torch.randn(shape[:2] + (1,) + shape[3:], generator=torch.Generator().manual_seed(1))
    return noise.expand(shape).to(like.device)


@torch.no_grad()
def sample_latents(
    scheduler: DDIMScheduler, noise: torch.Tensor, predict: Predict, *, steps: int = SAMPLING_STEPS
) -> torch.Tensor:
    """Denoise in a few steps.

    Args:
        scheduler: noise schedule; a copy of it is used.
        noise: ``B C F h w``.
        predict: the networks.
        steps: of the sampling.

    Returns:
        Latents of the shape of ``noise``, float32.
    """
    latents = noise
    scheduler = DDIMScheduler.from_config(scheduler.config)
    scheduler.set_timesteps(steps)  # on the CPU, where the scheduler looks them up without a wait
    for timestep in scheduler.timesteps:
        predicted = predict(latents, timestep.to(noise.device).expand(len(noise))).float()
        latents = scheduler.step(predicted, timestep, latents).prev_sample
    return latents
