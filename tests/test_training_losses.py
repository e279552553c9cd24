"""The denoisers' loss against the formulas it is made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from magicanimate.errors import InputError
from training.config import LossConfig
from training.diffusion import denoising_losses, draw_noise, draw_timestep, min_snr_weight, snr, target
from training.initial_networks import build_scheduler

TIMESTEPS = torch.tensor([0, 250, 500, 998])


def kept(scheduler, timesteps=TIMESTEPS) -> torch.Tensor:
    """alpha_bar from the betas' definition."""
    betas = torch.linspace(0.00085, 0.012, 1000, dtype=torch.float64)
    bar = torch.cumprod(1 - betas, 0)
    if scheduler.config.rescale_betas_zero_snr:
        root = bar.sqrt()
        bar = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    return bar[timesteps].float()


@pytest.mark.parametrize("zero", [False, True])
def test_snr_is_that_of_the_linear_schedule(zero):
    scheduler = build_scheduler("v_prediction", zero_terminal_snr=zero)
    expected = kept(scheduler) / (1 - kept(scheduler))
    torch.testing.assert_close(snr(scheduler, TIMESTEPS), expected, rtol=2e-3, atol=1e-6)
    last = snr(scheduler, torch.tensor([999])).item()
    assert (last == 0) if zero else (last > 0.001)


def test_zero_snr_refuses_predicted_noise():
    with pytest.raises(InputError, match="v_prediction"):
        build_scheduler("epsilon", zero_terminal_snr=True)


def test_targets_are_noise_or_velocity():
    clean, noise = torch.randn(2, 4, 3, 4, 2, 2)
    epsilon = build_scheduler("epsilon", zero_terminal_snr=False)
    assert torch.equal(target(epsilon, clean, noise, TIMESTEPS), noise)
    velocity = build_scheduler("v_prediction", zero_terminal_snr=True)
    a = kept(velocity).view(-1, 1, 1, 1, 1)
    expected = a.sqrt() * noise - (1 - a).sqrt() * clean
    torch.testing.assert_close(target(velocity, clean, noise, TIMESTEPS), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_min_snr_weighs_the_error_of_the_clean_latents(prediction):
    """Whatever is predicted, the weighted loss is min(SNR, gamma) times the squared error of the latents."""
    scheduler = build_scheduler(prediction, zero_terminal_snr=False)
    clean, noise, wrong = torch.randn(3, 4, 3, 1, 4, 4, dtype=torch.float64)
    a = scheduler.alphas_cumprod[TIMESTEPS].double().view(-1, 1, 1, 1, 1)
    noisy = a.sqrt() * clean + (1 - a).sqrt() * noise
    if prediction == "epsilon":
        guess = (noisy - (1 - a).sqrt() * wrong) / a.sqrt()
    else:
        guess = a.sqrt() * noisy - (1 - a).sqrt() * wrong
    losses = denoising_losses(
        scheduler, LossConfig(prediction, min_snr_gamma=5.0), wrong, clean, noise, TIMESTEPS
    )
    error = (guess - clean).square().flatten(1).mean(1)
    expected = snr(scheduler, TIMESTEPS).clamp(max=5.0) * error
    torch.testing.assert_close(losses, expected.float(), rtol=1e-3, atol=1e-6)


def test_min_snr_at_pure_noise():
    zero = build_scheduler("v_prediction", zero_terminal_snr=True)
    assert min_snr_weight(zero, torch.tensor([999]), 5.0).item() == 0
    weights = min_snr_weight(zero, torch.arange(1000), 5.0)
    assert weights.isfinite().all()


def test_loss_without_weighting_is_the_mean_squared_error():
    scheduler = build_scheduler("epsilon", zero_terminal_snr=False)
    predicted, clean, noise = torch.randn(3, 4, 3, 2, 4, 4)
    losses = denoising_losses(scheduler, LossConfig(), predicted, clean, noise, TIMESTEPS)
    expected = ((predicted - noise) ** 2).mean(dim=(1, 2, 3, 4))
    torch.testing.assert_close(losses, expected)


def test_channels_can_weigh_differently():
    scheduler = build_scheduler("epsilon", zero_terminal_snr=False)
    predicted, clean, noise = torch.randn(3, 4, 3, 2, 4, 4)
    weights = torch.tensor([0.0, 0.0, 3.0])
    losses = denoising_losses(
        scheduler, LossConfig(), predicted, clean, noise, TIMESTEPS, channel_weights=weights
    )
    torch.testing.assert_close(losses, ((predicted - noise)[:, 2] ** 2).mean(dim=(1, 2, 3)))


def test_timestep_bias_is_a_share_of_the_noisiest():
    config = LossConfig(timestep_bias=0.5, noisy_from=800)
    rng = np.random.default_rng(0)
    drawn = np.array([draw_timestep(rng, config, count=1000) for _ in range(4000)])
    assert drawn.min() < 20 and drawn.max() > 980
    assert (drawn >= 800).mean() == pytest.approx(0.5 + 0.5 * 0.2, abs=0.03)
    plain = [draw_timestep(rng, replace(config, timestep_bias=0.0), count=1000) for _ in range(4000)]
    assert (np.array(plain) >= 800).mean() == pytest.approx(0.2, abs=0.03)


def test_noise_is_standard_normal_and_shared_by_frames_if_wanted():
    noise = draw_noise(np.random.default_rng(0), (4, 3, 32, 32), share=False)
    assert noise.mean().item() == pytest.approx(0, abs=0.03)
    assert noise.std().item() == pytest.approx(1, abs=0.03)
    assert not torch.equal(noise[:, 0], noise[:, 1])
    shared = draw_noise(np.random.default_rng(0), (4, 3, 32, 32), share=True)
    assert torch.equal(shared[:, 0], shared[:, 2])
    assert torch.equal(shared, draw_noise(np.random.default_rng(0), (4, 3, 32, 32), share=True))
