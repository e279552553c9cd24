"""Memory profiles: which is chosen, what they change, and going on with the next when memory runs out."""

from __future__ import annotations

import itertools
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from magicanimate import memory
from magicanimate.animator import Animator
from magicanimate.config import AnimationRequest
from magicanimate.device import available_bytes, is_out_of_memory
from magicanimate.errors import InputError
from magicanimate.media.writer import VideoWriter
from magicanimate.memory import (
    Footprint,
    MemoryProfile,
    OutOfMemoryFallback,
    Work,
    bytes_on,
    choose_profile,
    needed_bytes,
    place,
    profile_named,
    profiles_for,
)
from magicanimate.models.autoencoder import decode_scaled, encode_scaled, set_sliced
from magicanimate.pipeline import MagicAnimatePipeline
from magicanimate.windows import WindowPlan
from tests.dancer_files import control_frames
from tests.rounding import assert_same_pictures

STANDARD, FRUGAL, TIGHT = profiles_for("cpu")
TWO_WINDOWS = MemoryProfile("two windows", "two windows at once", ("cpu",), window_batch=2)
OFFLOAD = MemoryProfile("offload", "from and to the CPU", ("cpu",), offload=True)
MILLION = 10**6
# Stable Diffusion 1.5 with motion modules: the sums are the released checkpoint's, the blocks about so.
FULL = Footprint(
    parameters={
        "unet": {"": 150 * MILLION, "up_blocks.1": 400 * MILLION, "down_blocks.0": 727 * MILLION},
        "controlnet": {"": 100 * MILLION, "down_blocks.2": 261 * MILLION},
        "appearance_encoder": {"": 100 * MILLION, "up_blocks.1": 757 * MILLION},
        "vae": {"": 84 * MILLION},
    },
    channels=320,
    decoder_channels=256,
    scale=8,
)


@pytest.fixture
def pipe(tiny_model) -> MagicAnimatePipeline:
    return MagicAnimatePipeline.from_pretrained(tiny_model)


def animate(pipe, **settings) -> np.ndarray:
    """Frames of three windows, three steps."""
    photo = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    settings = {
        "windows": WindowPlan(context_length=4, context_overlap=1),
        "num_inference_steps": 3,
        **settings,
    }
    return pipe(photo, control_frames(8, 32), **settings).frames.astype(int)


class FailingOnce:
    """Makes a module fail in a call as if an allocation had failed, and counts the calls."""

    def __init__(self, module: torch.nn.Module, call: int, error: BaseException):
        self.calls, self._call, self._error = 0, call, error
        module.register_forward_pre_hook(self._count)

    def _count(self, *_) -> None:
        self.calls += 1
        if self.calls == self._call:
            raise self._error


