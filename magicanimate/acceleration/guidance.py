"""Cheaper classifier-free guidance: one branch at a time, or in some of the steps only.

Letters in shape comments: see `magicanimate.sampling`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from magicanimate.models.unet import VideoUNet
from magicanimate.sampling import Networks, Residuals


def sequential_guidance(
    networks: Networks, branches: Sequence[Networks], unet: VideoUNet, *, share_down: bool
) -> Networks:
    """Predict the guidance branches one after the other, which halves the largest activations.

    Args:
        branches: the networks with the text of one branch each, the unconditional one first.
        share_down: run the UNet's down path once for all branches. Right only where the texts are equal and
            the down blocks do not read the photo, so that nothing tells the branches apart.
    """

    def predict(
        frames: list[int], noisy: torch.Tensor, timestep: torch.Tensor, residuals: Residuals
    ) -> torch.Tensor:
        # The order of the branches is that in which `denoise` splits them: unconditional, conditional.
        with down_path_once(unet) if share_down else contextlib.nullcontext():
            return torch.cat([branch.predict(frames, noisy, timestep, residuals) for branch in branches])

    return replace(networks, predict=predict)


@contextlib.contextmanager
def down_path_once(unet: VideoUNet) -> Iterator[None]:
    """A context in which each down block computes once and then returns the same result again."""
    # diffusers offers no hook that skips a block, so their forward is exchanged on the instance for a moment.
    before = [(block, vars(block).get("forward")) for block in unet.down_blocks]
    for block in unet.down_blocks:
        block.forward = _computed_once(block.forward)
    try:
        yield
    finally:
        for block, forward in before:
            if forward is None:
                del block.forward
            else:  # offloading has put a forward of its own there
                block.forward = forward


def _computed_once(forward: Callable[..., Any]) -> Callable[..., Any]:
    # A block's inputs are the same in every branch, so what it is called with need not be compared.
    kept: list[Any] = []

    def once(*args: Any, **kwargs: Any) -> Any:
        if not kept:
            kept.append(forward(*args, **kwargs))
        return kept[0]

    return once


def guide_in_interval(
    networks: Networks, conditional: Networks, guided: Callable[[torch.Tensor], bool]
) -> Networks:
    """Run the conditional branch alone at timesteps for which ``guided`` is false.

    Source: Kynkäänniemi et al. 2024, "Applying Guidance in a Limited Interval Improves Sample and
    Distribution Quality in Diffusion Models".
    """

    def predict(
        frames: list[int], noisy: torch.Tensor, timestep: torch.Tensor, residuals: Residuals
    ) -> torch.Tensor:
        # One row of noise tells the loop that there is nothing to guide, see `denoise`.
        chosen = networks if guided(timestep) else conditional
        return chosen.predict(frames, noisy, timestep, residuals)

    return replace(networks, predict=predict)
