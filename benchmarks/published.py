"""The published program's order of work, with this program's networks: what benchmarks compare with.

Both guidance branches go through the whole UNet in every window; the reference is repeated for each frame and
half before keys and values are made of it, the unconditional branch attends to it and then again without it;
the text is projected for each frame; the encoder has a batch of two; the ControlNet runs over all frames, 16
at a time, before the first window of a step; the windows are a closed loop. The published scripts repeat
a clip's last frame until the number of frames is a multiple of 16.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from unittest import mock

import numpy as np
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import nn

from magicanimate import pipeline
from magicanimate.acceleration.layers import WindowProgress
from magicanimate.acceleration.options import OptimizationConfig
from magicanimate.models.appearance_encoder import SELF_ATTENTION
from magicanimate.models.hybrid_attention import HybridSelfAttention, paired_blocks
from magicanimate.models.unet import VideoUNet
from magicanimate.sampling import Bank, Networks, Residuals, Window
from magicanimate.windows import WindowPlan

SPEED, PLAN = OptimizationConfig.plain(), WindowPlan(closed_loop=True)


class PublishedSelfAttention(AttnProcessor2_0):
    """Self-attention in the published order of work: all rows read the bank, then one half does it again."""

    def __init__(self, bank: torch.Tensor):
        super().__init__()
        self.bank = bank

    def __call__(self, attn: Attention, hidden_states: torch.Tensor, *_, **__) -> torch.Tensor:
        rows = hidden_states.shape[0]
        tokens = torch.cat([hidden_states, self.bank.expand(rows, -1, -1)], dim=1)
        seen = super().__call__(attn, hidden_states, tokens)
        half = hidden_states[: rows // 2]
        return torch.cat([super().__call__(attn, half), seen[rows // 2 :]])


def install_published_attention(unet: nn.Module, bank: Mapping[str, torch.Tensor]) -> None:
    """Let middle and up blocks attend as published to ``bank``, ``1 L D`` for each of them."""
    processors = unet.attn_processors
    for name in paired_blocks(unet, fusion="midup"):
        processors[f"{name}{SELF_ATTENTION}.processor"] = PublishedSelfAttention(bank[name])
    unet.set_attn_processor(processors)


def published_networks(
    paper: partial,
    unet: VideoUNet,
    readers: Mapping[str, HybridSelfAttention],
    text: torch.Tensor,
    *_,
    progress: WindowProgress,
    **__,
) -> Networks:
    """In place of `magicanimate.acceleration.layers.accelerated`: guidance in every step, "midup" fusion."""
    networks, encoder, photo = paper(text=text), paper.args[1], paper.keywords["photo"]
    residuals: dict[int, list[torch.Tensor]] = {}

    def encode(timestep: torch.Tensor) -> Bank:
        bank = encoder(photo.expand(2, -1, -1, -1), timestep, text[-1:].expand(2, -1, -1))
        return {name: tokens[:1] for name, tokens in bank.items()}

    def fuse(
        outer: Networks, latents: torch.Tensor, timestep: torch.Tensor, windows: Sequence[Window]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        for some in torch.arange(latents.shape[2]).split(PLAN.context_length):
            frames = some.tolist()
            levels = networks.control(frames, latents[0, :, frames].transpose(0, 1), timestep)
            residuals.update({frame: [level[i] for level in levels] for i, frame in enumerate(frames)})
        return networks.fuse(outer, latents, timestep, windows)

    def control(frames: list[int], *_) -> Residuals:
        return [torch.stack(level) for level in zip(*(residuals[frame] for frame in frames), strict=True)]

    show = partial(install_published_attention, unet)
    return progress.around(replace(networks, encode=encode, show=show, control=control, fuse=fuse))


@contextlib.contextmanager
def published_order() -> Iterator[None]:
    """While it lasts, pipelines denoise in the published order; give them `SPEED` and `PLAN`, too."""
    with mock.patch.object(pipeline, "accelerated", published_networks):
        yield


def padded(frames: np.ndarray) -> np.ndarray:
    """Frames ``F ...`` with the last one repeated as the published scripts do."""
    missing = -len(frames) % PLAN.context_length
    return np.concatenate([frames, np.repeat(frames[-1:], missing, axis=0)])
