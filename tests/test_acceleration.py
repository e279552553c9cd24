"""Each speed-up gives the plain loop's result within rounding, and leaves the networks as they were."""

from __future__ import annotations

import itertools
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
from diffusers.models.transformers.transformer_2d import Transformer2DModel

from magicanimate.acceleration import layers
from magicanimate.acceleration.backends import attention_problem
from magicanimate.acceleration.cpu_kernels import cpu_kernels
from magicanimate.acceleration.layers import down_path_once
from magicanimate.acceleration.options import Approximations, OptimizationConfig
from magicanimate.errors import Cancelled
from magicanimate.pipeline import MagicAnimatePipeline
from magicanimate.windows import WindowPlan
from tests.dancer_files import control_frames
from tests.golden_cases import tiny_pipeline
from tests.rounding import assert_same_but_for_rounding

PLAIN = OptimizationConfig.plain()
LAYERS = {  # each alone
    "branches in turn": replace(PLAIN, sequential_guidance=True),
    "residuals shared": replace(PLAIN, share_residuals=True),
    "embeddings kept": replace(PLAIN, cache_embeddings=True),
    "CPU kernels": replace(PLAIN, cpu_kernels=True),
    "windows together": replace(PLAIN, window_batch=2),
    "banks ahead": replace(PLAIN, precompute_banks=True),
    "attention through diffusers' dispatcher": replace(PLAIN, attention="native"),
}
ARRANGEMENTS = LAYERS | {
    "default, windows together, banks ahead": OptimizationConfig(window_batch=3, precompute_banks=True)
}
CASES = {
    "two windows": {},
    "one branch": {"guidance_scale": 1.0},
    "texts differ": {"texts": 2},
    "full fusion": {"fusion": "full"},
    "closed loop": {"windows": WindowPlan(closed_loop=True, context_length=4, context_overlap=1)},
    "one frame": {"frames": 1},
    "odd sides": {"height": 40, "width": 72},
}


@pytest.fixture(scope="module")
def pipe() -> MagicAnimatePipeline:
    """Networks of SD 1.5's topology, with half of its layers, whose weights follow from their names."""
    pipe = tiny_pipeline(layers_per_block=1)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def animate(
    pipe,
    optimization: OptimizationConfig,
    *,
    frames: int = 6,
    height: int = 32,
    width: int = 32,
    texts: int = 1,
    **settings,
) -> torch.Tensor:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    control = rng.integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
    embeds = torch.randn(texts, 7, 32, generator=torch.Generator().manual_seed(1))
    settings = {"windows": WindowPlan(context_length=4, context_overlap=2), "guidance_scale": 3.0, **settings}
    return pipe(
        image,
        control,
        num_inference_steps=2,
        prompt=embeds[:1],
        negative_prompt=embeds[-1:],
        output_type="latent",
        optimization=optimization,
        **settings,
    ).latents


@pytest.fixture(scope="module")
def plain(pipe) -> dict[str, torch.Tensor]:
    return {name: animate(pipe, PLAIN, **case) for name, case in CASES.items()}


@pytest.mark.parametrize(
    ("case", "arrangement"),
    [(case, "default") for case in CASES] + [("two windows", name) for name in ARRANGEMENTS],
)
def test_same_result(pipe, plain, case, arrangement):
    result = animate(pipe, ARRANGEMENTS.get(arrangement, OptimizationConfig()), **CASES[case])
    assert_same_but_for_rounding(result, plain[case])


def everything_in(pipe) -> tuple:
    """What a call could leave behind: other modules and processors, hooks, replaced methods."""
    networks = (pipe.unet, pipe.controlnet, pipe.appearance_encoder, pipe.vae)
    modules = [
        (name, id(module), sorted(vars(module)), len(module._forward_pre_hooks), len(module._forward_hooks))
        for network in networks
        for name, module in network.named_modules()
    ]
    processors = [{key: id(p) for key, p in network.attn_processors.items()} for network in networks[:3]]
    return modules, processors


@pytest.mark.parametrize("layer", LAYERS)
def test_networks_are_as_before_when_the_call_is_over(pipe, layer):
    before = everything_in(pipe)
    animate(pipe, LAYERS[layer])
    assert everything_in(pipe) == before


@pytest.mark.parametrize("broken_off", ["cancelled", "out of memory"])
def test_networks_are_as_before_when_the_call_breaks_off(pipe, broken_off, monkeypatch):
    before, asked = everything_in(pipe), itertools.count()
    if broken_off == "cancelled":
        with pytest.raises(Cancelled):
            animate(
                pipe,
                OptimizationConfig(),
                approximations=Approximations(deep_reuse=1000),
                should_stop=lambda: next(asked) > 60,
            )
    else:
        with monkeypatch.context() as patched, pytest.raises(torch.OutOfMemoryError):
            patched.setattr(pipe.unet.conv_out, "forward", mock.Mock(side_effect=torch.OutOfMemoryError))
            animate(pipe, OptimizationConfig(), approximations=Approximations(deep_reuse=1000))
    assert everything_in(pipe) == before


