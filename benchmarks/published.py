"""The published program's order of work, with this program's networks: what benchmarks compare with.

Both guidance halves go through the whole UNet in every window; the reference is repeated for each frame and
half before keys and values are made of it, the unconditional half attends to it and then again without it;
the text is projected for each frame; the encoder has a batch of two; the ControlNet runs over all frames, 16
at a time, before the first window of a step; the windows are closed into a ring. The published scripts repeat
a clip's last frame until the number of frames is a multiple of 16.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from unittest import mock

import numpy as np
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import nn

from magicanimate import pipeline
from magicanimate.denoising import WindowDenoiser
from magicanimate.models.appearance_encoder import SELF_ATTENTION
from magicanimate.models.reference import paired_blocks
from magicanimate.speed import Speed
from magicanimate.windows import WindowPlan

SPEED, PLAN = Speed.plain(), WindowPlan(mode="ring")


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


class PublishedDenoiser(WindowDenoiser):
    """A step in the published order; with guidance in every step, "midup" fusion and one window at a time."""

    def _bank(self, timestep: torch.Tensor) -> dict[str, torch.Tensor]:
        two = self.conditions.reference.expand(2, -1, -1, -1)
        bank = self.encoder(two, timestep, self.texts[-1].expand(2, -1, -1))
        bank = {name: tokens[:1] for name, tokens in bank.items()}
        install_published_attention(self.unet, bank)
        return {name: bank[name] for name in self.readers}

    def _control(
        self, latents: torch.Tensor, windows: Sequence[list[int]], following: Sequence[list[int]]
    ) -> list[torch.Tensor]:
        if not self._residuals:
            for some in torch.arange(latents.shape[2]).split(PLAN.size):
                frames = some.tolist()
                levels = self._control_frames(latents, frames)
                self._residuals |= {frame: [level[i] for level in levels] for i, frame in enumerate(frames)}
        wanted = [self._residuals[frame] for window in windows for frame in window]
        return [torch.stack(level) for level in zip(*wanted, strict=True)]


@contextlib.contextmanager
def published_order() -> Iterator[None]:
    """While it lasts, pipelines denoise in the published order; give them `SPEED` and `PLAN`, too."""
    with mock.patch.object(pipeline, "WindowDenoiser", PublishedDenoiser):
        yield


def padded(frames: np.ndarray) -> np.ndarray:
    """Frames ``F ...`` with the last one repeated as the published scripts do."""
    missing = -len(frames) % PLAN.size
    return np.concatenate([frames, np.repeat(frames[-1:], missing, axis=0)])
