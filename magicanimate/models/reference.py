"""Hybrid self-attention: the video UNet's blocks attend to their own tokens and to the reference's.

Source: MagicAnimate, supplement section 1: keys ``[K, K'_a]`` and values ``[V, V'_a]``, where ``K'_a`` and
``V'_a`` are the appearance encoder's ``y_a`` projected by the video UNet's own weights.

Letters in shape comments: ``B`` videos, ``F`` frames, ``L`` tokens, ``D`` token width, ``N`` heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import nn
from torch.nn import functional

from magicanimate.config import FUSIONS, Fusion
from magicanimate.models.appearance_encoder import SELF_ATTENTION


class HybridSelfAttention(AttnProcessor2_0):
    """Self-attention processor that also attends to the reference tokens of its block, if it has any.

    Attributes:
        reference: ``y_a`` of this block, ``B L D`` (or ``1 L D`` for all videos), or ``None``.
        visible: per video, whether it sees the reference; ``None`` when all do. Classifier-free guidance
            hides it from the unconditional half, training from a random part of the batch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reference: torch.Tensor | None = None
        self.visible: torch.Tensor | None = None

    def __call__(self, attn: Attention, hidden_states: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        if self.reference is None:
            return super().__call__(attn, hidden_states, *args, **kwargs)
        videos = len(self.visible) if self.visible is not None else self.reference.shape[0]
        frames = hidden_states.shape[0] // videos
        if self.visible is None or bool(self.visible.all()):
            return self._attend(attn, hidden_states, self.reference, frames)
        # Rows of hidden_states are (B F): the mask of a video holds for all its frames.
        rows = self.visible.repeat_interleave(frames).to(hidden_states.device)
        out = torch.empty_like(hidden_states)
        if bool((~rows).any()):
            out[~rows] = super().__call__(attn, hidden_states[~rows], *args, **kwargs).to(out.dtype)
        if bool(rows.any()):
            reference = self.reference
            if reference.shape[0] > 1:
                reference = reference[self.visible.to(reference.device)]
            out[rows] = self._attend(attn, hidden_states[rows], reference, frames).to(out.dtype)
        return out

    @staticmethod
    def _attend(attn: Attention, hidden_states: torch.Tensor, reference: torch.Tensor, frames: int):
        """Attention of ``(B F) L D`` over own and reference tokens; each reference is projected once."""
        reference = reference.to(hidden_states.dtype)
        count = hidden_states.shape[0]

        def heads(x: torch.Tensor) -> torch.Tensor:
            return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # (B F) L (N d) -> (B F) N L d

        def with_reference(projection: nn.Module) -> torch.Tensor:
            own, shared = projection(hidden_states), projection(reference)
            if shared.shape[0] == 1:
                shared = shared.expand(count, -1, -1)
            else:
                shared = shared.repeat_interleave(frames, dim=0)  # B L D -> (B F) L D
            return heads(torch.cat([own, shared], dim=1))

        out = functional.scaled_dot_product_attention(
            heads(attn.to_q(hidden_states)), with_reference(attn.to_k), with_reference(attn.to_v)
        )
        out = out.transpose(1, 2).flatten(2)  # (B F) N L d -> (B F) L (N d)
        return attn.to_out[1](attn.to_out[0](out))


def paired_blocks(unet: nn.Module, *, fusion: Fusion) -> list[str]:
    """Paths of the transformer blocks that read the reference.

    Args:
        unet: `VideoUNet` or ``UNet2DConditionModel``.
        fusion: "midup" (middle and up blocks, as published) or "full" (down blocks too).

    Raises:
        ValueError: unknown fusion.
    """
    if fusion not in FUSIONS:
        raise ValueError(f"unknown fusion {fusion!r}; choose from {FUSIONS}")
    names = []
    for key in unet.attn_processors:
        name, found, _ = key.partition(f"{SELF_ATTENTION}.processor")
        is_spatial = found and ".motion_modules." not in name
        if is_spatial and (fusion == "full" or not name.startswith("down_blocks")):
            names.append(name)
    return names


def install_hybrid_attention(unet: nn.Module, *, fusion: Fusion) -> dict[str, HybridSelfAttention]:
    """Give the blocks of ``fusion`` a `HybridSelfAttention`; the other attentions become plain again.

    Returns:
        Path of each reading transformer block -> its processor.
    """
    readers = {name: HybridSelfAttention() for name in paired_blocks(unet, fusion=fusion)}
    unet.set_attn_processor(
        {
            key: readers.get(key.removesuffix(f"{SELF_ATTENTION}.processor"), AttnProcessor2_0())
            for key in unet.attn_processors
        }
    )
    return readers


def set_reference(
    readers: Mapping[str, HybridSelfAttention],
    bank: Mapping[str, torch.Tensor] | None,
    *,
    visible: Sequence[bool] | torch.Tensor | None = None,
) -> None:
    """Show a bank to the readers, or hide the last one with ``bank=None``.

    Args:
        readers: from `install_hybrid_attention`.
        bank: from `AppearanceEncoder.forward`; must have an entry for every reader.
        visible: per video of the batch, whether it sees the reference; all do when ``None``.

    Raises:
        KeyError: the encoder has no block of a reader's name.
    """
    mask = None if visible is None else torch.as_tensor(visible, dtype=torch.bool)
    for name, reader in readers.items():
        reader.reference = None if bank is None else bank[name]
        reader.visible = mask
