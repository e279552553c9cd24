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
"""Noisy latents ``B C F h w`` and timesteps ``B`` -> the denoiser's prediction, ``B C F h w``."""

SAMPLING_STEPS = 10


def draw_timestep(rng: np.random.Generator, config: LossConfig, *, count: int) -> int:
    """Draw a timestep from 0 .. count - 1; a share ``timestep_bias`` of draws is from the noisiest only.

    The mini, which samples in few steps, decides most of an image at the noisiest timesteps; uniform draws
    give few of those.
    """
    first = config.noisy_from if rng.random() < config.timestep_bias else 0
    return int(rng.integers(first, count))


def draw_noise(rng: np.random.Generator, shape: tuple[int, ...], *, share: bool) -> torch.Tensor:
    """Draw standard normal noise for one sample, float32 ``C F h w``, on the CPU: the same on every machine.

    Args:
        rng: random numbers of this sample.
        shape: ``C F h w``.
        share: give all frames the noise of the first one.
    """
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    noise = torch.randn(shape, generator=generator)
    return noise[:, :1].expand(shape) if share else noise


def target(
    scheduler: DDIMScheduler, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """The target of the denoiser's prediction, of the shape of ``clean``: the noise, or the velocity.

    Source of the velocity: Salimans and Ho, "Progressive Distillation for Fast Sampling of Diffusion Models"
    (ICLR 2022), appendix D.
    """
    if scheduler.config.prediction_type == "epsilon":
        return noise
    return scheduler.get_velocity(clean, noise, timesteps)


def noise_in(
    scheduler: DDIMScheduler, noisy: torch.Tensor, clean: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """The noise that makes ``noisy`` of ``clean`` at ``timesteps`` (``B``): all ``B C F h w``.

    Of latents that were sampled, it also holds what is wrong in them; a prediction of this noise, or of the
    velocity that belongs to it, leads back to ``clean``.
    """
    kept = scheduler.alphas_cumprod.to(noisy.device)[timesteps].view(-1, 1, 1, 1, 1)
    return (noisy - kept.sqrt() * clean) / (1 - kept).sqrt()


def snr(scheduler: DDIMScheduler, timesteps: torch.Tensor) -> torch.Tensor:
    """Signal-to-noise ratio ``alpha_bar / (1 - alpha_bar)`` of timesteps ``B``: float32 ``B``, 0 or more.

    diffusers' ``compute_snr`` is the square of a quotient of roots, which rounds differently.
    """
    kept = scheduler.alphas_cumprod.to(timesteps.device)[timesteps].float()
    return kept / (1 - kept)


def min_snr_weight(scheduler: DDIMScheduler, timesteps: torch.Tensor, gamma: float) -> torch.Tensor:
    """Min-SNR weights ``B`` of the squared error of the prediction.

    The strategy weights the error of the clean latents by ``min(SNR, gamma)``. The squared error of predicted
    noise is SNR times that error, the one of the velocity SNR + 1 times; so the weight is divided by SNR or
    SNR + 1. At a terminal SNR of zero the first quotient tends to 1, the second is 0.

    Source: Hang et al., "Efficient Diffusion Training via Min-SNR Weighting Strategy" (ICCV 2023), section
    3.4.
    """
    ratio = snr(scheduler, timesteps)
    clipped = ratio.clamp(max=gamma)
    if scheduler.config.prediction_type == "epsilon":
        # At a ratio of 0 the quotient is 0 / 0; its limit is 1.
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
        scheduler: noise schedule and type of prediction.
        config: the weighting.
        predicted, clean, noise: the prediction, the clean latents and their noise, ``B C F h w``.
        timesteps: int64 ``B``.
        channel_weights: weights of the latent channels, ``C`` with mean 1; equal when ``None``.
    """
    # In float32: with fp16 the square of a small error would vanish.
    error = (predicted.float() - target(scheduler, clean, noise, timesteps).float()).square()
    if channel_weights is not None:
        error = error * channel_weights.view(-1, 1, 1, 1)
    # Per sample, not per batch, since each has a timestep of its own to be weighted by.
    losses = error.flatten(1).mean(1)
    if config.min_snr_gamma:
        losses = losses * min_snr_weight(scheduler, timesteps, config.min_snr_gamma)
    return losses


def same_noise(like: torch.Tensor) -> torch.Tensor:
    """The same noise in every call, of the shape ``B C F h w`` and on the device of ``like``.

    All frames of a clip share it, as in the mini's pipeline (``noise_period`` 1).
    """
    shape = like.shape
    noise = torch.randn(shape[:2] + (1,) + shape[3:], generator=torch.Generator().manual_seed(1))
    return noise.expand(shape).to(like.device)


@torch.no_grad()
def sample_latents(
    scheduler: DDIMScheduler,
    noise: torch.Tensor,
    predict: Predict,
    *,
    steps: int = SAMPLING_STEPS,
    taken: int | None = None,
) -> torch.Tensor:
    """Sample latents by DDIM in a few steps, without guidance.

    Args:
        scheduler: the noise schedule; it is copied, not changed.
        noise: ``B C F h w``.
        predict: the networks.
        steps: sampling steps.
        taken: how many of them are taken; all when ``None``.

    Returns:
        Latents, float32, of the shape of ``noise``.
    """
    latents = noise
    scheduler = DDIMScheduler.from_config(scheduler.config)
    scheduler.set_timesteps(steps)  # on the CPU, where the scheduler looks them up without a wait
    for timestep in scheduler.timesteps[:taken]:
        predicted = predict(latents, timestep.to(noise.device).expand(len(noise))).float()
        latents = scheduler.step(predicted, timestep, latents).prev_sample
    return latents
