"""The sampling loop by itself: the paper's networks and nothing around them give what the pipeline gives."""

from __future__ import annotations

import numpy as np
import torch

from magicanimate.acceleration.options import OptimizationConfig
from magicanimate.models.hybrid_attention import hybrid_attention
from magicanimate.pipeline import MagicAnimatePipeline
from magicanimate.sampling import denoise, paper_networks
from magicanimate.windows import WindowPlan
from tests.conftest import ROOT
from tests.rounding import assert_same_but_for_rounding


def test_the_paper_fits_on_one_screen():
    assert len((ROOT / "magicanimate" / "sampling.py").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_loop_without_a_pipeline(tiny_model):
    """Guidance, three windows that overlap, two steps."""
    pipe = MagicAnimatePipeline.from_pretrained(tiny_model)
    rng, plan = np.random.default_rng(0), WindowPlan(context_length=4, context_overlap=2)
    photo = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    poses = rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    settings = {"num_inference_steps": 2, "guidance_scale": 2.5, "windows": plan, "output_type": "latent"}
    steps = []
    pipe(photo, poses, seed=3, on_step=lambda _, latents, __: steps.append(latents), **settings)
    with torch.inference_mode(), hybrid_attention(pipe.unet, fusion="midup") as readers:
        text = pipe.encode_text("", "", guided=True)
        networks = paper_networks(
            pipe.unet,
            pipe.appearance_encoder,
            [(pipe.controlnet, poses)],
            readers,
            photo=pipe.encode_image(photo),
            text=text,
        )
        generator = torch.Generator().manual_seed(3)
        pipe.scheduler.set_timesteps(2)
        found = denoise(
            pipe.prepare_latents(8, (32, 32), generator=generator),
            pipe.scheduler,
            pipe.scheduler.timesteps,
            lambda: networks,
            plan=plan,
            guidance_scale=2.5,
            generator=generator,
            attempt=lambda step: step(),
        )
        for after, (latents, _) in zip(steps, found, strict=True):
            assert_same_but_for_rounding(after, latents)
    assert len(steps) == 2
    plain = pipe(photo, poses, seed=3, optimization=OptimizationConfig.plain(), **settings).latents
    assert_same_but_for_rounding(plain, steps[-1])
