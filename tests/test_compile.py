"""Compiled blocks give the same; where they cannot be compiled it is said and everything goes on."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest
import torch

from magicanimate.acceleration.backends import compiler_problem
from magicanimate.acceleration.options import OptimizationConfig
from magicanimate.animator import Animator
from magicanimate.memory import compile_denoisers, place, profile_named
from magicanimate.pipeline import MagicAnimatePipeline
from tests.conftest import ROOT
from tests.golden_cases import tiny_pipeline
from tests.test_acceleration import animate

# With the smaller picture the widest blocks see one pixel.
SIZES = [{"frames": frames} for frames in (6, 3, 5, 4, 2, 7, 1)]
SIZES += [{"frames": frames, "height": 40, "width": 72} for frames in (5, 1)]


def compiled(pipe: MagicAnimatePipeline) -> set[str]:
    return {
        name
        for part in (pipe.unet, pipe.controlnet, pipe.appearance_encoder)
        for name, module in part.named_modules()
        if module._compiled_call_impl is not None
    }


@pytest.fixture
def fresh_compiler():
    """Nothing is compiled yet, and what is compiled too often is an error."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        yield
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("lean", [True, False])
def test_same_result_in_every_size(lean, fresh_compiler):
    if problem := compiler_problem("cpu"):
        pytest.skip(problem)
    pipe, speed = tiny_pipeline(), OptimizationConfig(cpu_kernels=lean)
    plain = [animate(pipe, speed, **size) for size in SIZES]
    compile_denoisers(pipe)
    for size, expected in zip(SIZES, plain, strict=True):
        found = animate(pipe, speed, **size)
        assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    place(pipe, profile_named("tight", "cpu"), device="cpu")
    assert torch.isfinite(animate(pipe, speed)).all()


def test_what_keeps_something_between_calls_is_not_compiled(tiny_model):
    pipe = MagicAnimatePipeline.from_pretrained(tiny_model)
    compile_denoisers(pipe)
    names = compiled(pipe)
    assert any(".motion_modules." in name for name in names) and any(name.endswith(".ff") for name in names)
    assert not any("attn" in name or "resnets" in name for name in names)
    place(pipe, profile_named("standard", "cpu"), device="cpu")
    assert compiled(pipe) == names
    place(pipe, profile_named("tight", "cpu"), device="cpu")
    assert not compiled(pipe)


def test_profile_with_hooks_goes_on_without(tiny_model, caplog):
    animator = Animator(tiny_model, device="cpu", memory="tight", compile=True)
    with caplog.at_level(logging.WARNING):
        animator.load()
    assert "no effect with the memory profile tight" in caplog.text and not compiled(animator.pipe)


@pytest.mark.slow
def test_missing_compiler_is_said_in_one_sentence(tmp_path):
    script = "from magicanimate.acceleration.backends import compiler_problem; print(compiler_problem('cpu'))"
    environment = {**os.environ, "CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("torch.compile does not work here (") and done.stdout.count("\n") == 1
