"""Every arrangement of the work gives the plain path's result."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch.nn import functional

from magicanimate.models import control_maps, lean
from magicanimate.models.attention_backend import attention_problem
from magicanimate.models.lean import OneDnnProducts, lean_modules
from magicanimate.models.reference import install_attention
from magicanimate.models.shared_skips import shared_skips
from magicanimate.models.unet import Turns
from magicanimate.pipeline import MagicAnimatePipeline
from magicanimate.speed import Speed
from magicanimate.windows import WindowPlan
from tests.dancer_files import control_frames
from tests.golden_cases import tiny_pipeline
from tests.rounding import assert_same_but_for_rounding

PLAIN = Speed.plain()
ARRANGEMENTS = {
    "halves in turn": replace(PLAIN, halves_in_turn=True),
    "skips shared": replace(PLAIN, halves_in_turn=True, share_skips=True),
    "keys kept": replace(PLAIN, keep_keys=True),
    "residuals shared": replace(PLAIN, share_residuals=True),
    "maps kept": replace(PLAIN, keep_maps=True),
    "lean modules": replace(PLAIN, lean_modules=True),
    "windows together": replace(PLAIN, window_batch=2),
    "banks ahead": replace(PLAIN, banks_ahead=True),
    "attention through diffusers' dispatcher": replace(PLAIN, attention="native"),
    "default, windows together, banks ahead": Speed(window_batch=3, banks_ahead=True),
}
CASES = {
    "two windows": {},
    "one branch": {"guidance_scale": 1.0},
    "texts differ": {"texts": 2},
    "full fusion": {"fusion": "full"},
    "ring of windows": {"windows": WindowPlan(mode="ring", size=4, overlap=1)},
    "one frame": {"frames": 1},
    "odd sides": {"height": 40, "width": 72},
}


@pytest.fixture(scope="module")
def pipe() -> MagicAnimatePipeline:
    """Networks of SD 1.5's topology whose weights follow from their names."""
    pipe = tiny_pipeline()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def animate(
    pipe, speed: Speed, *, frames: int = 6, height: int = 32, width: int = 32, texts: int = 1, **settings
) -> torch.Tensor:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    control = rng.integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
    embeds = torch.randn(texts, 7, 32, generator=torch.Generator().manual_seed(1))
    settings = {"windows": WindowPlan(size=4, overlap=2), "guidance_scale": 3.0, **settings}
    return pipe(
        image,
        control,
        num_inference_steps=2,
        prompt_embeds=embeds[:1],
        negative_prompt_embeds=embeds[-1:],
        output_type="latent",
        speed=speed,
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
    result = animate(pipe, ARRANGEMENTS.get(arrangement, Speed()), **CASES[case])
    assert_same_but_for_rounding(result, plain[case])


def test_skips_are_shared_within_one_prediction_only(pipe):
    """Also where one breaks off in the second half, as when memory runs out."""
    sample, text, timestep = torch.randn(1, 4, 2, 8, 8), torch.randn(1, 7, 32), torch.tensor(500)

    def fail_in_the_second_half(turn: int) -> None:
        if turn == 1:
            raise torch.OutOfMemoryError

    with torch.inference_mode(), shared_skips(pipe.unet) as skips:
        install_attention(pipe.unet, pipe.controlnet, fusion="midup", keep_keys=True)
        down, mid = pipe.controlnet(
            sample[0].transpose(0, 1), timestep, text, torch.rand(2, 3, 64, 64), return_dict=False
        )

        def predict(before, sharing) -> tuple[torch.Tensor, ...]:
            return pipe.unet(
                sample,
                timestep,
                turns=Turns([text, text], before, share_down=True, skips=sharing),
                down_block_additional_residuals=down,
                mid_block_additional_residual=mid,
            )

        first = predict(lambda _: None, skips)
        with pytest.raises(torch.OutOfMemoryError):
            predict(fail_in_the_second_half, skips)
        assert skips.turn is None and not skips.kept
        torch.testing.assert_close(predict(lambda _: None, None), first, atol=1e-5, rtol=1e-4)
        assert_same_but_for_rounding(first[0], first[1])


def test_weights_that_come_by_hooks_are_not_taken_apart(pipe):
    hooked, other = pipe.unet.up_blocks[0].resnets[:2]
    hooked.conv1._hf_hook = object()
    try:
        with shared_skips(pipe.unet):
            assert isinstance(hooked.conv1, torch.nn.Conv2d) and not isinstance(other.conv1, torch.nn.Conv2d)
    finally:
        del hooked.conv1._hf_hook
    assert isinstance(other.conv1, torch.nn.Conv2d)


def calls(module: torch.nn.Module, run) -> int:
    seen = []
    hook = module.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[0]))
    run()
    hook.remove()
    return sum(seen)


@pytest.mark.parametrize(
    ("case", "speed", "down", "up"),
    [
        ("one frame", Speed(), 1, 2),
        ("one frame", PLAIN, 2, 2),
        ("one branch", Speed(), 8, 8),
        ("texts differ", Speed(), 2 * 8, 2 * 8),
        ("full fusion", Speed(), 2 * 8, 2 * 8),
        ("two windows", Speed(), 8, 2 * 8),
    ],
)
def test_down_path_is_shared_only_where_nothing_tells_the_halves_apart(pipe, case, speed, down, up):
    """Frames through the first and the last convolution; 6 frames are two windows of 4 frames."""
    settings = CASES[case]
    assert calls(pipe.unet.conv_in, lambda: animate(pipe, speed, **settings)) == 2 * down
    assert calls(pipe.unet.conv_out, lambda: animate(pipe, speed, **settings)) == 2 * up


