"""Cheap pictures of latents, with the mini's autoencoder."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderDC
from torch.nn import functional

from magicanimate.models.autoencoder import encode_scaled
from magicanimate.preview import MOST_FRAMES, LatentPreview
from tests.conftest import ROOT


def test_colours_of_even_and_of_textured_areas():
    vae = AutoencoderDC.from_pretrained(ROOT / "assets" / "mini" / "vae").float()
    picture = torch.full((1, 3, 64, 64), -0.4)
    picture[:, 0, :, 32:] = 0.6
    picture[:, :, 32:, ::4] += 0.3  # stripes
    with torch.no_grad():
        latents = encode_scaled(vae, picture)
    preview = LatentPreview(vae)
    (seen,) = preview(latents[:, :, None])
    expected = (functional.avg_pool2d(picture, 8)[0].movedim(0, -1) + 1) * 127.5
    assert seen.shape == (8, 8, 3) and seen.dtype == np.uint8
    assert np.abs(seen.astype(float) - expected.numpy()).mean() < 20
    many = latents[:, :, None].expand(-1, -1, 40, -1, -1)
    assert preview(many).shape == (MOST_FRAMES, 8, 8, 3)
