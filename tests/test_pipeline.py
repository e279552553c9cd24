"""The pipeline's behaviour, on a tiny checkpoint with random weights."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler

from magicanimate.acceleration.options import OptimizationConfig
from magicanimate.errors import Cancelled
from magicanimate.pipeline import MagicAnimatePipeline
from magicanimate.windows import WindowPlan
from tests.dancer_files import control_frames
from tests.rounding import assert_same_but_for_rounding


@pytest.fixture(scope="module")
def pipe(tiny_model) -> MagicAnimatePipeline:
    pipe = MagicAnimatePipeline.from_pretrained(tiny_model)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def photo(seed: int = 0, height: int = 32, width: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def latents_of(pipe, frames=3, **settings) -> torch.Tensor:
    settings = {"num_inference_steps": 2, "output_type": "latent", **settings}
    return pipe(settings.pop("image", photo()), control_frames(frames, 32), **settings).latents


@pytest.mark.parametrize("frames", [1, 2, 16, 17, 21])
def test_any_number_of_frames(pipe, frames):
    result = pipe(photo(), control_frames(frames, 32), num_inference_steps=1, guidance_scale=1.0)
    assert result.frames.shape == (frames, 32, 32, 3)
    assert result.frames.dtype == np.uint8


def test_sides_that_are_odd_multiples_of_eight(pipe):
    control = np.zeros((2, 40, 24, 3), np.uint8)
    result = pipe(photo(height=40, width=24), control, num_inference_steps=1)
    assert result.frames.shape == (2, 40, 24, 3)


@pytest.mark.parametrize(("guidance", "branches"), [(0.0, 1), (1.0, 1), (2.0, 2)])
def test_guidance_of_one_or_less_runs_one_branch(pipe, guidance, branches):
    seen = []
    hook = pipe.unet.conv_out.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[0]))
    latents_of(pipe, frames=3, guidance_scale=guidance)
    hook.remove()
    assert sum(seen) == 3 * branches * 2


@pytest.mark.parametrize(
    "name",
    [
        "DDIMScheduler",
        "UniPCMultistepScheduler",
        "DPMSolverMultistepScheduler",
        "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler",
        "HeunDiscreteScheduler",
        "DEISMultistepScheduler",
        "PNDMScheduler",
    ],
)
def test_schedulers(pipe, name):
    import diffusers

    own = pipe.scheduler
    config = {**own.config, "rescale_betas_zero_snr": False}  # not every scheduler knows zero SNR
    if name == "PNDMScheduler":
        config["skip_prk_steps"] = True  # as Stable Diffusion has it; its warm-up wants many steps
    pipe.scheduler = getattr(diffusers, name).from_config(config)
    try:
        first, second = (latents_of(pipe, num_inference_steps=3) for _ in range(2))
    finally:
        pipe.scheduler = own
    assert torch.isfinite(first).all()
    assert torch.equal(first, second)


def test_expected_clean_latents_are_told_where_the_scheduler_has_them(pipe):
    from diffusers import UniPCMultistepScheduler

    steps = []
    last = latents_of(pipe, on_step=lambda i, latents, expected: steps.append((i, latents, expected)))
    assert [i for i, _, _ in steps] == [0, 1]
    assert not torch.equal(steps[0][1], steps[0][2])  # still noisy, and without its noise
    assert torch.equal(steps[1][1], last) and torch.allclose(steps[1][1], steps[1][2], atol=1e-4)

    own, steps = pipe.scheduler, []
    pipe.scheduler = UniPCMultistepScheduler.from_config(own.config)
    latents_of(pipe, on_step=lambda i, latents, expected: steps.append((latents, expected)))
    pipe.scheduler = own
    assert all(torch.equal(*both) for both in steps)


def test_residuals_of_a_second_controlnet_are_added(tiny_model):
    """Both control images and networks alike are one of twice the weight."""
    pipe = MagicAnimatePipeline.from_pretrained(tiny_model)
    assert pipe.controlnet_keypoints is None
    for block in (*pipe.controlnet.controlnet_down_blocks, pipe.controlnet.controlnet_mid_block):
        torch.nn.init.normal_(block.weight, std=0.1, generator=torch.Generator().manual_seed(1))
    images = control_frames(20, 32)  # two windows
    once, twice = (latents_of(pipe, frames=20, controlnet_conditioning_scale=scale) for scale in (1.0, 2.0))
    pipe.register_modules(controlnet_keypoints=copy.deepcopy(pipe.controlnet))
    torch.testing.assert_close(latents_of(pipe, frames=20, keypoints=images), twice, rtol=1e-4, atol=1e-4)
    assert (once - twice).abs().max() > 0.01
    plain = latents_of(pipe, frames=20, keypoints=images, optimization=OptimizationConfig.plain())
    torch.testing.assert_close(plain, twice, rtol=1e-3, atol=1e-3)
    for wrong in (None, images[:-1], images[:, :16]):
        with pytest.raises(ValueError, match="keypoints"):
            latents_of(pipe, frames=20, keypoints=wrong)


def test_seed_decides(pipe):
    assert torch.equal(latents_of(pipe, seed=3), latents_of(pipe, seed=3))
    assert not torch.allclose(latents_of(pipe, seed=3), latents_of(pipe, seed=4))


def test_seed_decides_the_noise_that_a_scheduler_adds(pipe, monkeypatch):
    """From the same latents, so that nothing else depends on the seed."""
    monkeypatch.setattr(pipe, "scheduler", EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config))
    start = torch.randn(1, 4, 3, 4, 4, generator=torch.Generator().manual_seed(9)) * 14
    same, other = (latents_of(pipe, frames=3, seed=seed, latents=start) for seed in (3, 4))
    assert torch.equal(same, latents_of(pipe, frames=3, seed=3, latents=start))
    assert not torch.allclose(same, other, atol=1e-2)


def test_noise_repeats_every_sixteen_frames(pipe):
    noise = pipe.prepare_latents(40, (32, 32), generator=torch.Generator().manual_seed(5))
    assert torch.equal(noise[:, :, :16], noise[:, :, 16:32])
    assert torch.equal(noise[:, :, :8], noise[:, :, 32:])
    assert not torch.equal(noise[:, :, 0], noise[:, :, 1])


def test_reference_steers(pipe):
    a, b = latents_of(pipe, image=photo(1)), latents_of(pipe, image=photo(2))
    assert not torch.allclose(a, b, atol=1e-3)


def test_unconditional_branch_is_blind_to_the_reference(pipe):
    """With guidance 0 over two branches the result would be the unconditional prediction alone."""
    predictions = []
    for seed in (1, 2):
        outputs = []
        hook = pipe.unet.conv_out.register_forward_hook(lambda _, __, out, seen=outputs: seen.append(out))
        latents_of(pipe, image=photo(seed), num_inference_steps=1, guidance_scale=2.0)
        hook.remove()
        predictions.append(outputs)
    assert_same_but_for_rounding(predictions[0][0], predictions[1][0])
    assert not torch.allclose(predictions[0][1], predictions[1][1])


def test_fusion_full_reads_more_blocks(pipe):
    assert not torch.allclose(latents_of(pipe, fusion="midup"), latents_of(pipe, fusion="full"))


def test_controlnet_runs_once_per_frame_and_step(pipe):
    frames = []
    hook = pipe.controlnet.conv_in.register_forward_pre_hook(lambda _, args: frames.append(args[0].shape[0]))
    latents_of(
        pipe, frames=30, num_inference_steps=2, windows=WindowPlan(context_length=16, context_overlap=4)
    )
    hook.remove()
    assert sum(frames) == 2 * 30


@pytest.mark.parametrize("loop", [False, True])
def test_windows_of_one_frame(pipe, loop):
    """Frame 1 and a weight of 1.0 are different things, however equal."""
    assert torch.isfinite(latents_of(pipe, frames=3, windows=WindowPlan(1, 0, closed_loop=loop))).all()


def test_frames_are_decoded_as_they_are_taken(pipe):
    decoded = []
    hook = pipe.vae.decoder.register_forward_hook(lambda *_: decoded.append(1))
    result = pipe(photo(), control_frames(12, 32), num_inference_steps=1, output_type="stream")
    assert decoded == []
    next(result.frames)
    assert len(decoded) == 1
    assert len(list(result.frames)) == 11
    hook.remove()
    assert len(decoded) == 3


def test_control_frames_are_read_window_by_window(pipe):
    """Only the frames of a window are asked for at once, so a clip need not be in memory."""
    frames, asked = control_frames(40, 32), []

    class Lazy:
        def __len__(self):
            return len(frames)

        def __getitem__(self, index):
            asked.append(1 if isinstance(index, int) else len(index))
            return frames[index]

    pipe(photo(), Lazy(), num_inference_steps=1, output_type="latent")
    assert max(asked) == 16


def test_stop_is_honoured_within_one_window(pipe):
    windows = []
    with pytest.raises(Cancelled):
        latents_of(
            pipe,
            frames=40,
            on_window=lambda done, total: windows.append((done, total)),
            should_stop=lambda: len(windows) >= 2,
        )
    assert windows == [(1, 6), (2, 6)]


def test_saved_and_loaded_pipeline_gives_the_same(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "copy")
    again = MagicAnimatePipeline.from_pretrained(tmp_path / "copy")
    assert_same_but_for_rounding(latents_of(again), latents_of(pipe))
    assert again.config.kind == "mini"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image": photo().astype(np.float32)}, "uint8"),
        ({"image": photo(height=40)}, "differ in size"),
        ({"num_inference_steps": 5000}, "num_inference_steps is 5000"),
        ({"fusion": "up"}, "unknown fusion 'up'"),
        ({"output_type": "gif"}, "unknown output_type"),
        ({"prompt": "a dancer"}, "has no text encoder"),
        ({"latents": torch.zeros(1, 4, 9, 4, 4)}, "is needed"),
        ({"strength": 0.0}, "strength is 0.0"),
        ({"strength": 1.5}, "strength is 1.5"),
        ({"video": np.zeros((2, 32, 32, 3), np.uint8)}, "2 frames of video"),
    ],
)
def test_arguments_that_do_not_fit(pipe, change, words):
    with pytest.raises(ValueError, match=words):
        latents_of(pipe, **change)


def test_strength_is_the_share_of_steps_that_run(pipe):
    assert torch.equal(pipe.get_timesteps(4, 0.5), pipe.get_timesteps(4, 1.0)[2:])
    assert len(pipe.get_timesteps(4, 0.01)) == 1


@pytest.mark.parametrize(
    "scheduler", ["DDIMScheduler", "UniPCMultistepScheduler", "DPMSolverMultistepScheduler"]
)
def test_less_strength_stays_nearer_to_the_video(pipe, monkeypatch, scheduler):
    import diffusers

    given = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, rescale_betas_zero_snr=False)
    monkeypatch.setattr(pipe, "scheduler", getattr(diffusers, scheduler).from_config(given.config))
    video = control_frames(3, 32)
    clean = pipe.encode_image(video[0])

    def distance(strength: float) -> float:
        made = latents_of(pipe, num_inference_steps=10, video=video, strength=strength, guidance_scale=1.0)
        return float((made[:, :, 0] - clean).detach().abs().mean())

    assert distance(0.1) < 0.6 * distance(0.6), "untrained networks take the more away the longer they run"


class TestWindows:
    @pytest.mark.parametrize("frames", [1, 15, 16, 17, 24, 40, 125])
    @pytest.mark.parametrize("step", [0, 1, 5])
    @pytest.mark.parametrize("offset", [False, True])
    def test_windows_cover_every_frame_without_a_jump(self, frames, step, offset):
        windows = WindowPlan(context_offset=offset).windows(frames, step=step)
        assert sorted({f for w in windows for f in w}) == list(range(frames))
        assert all(w == list(range(w[0], w[0] + min(16, frames))) for w in windows)
        overlaps = [a[-1] - b[0] + 1 for a, b in zip(windows, windows[1:], strict=False)]
        assert all(overlap >= 4 for overlap in overlaps)

    def test_offset_moves_the_seams(self):
        plan = WindowPlan(context_offset=True)
        assert plan.windows(60, step=0) != plan.windows(60, step=1)
        assert WindowPlan().windows(60, step=0) == WindowPlan().windows(60, step=1)

    def test_weights_fall_to_the_ends_but_in_a_loop(self):
        assert WindowPlan().weights([3, 4, 5, 6, 7]) == [1, 2, 3, 2, 1]
        assert WindowPlan(closed_loop=True).weights([3, 4, 5]) == [1, 1, 1]

    @pytest.mark.parametrize(
        "change", [{"context_overlap": 16}, {"context_length": 0}, {"context_stride": 0}]
    )
    def test_impossible_plans(self, change):
        with pytest.raises(ValueError):
            WindowPlan(**change)
