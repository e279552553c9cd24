"""What a process of the group in `test_distributed` does; writes what it saw to a file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from magicanimate.acceleration.window_parallel import join_process_group
from magicanimate.errors import Cancelled, InputError
from magicanimate.memory import OutOfMemoryFallback, profiles_for
from magicanimate.pipeline import MagicAnimatePipeline
from magicanimate.windows import WindowPlan
from tests.dancer_files import control_frames

STANDARD, FRUGAL, _ = profiles_for("cpu")


def animate(pipe: MagicAnimatePipeline, **settings) -> torch.Tensor:
    """Latents of three windows, two steps, by a solver that remembers earlier steps."""
    from diffusers import UniPCMultistepScheduler

    pipe.scheduler = UniPCMultistepScheduler.from_config(
        {**pipe.scheduler.config, "rescale_betas_zero_snr": False}
    )
    photo = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return pipe(
        photo,
        control_frames(8, 32),
        num_inference_steps=2,
        windows=WindowPlan(context_length=4, context_overlap=1),
        output_type="latent",
        **settings,
    ).latents


def outcome(work) -> str:
    """The name of the error that ends some work."""
    try:
        work()
    except (Cancelled, InputError, ArithmeticError) as error:
        return type(error).__name__
    return "nothing"


def run(rank: int, size: int, port: int, model: Path, folder: Path) -> None:
    """Animate together; then again while memory runs out, one is told to stop, one fails, one is gone."""
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    pipe = MagicAnimatePipeline.from_pretrained(model)
    calls: list[int] = []
    error: list[Exception] = []

    def before_unet(*_) -> None:
        calls.append(rank)
        if error and rank == 1:
            raise error.pop()

    pipe.unet.register_forward_pre_hook(before_unet)
    seen: dict[str, object] = {}
    with join_process_group(None) as group:
        seen["latents"] = animate(pipe, group=group)
        seen["calls"] = len(calls)
        error.append(MemoryError())
        fallback = OutOfMemoryFallback(pipe, STANDARD, placed=STANDARD, group=group)
        seen["after memory ran out"] = animate(pipe, group=group, fallback=fallback)
        seen["profile"] = fallback.profile.name
        seen["one is told to stop"] = outcome(
            lambda: animate(pipe, group=group, should_stop=lambda: rank == 1)
        )
        error.append(ArithmeticError())
        seen["one fails"] = outcome(lambda: animate(pipe, group=group))
        if rank == 0:
            seen["the other is gone"] = outcome(lambda: animate(pipe, group=group))
    torch.save(seen, folder / f"{rank}.pt")
