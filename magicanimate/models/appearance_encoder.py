"""The appearance encoder: a copy of the UNet that yields the input of every self-attention block.

An encoder that is trained from scratch may take the photo's part map beside its latents
(`with_photo_map`), so that it need not find out by itself what is a hand and what a wall. The published one
takes the latents only.

Letters in shape comments: ``R`` references, ``C H W`` channels, height and width of latents, ``L`` tokens,
``D`` token width.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers import (
    ModelMixin,  # noqa: F401  (loading a pipeline looks for it in this module)
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import nn
from torch.nn import functional

from magicanimate.palette import PALETTE

MAP_GAIN = 4.0
"""Factor of the label shares in the encoder's input: mostly 0, they would hardly count beside 16 channels of
unit variance."""

SELF_ATTENTION = ".attn1"


def label_shares(labels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Part ids, integers ``R H W`` -> share of each label in each of ``h w`` cells, float32 ``R 25 h w``."""
    one_hot = functional.one_hot(labels.long(), len(PALETTE)).movedim(-1, 1).float()
    return functional.adaptive_avg_pool2d(one_hot, size)


def with_photo_map(latents: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The input of an encoder that takes the part map: latents and label shares, ``R C + 25 h w``.

    Of latents ``R C h w`` and part ids, integers ``R H W`` of any size.
    """
    shares = label_shares(labels, (latents.shape[-2], latents.shape[-1]))
    return torch.cat([latents, (MAP_GAIN * shares).to(latents)], dim=1)


class _NormOnly(nn.Module):
    """The encoder's last transformer block, cut off after ``norm1``, whose output goes into the bank."""

    def __init__(self, norm1: nn.LayerNorm):
        super().__init__()
        self.norm1 = norm1
        self.bank: dict[str, torch.Tensor] = {}
        self.name = ""

    def forward(self, hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        # Nothing behind norm1 has weights here: only the bank is used of what the encoder computes.
        self.bank[self.name] = self.norm1(hidden_states)
        return hidden_states


class _BankWriter(AttnProcessor2_0):
    """Ordinary self-attention that also records its normalized input, ``y_a`` of the paper."""

    def __init__(self, bank: dict[str, torch.Tensor], name: str):
        super().__init__()
        self.bank, self.name = bank, name

    def __call__(
        self, attn: Attention, hidden_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        # By now norm1 has been applied: the processor gets what queries, keys and values are projected from.
        self.bank[self.name] = hidden_states
        return super().__call__(attn, hidden_states, *args, **kwargs)


class AppearanceEncoder(UNet2DConditionModel):
    """``UNet2DConditionModel`` that returns the reference's attention inputs instead of a sample.

    The released weights end at the last block's ``norm1``: the 24 tensors behind it (the rest of that
    transformer block, its ``proj_out``, ``conv_norm_out`` and ``conv_out``) do not exist, and neither do
    they here. Takes the arguments of ``UNet2DConditionModel``; the last up block must have attention.

    Source: MagicAnimate paper, section 3.2 (appearance encoder), and the released checkpoint's keys.
    """

    @functools.wraps(UNet2DConditionModel.__init__)  # type: ignore[misc]  # loading reads its arguments
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The released weights end here: the layers behind cannot be loaded.
        last = self.up_blocks[-1].attentions[-1]
        last.transformer_blocks[0] = _NormOnly(last.transformer_blocks[0].norm1)
        last.proj_out = nn.Identity()
        self.conv_norm_out = None
        self.conv_out = nn.Identity()
        self._bank: dict[str, torch.Tensor] = {}
        self._install_writers()

    @property
    def takes_photo_map(self) -> bool:
        """Whether `forward` wants latents `with_photo_map`."""
        return self.config.in_channels > self.config.out_channels

    def _install_writers(self) -> None:
        writers = {}
        for key, processor in self.attn_processors.items():
            # Cross-attention (attn2) reads the text, not the picture: nothing of it goes into the bank.
            name, found, _ = key.partition(f"{SELF_ATTENTION}.processor")
            writers[key] = _BankWriter(self._bank, name) if found else processor
        self.set_attn_processor(writers)
        last = self.up_blocks[-1].attentions[-1].transformer_blocks[0]
        last.bank = self._bank
        last.name = f"up_blocks.{len(self.up_blocks) - 1}.attentions.{len(self.up_blocks[-1].attentions) - 1}"
        last.name += ".transformer_blocks.0"

    def forward(
        self, sample: torch.Tensor, timestep: Any, encoder_hidden_states: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Encode reference latents.

        Args:
            sample: noise-free reference latents ``R C H W``, if it takes the part map `with_photo_map`.
            timestep: the current denoising timestep, scalar or ``R`` integers.
            encoder_hidden_states: text embedding ``R L D``.

        Returns:
            Path of each transformer block -> normalized input ``R L D`` of its self-attention.
        """
        # A call that was stopped half way may have left entries of another photo.
        self._bank.clear()
        super().forward(sample, timestep, encoder_hidden_states, return_dict=False)
        bank = dict(self._bank)
        self._bank.clear()  # the encoder keeps no tensors alive between calls
        return bank