def out_of_memory() -> BaseException:
    """What torch really raises on this machine."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    return caught.value


@pytest.mark.parametrize(
    ("device", "names"),
    [
        ("cpu", ["standard", "frugal", "tight"]),
        ("mps", ["standard", "frugal"]),
        ("cuda:1", ["roomy", "standard", "frugal", "offload", "tight"]),
    ],
)
def test_profiles_of_a_device(device, names):
    assert [profile.name for profile in profiles_for(device)] == names


def test_a_profile_the_device_does_not_have():
    with pytest.raises(
        InputError, match="no memory profile 'offload' for cpu; choose one of: auto, standard"
    ):
        profile_named("offload", "cpu")


def test_less_memory_chooses_a_tighter_profile():
    work = Work(512, 512)
    needs = [
        needed_bytes(FULL, work, profile, device="cuda", dtype="float16") for profile in profiles_for("cuda")
    ]
    assert needs == sorted(needs, reverse=True)
    chosen = [
        choose_profile("auto", FULL, work, device="cuda", dtype="float16", free=int(gigabytes * 1e9))[0].name
        for gigabytes in (80, 8.4, 8.1, 6, 1)
    ]
    assert chosen == ["roomy", "standard", "frugal", "offload", "tight"]
    verdict = choose_profile("auto", FULL, work, device="cuda", dtype="float16", free=10**9)[1]
    assert verdict.endswith("perhaps too little")


def test_larger_pictures_need_more():
    small, large = (
        needed_bytes(FULL, Work(n, n), STANDARD, device="cpu", dtype="float16") for n in (512, 768)
    )
    assert small < large


def test_features_that_serve_again_are_counted():
    """By as much as is kept, up to the room that there is for it."""
    request = AnimationRequest(Path(), Path(), Path(), width=512, height=512, guidance_scale=7.5)

    def more(frames: int, **changes) -> int:
        alone, kept = (
            needed_bytes(FULL, Work.of(asked, frames), FRUGAL, device="cuda", dtype="float16")
            for asked in (request, replace(request, deep_reuse=130, **changes))
        )
        return kept - alone

    assert more(16) == pytest.approx(126e6, rel=0.01)
    assert more(28) == 2 * more(16) and more(16, guidance_scale=1.0) == more(16) * 2 // 3
    assert more(2000) == 2 * 1024**3


def test_footprint_counts_what_is_loaded(tiny_model, pipe):
    footprint = Footprint.of(tiny_model)
    for name, blocks in footprint.parameters.items():
        state = pipe.components[name].state_dict()
        assert sum(blocks.values()) == sum(tensor.numel() for tensor in state.values())
    assert footprint.scale == pipe.vae_scale_factor
    assert "up_blocks.0" in footprint.parameters["unet"]


def test_what_counts_as_out_of_memory():
    assert is_out_of_memory(out_of_memory())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes differ"))
    assert available_bytes("cpu") > 0


@pytest.mark.parametrize(
    ("scheduler", "part", "failing", "calls"),
    [
        ("DDIMScheduler", "unet", 8, 2 * (2 + 2 + 3 + 3)),
        ("UniPCMultistepScheduler", "unet", 8, 2 * (2 + 2 + 3 + 3)),
        ("DPMSolverMultistepScheduler", "controlnet", 6, 2 + 2 + 2 + 3),
        ("EulerAncestralDiscreteScheduler", "appearance_encoder", 2, 1 + 1 + 1 + 1),
        ("DDIMScheduler", "vae.encoder", 1, 1 + 1),
        ("DDIMScheduler", "vae.decoder", 2, 1 + 1 + 4),
    ],
)
def test_goes_on_where_memory_ran_out(pipe, scheduler, part, failing, calls):
    """With the step, or the frames, that failed; three windows are two calls, then three (UNet: twice)."""
    pipe.scheduler = getattr(diffusers, scheduler).from_config(
        {**pipe.scheduler.config, "rescale_betas_zero_snr": False}
    )
    expected = animate(pipe)
    counted = FailingOnce(attrgetter(part)(pipe), failing, out_of_memory())
    said, done = [], []
    fallback = OutOfMemoryFallback(
        pipe, TWO_WINDOWS, steps=[TWO_WINDOWS, FRUGAL], placed=TWO_WINDOWS, on_fallback=said.append
    )
    frames = animate(pipe, fallback=fallback, on_window=lambda step, total: done.append((step, total)))
    assert_same_pictures(frames, expected)
    assert fallback.profile == FRUGAL
    assert len(said) == 1
    assert "'two windows'" in said[0] and "'frugal'" in said[0]
    assert counted.calls == calls
    assert done[-1] == (9, 9)


@pytest.mark.parametrize("below", [TIGHT, OFFLOAD], ids=["eight bits", "offload"])
def test_networks_are_placed_anew_amid_a_step(pipe, below):
    """Whatever the UNet's stand-ins do with the weights, it must do otherwise from there on."""
    expected = animate(pipe)
    FailingOnce(pipe.unet.up_blocks[-1], 3, out_of_memory())
    fallback = OutOfMemoryFallback(pipe, STANDARD, steps=[STANDARD, below], placed=STANDARD)
    frames = animate(pipe, fallback=fallback)
    assert fallback.placed == below
    assert np.abs(frames - expected).mean() < (6 if below.eight_bit else 0.5)


def test_the_last_profile_fails(pipe):
    error = out_of_memory()
    FailingOnce(pipe.unet, 1, error)
    with pytest.raises(RuntimeError) as caught:
        animate(pipe, fallback=OutOfMemoryFallback(pipe, STANDARD, steps=[STANDARD], placed=STANDARD))
    assert caught.value is error


