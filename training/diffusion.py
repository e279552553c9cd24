"""The diffusion process in training: timesteps and noise, what is predicted, its loss, and short sampling.

Letters in shape comments: ``B`` samples of the batch, ``C F h w`` channels, frames, height, width of latents.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from diffusers import DDIMScheduler

from training.config import LossConfig

Predict = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Noisy latents ``B C F h w`` and timesteps ``B`` -> prediction of the latents' shape."""

SAMPLING_STEPS = 10


def draw_timestep(rng: np.random.Generator, config: LossConfig, *, count: int) -> int:
    """A timestep of 0 .. count-1: uniform, or for ``timestep_bias`` of the samples one of the noisiest.

    The mini decides most of a picture at the noisiest timesteps, of which it sees few when all are equal.
    """
    first = config.noisy_from if rng.random() < config.timestep_bias else 0
    return int(rng.integers(first, count))


def draw_noise(rng: np.random.Generator, shape: tuple[int, ...], *, share: bool) -> torch.Tensor:
    """Standard normal float32 noise for one sample, on the CPU: the same on every machine.

    Args:
        rng: of this sample.
        shape: ``C F h w``.
        share: give all frames the noise of the first.
    """
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    noise = torch.randn(shape, generator=generator)
    return noise[:, :1].expand(shape) if share else noise


def target(
    scheduler: DDIMScheduler, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """What the denoiser should predict, of the shape of ``clean``: the noise, or the velocity.

    Source of the velocity: "Progressive Distillation for Fast Sampling of Diffusion Models", appendix D.
    """
    if scheduler.config.prediction_type == "epsilon":
        return noise
    return scheduler.get_velocity(clean, noise, timesteps)


def snr(scheduler: DDIMScheduler, timesteps: torch.Tensor) -> torch.Tensor:
    """Signal-to-noise ratio ``alpha_bar / (1 - alpha_bar)`` of timesteps ``B``; float32, 0 or more."""
    kept = scheduler.alphas_cumprod.to(timesteps.device)[timesteps].float()
    return kept / (1 - kept)


def min_snr_weight(scheduler: DDIMScheduler, timesteps: torch.Tensor, gamma: float) -> torch.Tensor:
    """Weights ``B`` of the squared error: ``min(SNR, gamma)`` in terms of the clean latents.

    The error of predicted noise is SNR times that of the clean latents, the error of the velocity SNR + 1
    times; so the weight is divided by SNR or SNR + 1. At the pure noise of a zero terminal SNR the first
    tends to 1, the second is 0.

    Source: Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy", section 3.4.
    """
    ratio = snr(scheduler, timesteps)
    clipped = ratio.clamp(max=gamma)
    if scheduler.config.prediction_type == "epsilon":
        return torch.where(ratio > 0, clipped / ratio, 1.0)
    return clipped / (ratio + 1)


def denoising_losses(
    scheduler: DDIMScheduler,
    config: LossConfig,
    predicted: torch.Tensor,
    clean: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    *,
    channel_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Weighted mean squared error of each sample, float32 ``B``.

    Args:
        scheduler: noise schedule and kind of prediction.
        config: weighting.
        predicted, clean, noise: ``B C F h w``.
        timesteps: ``B``.
        channel_weights: ``C``, with mean 1.
    """
    error = (predicted.float() - target(scheduler, clean, noise, timesteps).float()).square()
    if channel_weights is not None:
        error = error * channel_weights.view(-1, 1, 1, 1)
    losses = error.flatten(1).mean(1)
    if config.min_snr_gamma:
        losses = losses * min_snr_weight(scheduler, timesteps, config.min_snr_gamma)
    return losses


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
