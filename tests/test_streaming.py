"""Streaming: the beginning is final first, and the result is that of the ordinary order."""

from __future__ import annotations

from dataclasses import replace

import av
import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from magicanimate.acceleration.options import Approximations
from magicanimate.acceleration.streaming import stream
from magicanimate.animator import Animator
from magicanimate.config import AnimationRequest
from magicanimate.errors import Cancelled, InputError
from magicanimate.media.writer import GrowingVideo
from magicanimate.pipeline import MagicAnimatePipeline
from magicanimate.request_checks import check_request, so_far_path
from magicanimate.sampling import Networks, denoise
from magicanimate.windows import WindowPlan
from tests import inputs
from tests.rounding import assert_same_but_for_rounding, assert_same_pictures

Call = tuple[int, int]  # first frame of a window, timestep


def networks(calls: list[Call]) -> Networks:
    """Every frame's noise depends on all frames of its window, and on where it is in the clip."""

    def predict(frames, noisy, timestep, _):
        calls.append((frames[0], int(timestep)))
        place = torch.tensor(frames).view(1, 1, -1, 1, 1) / 100
        return torch.tanh(noisy + noisy.mean(2, keepdim=True) / 3 + place)

    return Networks(lambda timestep: {}, lambda bank: None, lambda *_: [], predict)


def both_orders(frames: int, steps: int, *, plan: WindowPlan, scheduler: str = "DDIMScheduler"):
    """Latents of the ordinary order, the parts that stream, and the calls until the first one, and in all."""
    latents = torch.randn(1, 4, frames, 2, 2, generator=torch.Generator().manual_seed(0))
    found = []
    calls: list[Call] = []
    for order in (denoise, stream):
        own = getattr(diffusers, scheduler)()
        own.set_timesteps(steps)
        calls.clear()
        found.append(
            order(
                latents.clone(),
                own,
                own.timesteps,
                lambda: networks(calls),
                plan=plan,
                guidance_scale=1.0,
                generator=torch.Generator().manual_seed(1),
                attempt=lambda step: step(),
            )
        )
    *_, (expected, _) = found[0]
    calls.clear()
    parts = [next(found[1])]
    before_first = list(calls)
    parts += found[1]
    return expected, parts, before_first, calls


@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("frames", [10, 16, 17, 50])
@pytest.mark.parametrize(
    "scheduler",
    ["DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"],
)
def test_the_same_sums_in_another_order(scheduler, frames, offset):
    """Equal to the last bit: each number is made of the same numbers, added up in the same order."""
    plan = WindowPlan(context_length=16, context_overlap=4, context_offset=offset)
    expected, parts, _, calls = both_orders(frames, 6, plan=plan, scheduler=scheduler)
    assert torch.equal(torch.cat(parts, dim=2), expected)
    assert len(calls) == sum(len(plan.windows(frames, step=i)) for i in range(6))


@pytest.mark.parametrize(("steps", "share"), [(4, 0.06), (8, 0.11), (25, 0.31)])
def test_when_the_first_frames_of_500_are_there(steps, share):
    """As a share of the predictions; 12 frames are final when the first window is."""
    _, parts, before, calls = both_orders(500, steps, plan=WindowPlan())
    assert len(calls) == 42 * steps
    assert len(before) == steps * (steps + 1) // 2
    assert len(before) / len(calls) == pytest.approx(share, abs=0.005)
    assert parts[0].shape[2] == 12


def test_each_window_is_a_step_behind_the_one_before_it():
    _, _, _, calls = both_orders(40, 3, plan=WindowPlan())
    moments = sorted({timestep for _, timestep in calls}, reverse=True)
    order = [(first // 12, moments.index(timestep)) for first, timestep in calls]
    assert order == [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2), (2, 1), (1, 2), (2, 2)]


def test_noise_of_the_steps_does_not_depend_on_what_is_taken():
    """A scheduler that adds noise draws other numbers than in the ordinary order, but always the same."""
    plan = WindowPlan()
    one, other = (both_orders(40, 4, plan=plan, scheduler="LCMScheduler")[1] for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))
    parts = torch.cat(one, dim=2)
    assert torch.isfinite(parts).all()
    assert len({float(frame) for frame in parts[0, 0, :, 0, 0]}) == 40


@pytest.fixture
def pipe(tiny_model) -> MagicAnimatePipeline:
    return MagicAnimatePipeline.from_pretrained(tiny_model)


def clip(frames: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return (
        rng.integers(0, 256, (32, 32, 3), dtype=np.uint8),
        rng.integers(0, 256, (frames, 32, 32, 3), dtype=np.uint8),
    )


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"windows": WindowPlan(context_length=4, context_overlap=1, context_offset=True)},
        {"approximations": Approximations(guidance_stop=0.5, deep_reuse=400, encoder_reuse=400)},
    ],
    ids=["plain", "offset", "approximations"],
)
def test_the_pipeline_gives_the_same_frames(pipe, change):
    settings = {
        "num_inference_steps": 4,
        "guidance_scale": 2.0,
        "windows": WindowPlan(context_length=4, context_overlap=2),
        **change,
    }
    expected = pipe(*clip(12), **settings).frames
    seen = []
    output = pipe(
        *clip(12),
        **settings,
        output_type="stream",
        beginning_first=True,
        on_window=lambda *done: seen.append(done),
    )
    first = next(output.frames)
    windows_before_first = len(seen)
    found = np.stack([first, *output.frames])
    assert_same_pictures(found, expected)
    done, total = seen[-1]
    assert done == total == len(seen) and 0 < windows_before_first < total
    assert_same_pictures(pipe(*clip(12), **settings).frames, expected)