def test_other_errors_are_not_tried_again(pipe):
    failing = FailingOnce(pipe.unet, 1, RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        animate(pipe, fallback=OutOfMemoryFallback(pipe, STANDARD, placed=STANDARD))
    assert failing.calls == 1


def test_eight_bits_take_a_quarter_and_change_little(pipe):
    expected, before = animate(pipe), bytes_on(pipe, "cpu")
    vae = sum(parameter.nbytes for parameter in pipe.vae.parameters())
    place(pipe, TIGHT, device="cpu")
    place(pipe, TIGHT, device="cpu", before=TIGHT)  # nothing is done twice
    frames = animate(pipe)
    assert bytes_on(pipe, "cpu") - vae < 0.35 * (before - vae)  # norms stay as they are
    assert pipe.unet.conv_in.weight.dtype == torch.float8_e4m3fn
    assert pipe.unet.dtype == torch.float32
    assert 0 < np.abs(frames - expected).mean() < 6


def test_blocks_from_elsewhere_give_the_same(pipe):
    """On a CPU the blocks move nowhere, but they pass through the same hooks as on a GPU."""
    expected = animate(pipe)
    place(pipe, OFFLOAD, device="cpu")
    place(pipe, replace(TIGHT, offload=True, eight_bit=False), device="cpu", before=OFFLOAD)
    assert_same_pictures(animate(pipe), expected)
    with pytest.raises(ValueError, match="loaded again"):
        place(pipe, STANDARD, device="cpu", before=OFFLOAD)


def kl_autoencoder() -> diffusers.AutoencoderKL:
    return diffusers.AutoencoderKL(
        block_out_channels=(32,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )


@pytest.mark.parametrize("kind", ["dc", "kl"])
def test_autoencoder_in_slices_and_tiles(pipe, kind):
    vae = pipe.vae if kind == "dc" else kl_autoencoder()
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        latents = encode_scaled(vae, pixels)
        whole = decode_scaled(vae, latents)
        set_sliced(vae, 64)
        assert torch.allclose(decode_scaled(vae, latents), whole, atol=1e-5)
        set_sliced(vae, 32)
        tiled = decode_scaled(vae, latents)
        set_sliced(vae, None)
        assert torch.allclose(decode_scaled(vae, latents), whole, atol=1e-5)
    assert tiled.shape == whole.shape
    assert not torch.equal(tiled, whole)


@pytest.fixture
def request_(tmp_path) -> AnimationRequest:
    Image.new("RGB", (40, 48), (200, 120, 40)).save(tmp_path / "photo.png")
    with VideoWriter(tmp_path / "motion.mp4", width=64, height=64, fps=12.5) as writer:
        for frame in control_frames(4, 64):
            writer.write(frame)
    return AnimationRequest(tmp_path / "photo.png", tmp_path / "motion.mp4", tmp_path / "frames")


def frames_of(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(file)) for file in sorted(folder.glob("*.png"))]).astype(int)


def test_animator_says_that_memory_ran_out_and_goes_on(tiny_model, request_):
    animator = Animator(tiny_model, device="cpu")
    expected = frames_of(animator.animate(request_).output)
    FailingOnce(animator.pipe.unet, 2, out_of_memory())
    seen = []
    result = animator.animate(replace(request_, output=request_.output.with_name("again")), seen.append)
    assert_same_pictures(frames_of(result.output), expected)
    assert result.settings["memory"] == "frugal"
    notes = [note for note, _ in itertools.groupby(progress.note for progress in seen)]
    assert notes[0] == ""
    assert len(notes) == 2
    assert "going on with 'frugal'" in notes[1]


def test_animator_without_any_memory(tiny_model, request_):
    animator = Animator(tiny_model, device="cpu", memory="tight")
    animator.load()
    FailingOnce(animator.pipe.unet, 1, out_of_memory())
    with pytest.raises(InputError, match="does not hold 32x32 pixels"):
        animator.animate(request_)
    assert not request_.output.exists()


def test_animator_with_a_profile_of_other_devices(tiny_model):
    with pytest.raises(InputError, match="no memory profile 'roomy' for cpu"):
        Animator(tiny_model, device="cpu", memory="roomy").load()


def test_networks_are_read_again_when_there_is_more_memory(tiny_model, request_, monkeypatch):
    free = {"bytes": 0}
    monkeypatch.setattr(memory, "available_bytes", lambda device: free["bytes"])
    animator = Animator(tiny_model, device="cpu")
    assert animator.animate(request_).settings["memory"] == "tight"
    assert animator.pipe.unet.conv_in.weight.dtype == torch.float8_e4m3fn
    free["bytes"] = 10**10
    again = animator.animate(replace(request_, output=request_.output.with_name("again")))
    assert again.settings["memory"] == "standard"
    assert animator.pipe.unet.conv_in.weight.dtype == torch.float32