def test_keys_are_projected_once(pipe):
    """The reference's once a step, the text's once an animation; the window's own come on top."""
    block = pipe.unet.up_blocks[3].attentions[0].transformer_blocks[0]
    own = [4] * 2 * 2  # two windows of two halves, of four frames
    for attention, expected in ((block.attn1, 2 * (sum(own) + 1)), (block.attn2, 1)):
        assert calls(attention.to_k, lambda: animate(pipe, Speed())) == expected


def test_driving_frames_are_embedded_once_as_far_as_there_is_room(pipe, monkeypatch):
    embedding = pipe.controlnet.controlnet_cond_embedding
    assert calls(embedding.conv_in, lambda: animate(pipe, Speed())) == 6
    kept_all = animate(pipe, Speed())
    one = 32 * 4 * 4 * 4  # bytes of a frame's map
    monkeypatch.setattr(control_maps, "KEPT_BYTES", 2 * one)
    assert calls(embedding.conv_in, lambda: animate(pipe, Speed())) == 6 + 4
    assert_same_but_for_rounding(animate(pipe, Speed()), kept_all)
    assert pipe.controlnet.controlnet_cond_embedding is embedding


def test_encoder_runs_once_a_step_and_ahead_if_asked(pipe):
    order = []
    hooks = [
        getattr(pipe, name).conv_in.register_forward_pre_hook(lambda *_, name=name: order.append(name))
        for name in ("appearance_encoder", "unet")
    ]
    animate(pipe, Speed(), frames=1)
    animate(pipe, Speed(banks_ahead=True), frames=1)
    for hook in hooks:
        hook.remove()
    assert order == ["appearance_encoder", "unet"] * 2 + ["appearance_encoder"] * 2 + ["unet"] * 2


def test_bank_can_be_replaced_in_between(pipe):
    """What is kept belongs to one reference: another photo after it, then the first again."""
    first = animate(pipe, Speed())
    rng = np.random.default_rng(5)
    image, control = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8), control_frames(2, 32)
    other = pipe(image, control, num_inference_steps=1, output_type="latent").latents
    again = pipe(image, control, num_inference_steps=1, output_type="latent", speed=PLAIN).latents
    assert_same_but_for_rounding(other, again)
    assert_same_but_for_rounding(animate(pipe, Speed()), first)


def test_networks_can_learn_after_an_animation(pipe):
    """Nothing that was kept without gradients is used where gradients are wanted."""
    animate(pipe, Speed())
    text = torch.randn(1, 7, 32)
    for _ in range(2):
        loss = pipe.unet(torch.randn(1, 4, 2, 4, 4), torch.tensor(500), text).sample.square().mean()
        loss.backward()
    keys = pipe.unet.up_blocks[3].attentions[0].transformer_blocks[0].attn2.to_k
    assert keys.weight.grad is not None and keys.weight.grad.any()
    pipe.unet.zero_grad(set_to_none=True)


def test_window_batch_is_checked():
    with pytest.raises(ValueError, match="window_batch is 0"):
        Speed(window_batch=0)


def test_networks_are_as_before_after_lean_modules(pipe):
    """Modules, names and gradients: nothing of the stand-ins is left."""
    networks = (pipe.unet, pipe.controlnet, pipe.appearance_encoder)
    before = [dict(network.named_modules()) for network in networks]
    with lean_modules(*networks):
        inside = [dict(network.named_modules()) for network in networks]
        assert all(not isinstance(module, Transformer2DModel) for module in inside[0].values())
        assert [set(names) for names in inside] == [set(names) for names in before]
    assert [dict(network.named_modules()) for network in networks] == before


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 4e-3)])
def test_long_attention_in_slices(dtype, tolerance, monkeypatch):
    attention = lean._attention
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("oneDNN has no bfloat16 on this processor")
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, n, 16).unflatten(-1, (2, 8)) for n in (1030, 2050, 2050))
    q, k, v = (x.transpose(1, 2).to(dtype) for x in (q, k, v))
    expected = functional.scaled_dot_product_attention(q, k, v)
    sliced = []
    monkeypatch.setattr(
        lean, "_attention", lambda *args, **options: sliced.append(1) or attention(*args, **options)
    )
    with torch.inference_mode(), OneDnnProducts():
        found = functional.scaled_dot_product_attention(q, k, v)
    assert sliced and found.dtype == dtype
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=10 * tolerance)


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 1)])
def test_products_of_convolutions(kernel, stride):
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(6, 5, kernel, stride=stride)
    x = torch.randn(2, 6, 10, 10).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected = conv(x)
        with OneDnnProducts():
            torch.testing.assert_close(conv(x), expected)
            torch.testing.assert_close(conv(x.contiguous()), expected)


def test_attention_of_libraries_that_are_not_there():
    assert "install it" in attention_problem("flash") and attention_problem("native") is None
    with pytest.raises(ValueError, match="unknown attention 'fast'"):
        Speed(attention="fast")
