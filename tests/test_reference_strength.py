"""The strength of the photo in the attention."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import Attention

from magicanimate.config import AnimationRequest
from magicanimate.errors import InputError
from magicanimate.models.hybrid_attention import STRENGTH_POWER, HybridSelfAttention, Visibility
from magicanimate.pipeline import MagicAnimatePipeline
from magicanimate.request_checks import check_request
from tests.dancer_files import control_frames
from tests.rounding import ROUNDING, assert_same_but_for_rounding


@pytest.fixture
def attention() -> Attention:
    torch.manual_seed(0)
    return Attention(16, heads=2, dim_head=8).eval().requires_grad_(False)


def attend(attention: Attention, reference: torch.Tensor | None, strength: float = 1.0) -> torch.Tensor:
    """What three frames of five tokens become, with their own tokens and the reference's."""
    reader = HybridSelfAttention()
    reader.strength = strength
    reader.reference = reference
    attention.set_processor(reader)
    return attention(torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(1)))


def test_strength_counts_the_references_tokens(attention):
    """A key whose weight is doubled is a key that is there twice."""
    reference = torch.randn(1, 7, 16)
    twice = attend(attention, torch.cat([reference, reference], dim=1))
    assert torch.allclose(attend(attention, reference, 2 ** (1 / STRENGTH_POWER)), twice, atol=1e-6)
    assert not torch.allclose(attend(attention, reference), twice, atol=1e-3)
    assert_same_but_for_rounding(attend(attention, reference, 0.0), attend(attention, None))


def test_half_a_reference_that_is_there_twice_is_a_whole_one(attention):
    reference = torch.randn(1, 7, 16)
    halves = attend(attention, torch.cat([reference, reference], dim=1), 0.5 ** (1 / STRENGTH_POWER))
    assert torch.allclose(halves, attend(attention, reference), atol=1e-6)


def test_only_who_sees_the_reference_minds_its_strength(attention):
    reader = HybridSelfAttention()
    reader.reference = torch.randn(1, 7, 16)
    reader.visible = Visibility([False, True])
    attention.set_processor(reader)
    frames = torch.randn(2, 5, 16)
    found = {}
    for reader.strength in (1.0, 2.0):
        found[reader.strength] = attention(frames)
    assert_same_but_for_rounding(found[1.0][0], found[2.0][0])
    assert not torch.allclose(found[1.0][1], found[2.0][1], atol=1e-3)


def test_without_strength_the_photo_does_not_matter(tiny_model):
    pipe = MagicAnimatePipeline.from_pretrained(tiny_model)
    pipe.set_progress_bar_config(disable=True)
    control = control_frames(2, 32)

    def latents(photo_seed: int, strength: float) -> torch.Tensor:
        photo = np.random.default_rng(photo_seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        settings = {"num_inference_steps": 1, "guidance_scale": 2.0, "output_type": "latent"}
        return pipe(photo, control, reference_strength=strength, **settings).latents

    blind = latents(0, 0.0)
    assert_same_but_for_rounding(latents(1, 0.0), blind)
    seen = latents(0, 1.0)
    for other in (latents(1, 1.0), latents(0, 2.0)):
        assert (seen - other).abs().max() > 10 * ROUNDING * seen.abs().max()


@pytest.mark.parametrize("strength", [-0.1, 2.1, float("nan")])
def test_impossible_strengths_are_refused(tmp_path, strength):
    request = AnimationRequest(
        tmp_path / "a", tmp_path / "b", tmp_path / "c.mp4", reference_strength=strength
    )
    with pytest.raises(InputError, match="reference.strength"):
        check_request(request)
