"""The autoencoder's stage."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from tests.dancer_files import write_boxes
from tests.training_runs import losses, train
from training.config import OptimizerConfig
from training.initial_networks import NewNetworks
from training.presets import preset, tiny_network
from training.stages.vae import VaeStage, change_basis, gradient_loss, latent_basis


def test_vae_learns(tmp_path):
    data = write_boxes(tmp_path / "boxes")
    fast = OptimizerConfig(warmup_steps=5, ema_decay=0.9)
    run = losses(train("vae", data, tmp_path, steps=150, crop=0, optimizer=fast, sample_every=1000))
    assert sum(run[-20:]) / 20 < 0.6 * sum(run[:3]) / 3


def test_crops_of_twice_the_size_are_halved(tmp_path):
    config, network = preset("tiny", "vae")
    checks = (torch.arange(64) % 2).float().expand(3, 64, 64)  # columns of one pixel, which halving blends
    for share, contrast in ((0.0, True), (1.0, False)):
        vae = NewNetworks(network).autoencoder()
        stage = VaeStage(replace(config, halved_share=share), vae, samples=[], held_out=[])
        crop = stage._disturbed(checks, np.random.default_rng(0))
        assert crop.shape == (1, 3, 16, 16)
        assert bool(crop.std(-1).max() > 0.1) == contrast


def test_latents_become_principal_components_of_the_picture():
    """Of unit size, uncorrelated, most visible first; and the decoded picture stays what it was."""
    torch.manual_seed(0)
    vae = NewNetworks(tiny_network()).autoencoder().eval()
    images = torch.randn(48, 1, 3, 32, 32)
    samples = [{"target": image} for image in images]
    with torch.no_grad():
        picture = vae.decode(vae.encode(images[:4, 0]).latent).sample
        change_basis(vae, latent_basis(vae, samples, images=48))
        after = vae.encode(images[:, 0]).latent
        flat = after.movedim(1, -1).flatten(0, -2)
        torch.testing.assert_close(flat.T @ flat / len(flat), torch.eye(4), atol=1e-3, rtol=0)
        torch.testing.assert_close(vae.decode(after[:4]).sample, picture, atol=1e-4, rtol=1e-3)
        shown = vae.decode(after[:24]).sample
        moved = [after[:24] + 0.05 * torch.eye(4)[k].view(4, 1, 1) for k in range(4)]
        changes = [float((vae.decode(m).sample - shown).square().mean()) for m in moved]
    assert changes == sorted(changes, reverse=True)


def test_gradient_loss_sees_edges_and_not_brightness():
    flat = torch.zeros(2, 3, 8, 8)
    edge = flat.clone()
    edge[1, :, :, 4:] = 1.0
    assert gradient_loss(flat + 0.5, flat).tolist() == [0.0, 0.0]
    loss = gradient_loss(edge, flat)
    assert loss[0] == 0 and abs(loss[1].item() - 1 / 7) < 1e-6
