"""Cheap pictures of latents, with the mini's autoencoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import AutoencoderDC
from PIL import Image
from torch.nn import functional

from magicanimate.models.autoencoder import MOST_FRAMES, LatentPreview, decode_scaled, encode_scaled
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def vae() -> AutoencoderDC:
    return AutoencoderDC.from_pretrained(ROOT / "assets" / "mini" / "vae").float()


def test_a_preview_is_close_to_what_the_decoder_makes(vae):
    photo = Image.open(ROOT / "assets" / "examples" / "arms_photo.jpg").convert("RGB").resize((128, 128))
    pixels = torch.from_numpy(np.array(photo)).movedim(-1, 0)[None] / 127.5 - 1
    with torch.no_grad():
        latents = encode_scaled(vae, pixels)
        decoded = functional.avg_pool2d(decode_scaled(vae, latents).clamp(-1, 1), 2)
    (seen,) = LatentPreview(vae)(latents[:, :, None])
    assert seen.shape == (64, 64, 3) and seen.dtype == np.uint8
    error = seen / 127.5 - 1 - decoded[0].movedim(0, -1).numpy()
    assert 10 * np.log10(4 / (error**2).mean()) > 25


def test_few_and_small_frames(vae):
    preview = LatentPreview(vae)
    channels = vae.config.latent_channels
    assert preview(torch.zeros(1, channels, 40, 8, 12)).shape == (MOST_FRAMES, 32, 48, 3)
    assert preview(torch.zeros(1, channels, 3, 64, 48)).shape == (3, 128, 96, 3)
    assert preview(torch.zeros(1, channels, 1, 100, 20)).shape == (1, 100, 20, 3)
