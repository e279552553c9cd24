"""The autoencoder's stage."""

from __future__ import annotations

import torch

from tests.dancer_files import write_boxes
from tests.training_runs import losses, train
from training.config import OptimizerConfig
from training.networks import build_vae
from training.presets import tiny_network
from training.stages.vae import gradient_loss, normalize_latents


def test_vae_learns(tmp_path):
    data = write_boxes(tmp_path / "boxes")
    fast = OptimizerConfig(warmup_steps=5, ema_decay=0.9)
    run = losses(train("vae", data, tmp_path, steps=150, crop=0, optimizer=fast, sample_every=1000))
    assert sum(run[-20:]) / 20 < 0.6 * sum(run[:3]) / 3


def test_normalized_latents_decode_to_the_same_picture():
    torch.manual_seed(0)
    vae = build_vae(tiny_network()).eval()
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        before = vae.encode(images).latent
        picture = vae.decode(before).sample
        normalize_latents(vae, before.square().mean(dim=(0, 2, 3)).sqrt())
        after = vae.encode(images).latent
        torch.testing.assert_close(after.square().mean(dim=(0, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)
        torch.testing.assert_close(vae.decode(after).sample, picture, atol=1e-4, rtol=1e-3)


def test_gradient_loss_sees_edges_and_not_brightness():
    flat = torch.zeros(2, 3, 8, 8)
    edge = flat.clone()
    edge[1, :, :, 4:] = 1.0
    assert gradient_loss(flat + 0.5, flat).tolist() == [0.0, 0.0]
    loss = gradient_loss(edge, flat)
    assert loss[0] == 0 and abs(loss[1].item() - 1 / 7) < 1e-6
