"""Approximations leave out what they say, stay near the full result, and presets fill in what is open."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from magicanimate.acceleration import deep_cache
from magicanimate.acceleration.deep_cache import cached_step
from magicanimate.acceleration.options import Approximations, OptimizationConfig, completed, speed_preset
from magicanimate.cli.main import build_parser
from magicanimate.config import PRESETS, AnimationRequest
from magicanimate.errors import InputError
from magicanimate.request_checks import check_request
from tests.golden_cases import tiny_pipeline
from tests.rounding import assert_same_but_for_rounding
from tests.test_acceleration import PLAIN, animate, calls

WHOLE_RUN = 1000  # timesteps: what the first step left serves to the end
FRAMES = 2 * 4  # of the two windows of a step


@pytest.fixture(scope="module")
def pipe():
    pipe = tiny_pipeline()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def exact(pipe) -> torch.Tensor:
    return animate(pipe, OptimizationConfig())


def test_surface_gives_the_full_prediction_for_the_features_of_the_same_step(pipe):
    """The cut is in the right place: nothing is lost or counted twice."""
    torch.manual_seed(0)
    unet, seen = pipe.unet, []
    sample, text, timestep = torch.randn(1, 4, 3, 8, 8), torch.randn(1, 7, 32), torch.tensor(500)
    with torch.inference_mode():
        frames, texts = sample[0].transpose(0, 1), text.expand(3, -1, -1)
        down, mid = pipe.controlnet(frames, timestep, texts, torch.rand(3, 3, 64, 64), return_dict=False)
        hook = (
            unet.up_blocks[-1]
            .resnets[-1]
            .register_forward_pre_hook(
                lambda _, args, kwargs: seen.append(kwargs["input_tensor"]), with_kwargs=True
            )
        )
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
        full = unet(sample, timestep, text, **residuals).sample
        hook.remove()
        deep = seen[0][:, : -unet.conv_in.out_channels]
        found = cached_step(unet, sample, timestep, texts, deep, down[0])
    torch.testing.assert_close(found, full)


@pytest.mark.parametrize(
    ("approximations", "control", "last"),
    [
        (Approximations(), 2 * 6, 2 * 2 * FRAMES),
        (Approximations(deep_reuse=WHOLE_RUN), 6, 2 * 2 * FRAMES),
        (Approximations(guidance_stop=0.5), 2 * 6, 3 * FRAMES),
        (Approximations(guidance_start=1.0), 2 * 6, 2 * FRAMES),
    ],
)
def test_what_is_left_out(pipe, approximations, control, last):
    """Frames through ControlNet and last convolution in two steps: 6 frames are two windows of 4."""
    run = lambda: animate(pipe, OptimizationConfig(), approximations=approximations)  # noqa: E731
    assert calls(pipe.controlnet.conv_in, run) == control
    assert calls(pipe.unet.conv_out, run) == last


@pytest.mark.parametrize("speed", [OptimizationConfig(), PLAIN, OptimizationConfig(window_batch=2)])
def test_deep_features_serve_in_every_arrangement(pipe, exact, speed):
    found = animate(pipe, speed, approximations=Approximations(deep_reuse=WHOLE_RUN))
    other = animate(pipe, OptimizationConfig(), approximations=Approximations(deep_reuse=WHOLE_RUN))
    size = exact.abs().max()
    assert (found - other).abs().max() < 2e-3 * size  # what is kept is rounded
    assert 1e-4 * size < (found - exact).abs().max() < 0.2 * size


def test_nothing_is_kept_without_room_or_for_too_short(pipe, exact, monkeypatch):
    assert_same_but_for_rounding(
        animate(pipe, OptimizationConfig(), approximations=Approximations(deep_reuse=1)), exact
    )
    monkeypatch.setattr(deep_cache, "DEEP_CACHE_BYTES", 0)
    assert_same_but_for_rounding(
        animate(pipe, OptimizationConfig(), approximations=Approximations(deep_reuse=WHOLE_RUN)), exact
    )


def test_features_of_the_guided_half_serve_alone_but_not_the_other_way(pipe):
    """Guidance that stops goes on at the surface; guidance that starts needs the unguided half in full."""
    for interval, control in (({"guidance_stop": 0.5}, 6), ({"guidance_start": 0.5}, 12)):
        approximations = Approximations(deep_reuse=WHOLE_RUN, **interval)
        work = partial(animate, pipe, OptimizationConfig(), approximations=approximations)
        assert calls(pipe.controlnet.conv_in, work) == control


def test_without_guidance_the_conditional_half_is_left(pipe):
    found = animate(pipe, OptimizationConfig(), approximations=Approximations(guidance_stop=0.0))
    torch.testing.assert_close(
        found, animate(pipe, OptimizationConfig(), guidance_scale=1.0), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("ahead", [False, True])
def test_encoder_is_asked_again_when_its_answer_is_too_old(pipe, ahead):
    run = lambda reuse: animate(  # noqa: E731
        pipe,
        OptimizationConfig(precompute_banks=ahead),
        approximations=Approximations(encoder_reuse=reuse),
        frames=1,
    )
    assert calls(pipe.appearance_encoder.conv_in, lambda: run(1)) == 2
    assert calls(pipe.appearance_encoder.conv_in, lambda: run(WHOLE_RUN)) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"guidance_start": 0.6, "guidance_stop": 0.5}, "from 0.6 to 0.5"),
        ({"guidance_stop": 1.5}, "to 1.5"),
        ({"deep_reuse": -1}, "deep_reuse is -1"),
        ({"encoder_reuse": -5}, "encoder_reuse is -5"),
        ({"preset": "hasty"}, "exact, balanced, fast, draft"),
    ],
)
def test_bad_values_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        check_request(AnimationRequest(Path(), Path(), Path(), **values))


def test_presets_fill_in_what_is_open():
    def filled(steps: int, **values) -> AnimationRequest:
        return completed(AnimationRequest(Path(), Path(), Path(), **values), steps=steps)

    exact = filled(25)
    assert (exact.num_inference_steps, exact.scheduler) == (25, None)
    assert Approximations.of(exact.settings()) == Approximations()
    for name in PRESETS[1:]:
        found = filled(25, preset=name)
        assert found.num_inference_steps < 25 and found.scheduler == speed_preset(name).scheduler
        assert Approximations.of(found.settings()) == speed_preset(name).approximations
    asked = filled(25, preset="fast", num_inference_steps=20, scheduler="DDIMScheduler", deep_reuse=0)
    assert (asked.num_inference_steps, asked.scheduler, asked.deep_reuse) == (20, "DDIMScheduler", 0)
    assert completed(found, steps=25) == found  # a settings file repeats its run


def test_presets_take_at_most_half_of_few_steps():
    steps = {name: [speed_preset(name).steps(own) for own in (50, 25, 10, 4, 1)] for name in PRESETS}
    assert steps["exact"] == [50, 25, 10, 4, 1]
    for name in PRESETS[1:]:
        most = speed_preset(name).most_steps
        assert steps[name] == [most, most, min(most, 5), 2, 1]


@pytest.mark.parametrize("name", PRESETS)
def test_of_a_single_step_nothing_is_left_out(name):
    found = completed(AnimationRequest(Path(), Path(), Path(), preset=name), steps=1)
    assert (found.num_inference_steps, found.scheduler) == (1, None)
    assert Approximations.of(found.settings()) == Approximations()


def test_command_line_names_every_switch():
    words = "animate a.png b.mp4 --preset fast --guidance-start 0.1 --guidance-stop 0.8 --deep-reuse 90"
    args = vars(build_parser().parse_args([*words.split(), "--encoder-reuse", "200"]))
    asked = {name: args[name] for name in ("preset", *Approximations.__dataclass_fields__)}
    assert asked == {
        "preset": "fast",
        "guidance_start": 0.1,
        "guidance_stop": 0.8,
        "deep_reuse": 90,
        "encoder_reuse": 200,
    }