def test_giving_up_leaves_the_networks_as_they_were(pipe):
    processors, kinds = pipe.unet.attn_processors, [type(each) for each in pipe.unet.modules()]
    output = pipe(
        *clip(12),
        num_inference_steps=2,
        windows=WindowPlan(context_length=4, context_overlap=2),
        output_type="stream",
        beginning_first=True,
    )
    assert pipe.unet.attn_processors != processors
    output.frames.close()
    assert pipe.unet.attn_processors == processors
    assert [type(each) for each in pipe.unet.modules()] == kinds


def test_what_cannot_stream_is_refused(pipe):
    for change in ({"output_type": "np"}, {"windows": WindowPlan(closed_loop=True)}):
        with pytest.raises(ValueError, match="no closed loop"):
            pipe(*clip(12), **({"output_type": "stream", "beginning_first": True} | change))


@pytest.fixture
def request_(tmp_path) -> AnimationRequest:
    return AnimationRequest(
        photo=inputs.write_photo(tmp_path / "me.png"),
        motion=inputs.write_motion(tmp_path / "dance.mp4", 30),
        output=tmp_path / "dance.mp4.out",
        stream=True,
        preview_every=1,
        context_length=8,
        context_overlap=2,
    )


def test_settings_that_cannot_stream_are_refused(request_):
    for change, why in ({"closed_loop": True}, "closed loop"), ({"detail": "faces"}, "are refined"):
        with pytest.raises(InputError, match=why):
            check_request(replace(request_, **change))


def test_a_streamed_animation(tiny_model, request_, tmp_path):
    """What is done plays before the rest is; the result is that of the ordinary order."""
    animator, plays = Animator(tiny_model, device="cpu"), []
    request = replace(request_, output=tmp_path / "streamed")
    part = so_far_path(request.output)

    def look(progress) -> None:
        if progress.preview is not None:
            with av.open(str(part)) as container:
                frames = sum(1 for _ in container.decode(video=0))
            plays.append((progress.step / progress.total, frames, len(progress.preview)))

    result = animator.animate(request, look)
    assert [shown for _, _, shown in plays] == [8, 16, 24]
    assert [playable for _, playable, _ in plays] == [6, 14, 22]  # the eighth is written afterwards
    assert 0 < plays[0][0] < 1  # while windows are still to come
    assert not part.exists()
    assert result.settings["stream"] is True and "decode" not in result.seconds
    plain = animator.animate(replace(request, stream=False, output=tmp_path / "plain"))
    for name in ("000000.png", "000010.png", "000029.png"):
        one, other = (np.asarray(Image.open(each.output / name)) for each in (result, plain))
        assert_same_pictures(one, other)


def test_a_stopped_stream_leaves_nothing(tiny_model, request_, tmp_path):
    animator, shown = Animator(tiny_model, device="cpu"), []
    request = replace(request_, output=tmp_path / "streamed.mp4")
    with pytest.raises(Cancelled):
        animator.animate(request, lambda now: shown.append(now.preview is not None), lambda: any(shown))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["dance.mp4", "me.png"]
    assert animator.animate(replace(request, num_inference_steps=1)).num_frames == 30


def test_a_growing_video_plays_before_it_is_finished(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (30, 32, 48, 3), dtype=np.uint8)
    path, counts = tmp_path / "me_so_far.mp4", []
    with GrowingVideo(path, width=48, height=32, fps=10, metadata={}) as video:
        for frame in frames:
            video.write(frame)
            if video_bytes := path.stat().st_size:
                counts.append(video_bytes)
        with av.open(str(path)) as container:
            playable = sum(1 for _ in container.decode(video=0))
    assert playable == 29 and counts == sorted(counts) and counts[-1] > counts[0]
    assert not path.exists()


def test_the_tiny_loop_agrees_within_rounding(pipe):
    """Latents, where the ordinary order shares the ControlNet's results and streaming does not."""
    settings = {
        "num_inference_steps": 3,
        "guidance_scale": 2.0,
        "windows": WindowPlan(context_length=4, context_overlap=2),
    }
    expected = pipe(*clip(10), **settings, output_type="latent").latents
    parts = []
    decode = pipe.decode
    pipe.decode = lambda latents, **given: (parts.append(latents), decode(latents, **given))[1]
    list(pipe(*clip(10), **settings, output_type="stream", beginning_first=True).frames)
    assert_same_but_for_rounding(torch.cat(parts, dim=2), expected)