def test_down_path_is_computed_once_and_a_forward_of_somebody_else_stays(pipe):
    block, sample, text = pipe.unet.down_blocks[0], torch.randn(1, 4, 2, 8, 8), torch.randn(1, 7, 32)
    given = []
    block.forward = mock.Mock(side_effect=type(block).forward.__get__(block))
    own = block.forward
    try:
        with torch.inference_mode():
            alone = pipe.unet(sample, torch.tensor(5), text).sample
            with down_path_once(pipe.unet):
                given += [pipe.unet(sample, torch.tensor(5), text).sample for _ in range(2)]
            assert own.call_count == 2 and block.forward is own
    finally:
        del block.forward
    assert torch.equal(given[0], alone) and torch.equal(given[1], alone)


def calls(module: torch.nn.Module, run) -> int:
    seen = []
    hook = module.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[0]))
    run()
    hook.remove()
    return sum(seen)


@pytest.mark.parametrize(
    ("case", "speed", "down", "up"),
    [
        ("one frame", OptimizationConfig(), 1, 2),
        ("one frame", PLAIN, 2, 2),
        ("one branch", OptimizationConfig(), 8, 8),
        ("texts differ", OptimizationConfig(), 2 * 8, 2 * 8),
        ("full fusion", OptimizationConfig(), 2 * 8, 2 * 8),
        ("two windows", OptimizationConfig(), 8, 2 * 8),
    ],
)
def test_down_path_is_shared_only_where_nothing_tells_the_halves_apart(pipe, case, speed, down, up):
    """Frames through a down block and the last convolution; 6 frames are two windows of 4 frames."""
    settings = CASES[case]
    assert (
        calls(pipe.unet.down_blocks[0].resnets[0].conv1, lambda: animate(pipe, speed, **settings)) == 2 * down
    )
    assert calls(pipe.unet.conv_out, lambda: animate(pipe, speed, **settings)) == 2 * up


def test_driving_frames_are_embedded_once_as_far_as_there_is_room(pipe, monkeypatch):
    embedding = pipe.controlnet.controlnet_cond_embedding
    assert calls(embedding.conv_in, lambda: animate(pipe, OptimizationConfig())) == 6
    kept_all = animate(pipe, OptimizationConfig())
    one = 32 * 4 * 4 * 4  # bytes of a frame's map
    monkeypatch.setattr(layers, "CONTROL_CACHE_BYTES", 2 * one)
    assert calls(embedding.conv_in, lambda: animate(pipe, OptimizationConfig())) == 6 + 4
    assert_same_but_for_rounding(animate(pipe, OptimizationConfig()), kept_all)
    assert pipe.controlnet.controlnet_cond_embedding is embedding


def test_encoder_runs_once_a_step_and_ahead_if_asked(pipe):
    order = []
    hooks = [
        getattr(pipe, name).conv_in.register_forward_pre_hook(lambda *_, name=name: order.append(name))
        for name in ("appearance_encoder", "unet")
    ]
    for ahead in (False, True):
        animate(pipe, OptimizationConfig(precompute_banks=ahead), frames=1, guidance_scale=1.0)
    for hook in hooks:
        hook.remove()
    assert order == ["appearance_encoder", "unet"] * 2 + ["appearance_encoder"] * 2 + ["unet"] * 2


def test_bank_can_be_replaced_in_between(pipe):
    """What is kept belongs to one reference: another photo after it, then the first again."""
    first = animate(pipe, OptimizationConfig())
    rng = np.random.default_rng(5)
    image, control = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8), control_frames(2, 32)
    other = pipe(image, control, num_inference_steps=1, output_type="latent").latents
    again = pipe(image, control, num_inference_steps=1, output_type="latent", optimization=PLAIN).latents
    assert_same_but_for_rounding(other, again)
    assert_same_but_for_rounding(animate(pipe, OptimizationConfig()), first)


def test_networks_can_learn_after_an_animation(pipe):
    """Nothing that was kept without gradients is used where gradients are wanted."""
    animate(pipe, OptimizationConfig())
    text = torch.randn(1, 7, 32)
    for _ in range(2):
        loss = pipe.unet(torch.randn(1, 4, 2, 4, 4), torch.tensor(500), text).sample.square().mean()
        loss.backward()
    keys = pipe.unet.up_blocks[3].attentions[0].transformer_blocks[0].attn2.to_k
    assert keys.weight.grad is not None and keys.weight.grad.any()
    pipe.unet.zero_grad(set_to_none=True)


def test_window_batch_is_checked():
    with pytest.raises(ValueError, match="window_batch is 0"):
        OptimizationConfig(window_batch=0)


def test_cpu_kernels_keep_names(pipe):
    """Hooks find their modules by name."""
    networks = (pipe.unet, pipe.controlnet, pipe.appearance_encoder)
    before = [dict(network.named_modules()) for network in networks]
    with cpu_kernels(*networks):
        inside = [dict(network.named_modules()) for network in networks]
        assert all(not isinstance(module, Transformer2DModel) for module in inside[0].values())
        assert [set(names) for names in inside] == [set(names) for names in before]
    assert [dict(network.named_modules()) for network in networks] == before


def test_attention_of_libraries_that_are_not_there():
    assert "install it" in attention_problem("flash") and attention_problem("native") is None
    with pytest.raises(ValueError, match="unknown attention 'fast'"):
        OptimizationConfig(attention="fast")
