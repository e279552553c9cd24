"""Animations at Stable Diffusion 1.5's size on a GPU that is not there, see `benchmarks.pretended_gpu`.

The profiles "offload" and "tight" are left out: diffusers' hooks put a tensor of the GPU into the ``data`` of
a weight on the CPU and back, which torch refuses between tensors with numbers and without ("incompatible
tensor type"), and moving a module of tensors without numbers fails as well ("couldn't swap").
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import (
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    UniPCMultistepScheduler,
)

from benchmarks.flops import build_pipeline
from benchmarks.pretended_gpu import MASKED, PretendedGPU, footprint
from densepose_tools.rcnn.network import DensePoseRCNN
from magicanimate.acceleration.options import Approximations, OptimizationConfig
from magicanimate.memory import (
    CUDA,
    DECODED_AT_ONCE,
    OVERHEAD,
    TILE,
    OutOfMemoryFallback,
    Work,
    needed_bytes,
    profile_named,
)
from magicanimate.models.autoencoder import set_sliced
from magicanimate.sampling import Networks, denoise
from magicanimate.windows import WindowPlan

SIZE = 512


class Card:
    """A pretended GPU with networks on it."""

    def __init__(self, dtype: torch.dtype, **settings):
        self.gpu = PretendedGPU()
        with self.gpu, self.gpu.building(dtype):
            self.pipe = build_pipeline(**settings)

    def animate(self, *, frames: int = 24, steps: int = 1, profile: str = "", width: int = SIZE, **settings):
        """Run the pipeline at 512 pixels of height.

        Fails if a tensor is on another device or in another number format, and if the host waits for the
        device within a window or more than once a step, after the first window: a queue that runs dry idles
        the card.

        Returns:
            How many operations each step took on the device.
        """
        photo = np.zeros((SIZE, width, 3), np.uint8)
        control = np.zeros((frames, SIZE, width, 3), np.uint8)
        if profile:
            wanted = profile_named(profile, "cuda")
            settings["fallback"] = OutOfMemoryFallback(self.pipe, wanted, device="cuda")
            set_sliced(self.pipe.vae, TILE if wanted.sliced else None)
        if self.pipe.controlnet_keypoints is not None:
            settings["keypoints"] = control
        waits, done = [], []

        def after_window(*_) -> None:
            waits.append(("window", len(self.gpu.syncs)))

        def after_step(*_) -> None:
            waits.append(("step", len(self.gpu.syncs)))
            done.append(self.gpu.operations.total())

        settings = {"output_type": "latent", "guidance_scale": 7.5} | settings
        self.gpu.operations.clear()
        with self.gpu:
            output = self.pipe(
                photo,
                control,
                num_inference_steps=steps,
                on_window=after_window,
                on_step=after_step,
                **settings,
            )
        assert output.latents.device.type == "cuda" and output.latents.dtype == torch.float32
        assert output.latents.shape == (1, 4, frames, SIZE // 8, width // 8)
        counts = [later - earlier for (_, earlier), (_, later) in pairwise(waits)]
        # One after each step: whether the latents are finite.
        assert counts == [int(kind == "step") for kind, _ in waits[1:]], self.gpu.syncs
        if settings.get("reference_strength", 1) == 1:
            assert self.gpu.operations[MASKED] == 0
        return [later - earlier for earlier, later in pairwise([0, *done])]


@pytest.fixture(scope="module")
def whole() -> Card:
    """Everything that Stable Diffusion 1.5 has, in float16."""
    return Card(torch.float16)


@pytest.fixture(scope="module")
def shallow() -> Card:
    """Its widths with one layer a block, not two, which takes half the time; in bfloat16."""
    return Card(torch.bfloat16, layers=1)


@pytest.mark.parametrize(
    ("profile", "frames", "width"),
    [
        ("roomy", 40, 512),
        ("standard", 24, 512),
        ("frugal", 24, 512),
        ("frugal", 16, 768),
        pytest.param("standard", 16, 768, marks=pytest.mark.slow),
        pytest.param("roomy", 28, 768, marks=pytest.mark.slow),
    ],
)
def test_float16_in_every_profile_takes_as_much_memory_as_is_planned(whole, profile, frames, width):
    """Within 15 percent of the work's own memory, and one of the weights'."""
    gpu, wanted, sizes = whole.gpu, profile_named(profile, "cuda"), footprint(whole.pipe)
    gpu.reset_peak()
    weights = gpu.allocated
    whole.animate(frames=frames, profile=profile, width=width)
    work = Work(width, SIZE, frames=frames)
    planned = needed_bytes(sizes, work, wanted, device="cuda", dtype="float16") - OVERHEAD
    assert planned - weights == pytest.approx(gpu.peak - weights, rel=0.15)
    counted = sum(sum(blocks.values()) for blocks in sizes.parameters.values())
    assert 2 * counted == pytest.approx(weights, rel=0.01)


@pytest.mark.parametrize("profile", ["standard", "frugal"])
def test_decoding_takes_as_much_memory_as_is_planned(whole, profile):
    """Four frames at once, or one by one; the frames arrive as bytes on the host.

    The host waits for none but those that it writes: the next four are queued by then.
    """
    gpu, wanted = whole.gpu, profile_named(profile, "cuda")
    set_sliced(whole.pipe.vae, TILE if wanted.sliced else None)
    with gpu, torch.inference_mode():
        latents = torch.zeros(1, 4, 5, SIZE // 8, SIZE // 8, device="cuda")
        gpu.reset_peak()
        before = gpu.allocated
        gpu.syncs.clear()
        gpu.operations.clear()
        decoded = whole.pipe.decode(latents)
        frames = [next(decoded)]
        queued = gpu.operations.total()
        frames += decoded
    assert gpu.syncs == [] and gpu.operations.total() == queued
    assert len(frames) == 5 and frames[0].shape == (SIZE, SIZE, 3) and frames[0].dtype == np.uint8
    maps = (1 if wanted.sliced else DECODED_AT_ONCE) * SIZE**2 * 256 * 2
    assert CUDA.decoding * maps == pytest.approx(gpu.peak - before, rel=0.15)


@pytest.mark.parametrize(
    ("profile", "optimization"),
    [
        ("", OptimizationConfig.plain()),
        ("", OptimizationConfig(sequential_guidance=False, window_batch=2)),
        ("roomy", OptimizationConfig()),
        ("standard", OptimizationConfig(share_residuals=False, cache_embeddings=False)),
        ("frugal", OptimizationConfig(precompute_banks=True)),
    ],
    ids=["plain", "branches together", "roomy", "nothing shared", "encoder ahead"],
)
def test_bfloat16_in_every_profile_and_arrangement(shallow, profile, optimization):
    shallow.animate(profile=profile, optimization=optimization)


def test_steps_that_reuse_deep_features_and_are_not_guided(shallow, monkeypatch):
    monkeypatch.setattr(
        shallow.pipe, "scheduler", DPMSolverMultistepScheduler.from_config(shallow.pipe.scheduler.config)
    )
    approximations = Approximations(guidance_stop=0.6, deep_reuse=400, encoder_reuse=400)
    full, reused, unguided = shallow.animate(frames=16, steps=3, approximations=approximations)
    assert reused < 0.2 * full and unguided < 0.8 * full


def test_two_controlnets_and_a_weaker_reference_that_all_blocks_read(shallow, monkeypatch):
    monkeypatch.setattr(shallow.pipe, "controlnet_keypoints", shallow.pipe.controlnet)
    shallow.animate(frames=16, reference_strength=0.5, fusion="full")


class TestWaiting:
    """How often the host waits for the device."""

    @pytest.mark.parametrize(
        ("scheduler", "waits"),
        [
            (DPMSolverMultistepScheduler, 0),
            (EulerDiscreteScheduler, 0),
            (DDPMScheduler, 1),  # noise of its own, drawn on the CPU
            (EulerAncestralDiscreteScheduler, 1),
            (LCMScheduler, 1),
            (UniPCMultistepScheduler, 12),  # makes its coefficients on the device
        ],
    )
    def test_steps_of_schedulers(self, shallow, monkeypatch, scheduler, waits):
        pipe = shallow.pipe
        monkeypatch.setattr(pipe, "scheduler", scheduler.from_config(pipe.scheduler.config))
        generator, counts = torch.Generator().manual_seed(1), []
        # The networks answer with what they are asked about: the steps alone are looked at.
        networks = Networks(
            encode=lambda _: {},
            show=lambda _: None,
            control=None,
            predict=None,
            fuse=lambda _, scaled, *__: (scaled, scaled.new_ones(24)),
        )
        with shallow.gpu as gpu:
            pipe.scheduler.set_timesteps(4, device="cpu")
            timesteps = pipe.scheduler.timesteps
            latents = pipe.prepare_latents(24, (SIZE, SIZE), generator=generator)
            gpu.syncs.clear()
            for after, _ in denoise(
                latents,
                pipe.scheduler,
                timesteps,
                lambda: networks,
                plan=WindowPlan(),
                guidance_scale=1,
                generator=generator,
                attempt=lambda step: step(),
            ):
                assert after.device.type == "cuda" and after.dtype == torch.float32
                counts.append(len(gpu.syncs))
                gpu.syncs.clear()
        assert len(counts) == 4
        assert max(counts) <= waits, counts

    def test_it_is_noticed(self):
        """The recorder itself: what waits is found, what does not is not."""
        with PretendedGPU() as gpu, torch.inference_mode():
            x = torch.zeros(4, device="cuda")
            _ = x + 1, x[1:], x.to("cuda"), torch.zeros(3).to("cuda", non_blocking=True)
            assert gpu.syncs == []
            float(x[0]), bool(x[0] > 0), x.tolist(), x[x > 0], torch.nonzero(x), torch.equal(x, x)
            x.cpu(), torch.tensor([1, 2], device="cuda"), x[[0, 1]]
        kinds = [sync.kind for sync in gpu.syncs]
        assert kinds == ["read"] * 6 + ["shape"] * 2 + ["read"] * 2 + ["upload"] * 2
        with PretendedGPU(), pytest.raises(RuntimeError):
            torch.nn.functional.linear(torch.zeros(2, 3, device="cuda"), torch.zeros(4, 3))


def test_people_of_a_batch_of_frames():
    with PretendedGPU() as gpu:
        with gpu.building(torch.float32):
            network = DensePoseRCNN().eval()
        people = network.people([np.zeros((SIZE, SIZE, 3), np.uint8)] * 4, margin=0.1)
    assert [len(found) for found in people] == [3] * 4
