"""Hybrid self-attention: the video UNet's blocks attend to their own tokens and to the reference's.

Source: MagicAnimate, supplement section 1: keys ``[K, K'_a]`` and values ``[V, V'_a]``, where ``K'_a`` and
``V'_a`` are the appearance encoder's ``y_a`` projected by the video UNet's own weights.

The reference can be weighted by a strength ``s``: each of its tokens counts ``s^4`` times,

    softmax([Q K^T / sqrt(d), Q K'^T / sqrt(d) + 4 log s]) [V, V'],

since ``exp(x + 4 log s) = s^4 exp(x)``. 1 is as published, 0 leaves the reference out. The power makes equal
steps of ``s`` look equal: attention is so peaked that in the mini's pictures colours fade only where tokens
count between 0.1 and 0.0001 times.

Letters in shape comments: ``B`` videos, ``F`` frames, ``L`` tokens, ``D`` token width, ``N`` heads of width
``d``.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch.nn import functional

from magicanimate.config import FUSIONS, Fusion
from magicanimate.device import to_device
from magicanimate.models.appearance_encoder import SELF_ATTENTION

STRENGTH_POWER = 4


class Visibility:
    """Which videos of a batch see the reference; shared by all blocks that read it.

    Attributes:
        to_any, to_all: whether one video at least, or every one, sees it.
    """

    def __init__(self, seen: Sequence[bool]):
        self.seen = tuple(map(bool, seen))
        self.to_any, self.to_all = any(self.seen), all(self.seen)
        self._rows: dict[tuple[int, torch.device], tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}

    def rows(self, frames: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rows of ``(B F) L D`` that see it, those that do not, and the videos that do; int64.

        Made on the first call, so that ten blocks do not wait ten times for the same copy to the device.
        """
        if (frames, device) not in self._rows:
            every = [range(i * frames, (i + 1) * frames) for i in range(len(self.seen))]
            groups = (
                [row for rows, sees in zip(every, self.seen, strict=True) if sees for row in rows],
                [row for rows, sees in zip(every, self.seen, strict=True) if not sees for row in rows],
                [video for video, sees in enumerate(self.seen) if sees],
            )
            seeing, others, videos = (to_device(torch.tensor(group), device) for group in groups)
            self._rows[frames, device] = seeing, others, videos
        return self._rows[frames, device]


class HybridSelfAttention(AttnProcessor2_0):
    """Self-attention processor that also attends to the reference tokens of its block, if it has any.

    Attributes:
        reference: ``y_a`` of this block, ``B L D`` (or ``1 L D`` for all videos), or ``None``.
        visible: per video, whether it sees the reference; ``None`` when all do. Classifier-free guidance
            hides it from the unconditional branch, training from a random part of the batch. Kept on the
            host, so that no block has to wait for the device to learn which rows see the photo.
        strength: of the reference, 0 or more; see the top of this file.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reference: torch.Tensor | None = None
        self.visible: Visibility | None = None
        self.strength = 1.0

    def __call__(
        self, attn: Attention, hidden_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        visible = self.visible
        # Strength 0 has no logarithm; the plain processor leaves the reference out, and is quicker.
        if self.reference is None or self.strength == 0 or (visible is not None and not visible.to_any):
            return super().__call__(attn, hidden_states, *args, **kwargs)
        reference = self.reference.to(hidden_states.dtype)
        # K'_a and V'_a: y_a projected by the video UNet's own weights.
        shared = attn.to_k(reference), attn.to_v(reference)
        # The usual case, as branches run one after the other: all rows see the photo, or none.
        if visible is None or visible.to_all:
            return _attend(attn, hidden_states, *shared, strength=self.strength)
        # Where some videos see the photo, each kind is computed with its own kernel call: a mask that hides
        # the reference from the others would cost them its tokens all the same.
        frames = hidden_states.shape[0] // len(visible.seen)
        seeing, others, videos = visible.rows(frames, hidden_states.device)
        # A single reference is for all videos; where each has its own, only those that are seen are kept.
        if shared[0].shape[0] > 1:
            shared = tuple(tokens.index_select(0, videos) for tokens in shared)
        alone = super().__call__(attn, hidden_states.index_select(0, others), *args, **kwargs)
        together = _attend(attn, hidden_states.index_select(0, seeing), *shared, strength=self.strength)
        out = torch.empty_like(hidden_states)
        return out.index_copy_(0, others, alone.to(out.dtype)).index_copy_(0, seeing, together.to(out.dtype))


def _attend(
    attn: Attention, hidden_states: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, *, strength: float
) -> torch.Tensor:
    """softmax(Q [K, K'_a]^T / sqrt(d)) [V, V'_a] of tokens ``(B F) L D``; K'_a and V'_a are ``B L D``."""
    count, own_tokens = hidden_states.shape[:2]

    def with_reference(own: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
        # The frames of a video lie next to each other: B L D -> B F L D -> (B F) L D, a view when B is 1.
        frames = count // shared.shape[0]
        shared = shared[:, None].expand(-1, frames, -1, -1).flatten(0, 1)
        return _heads(attn, torch.cat([own, shared], dim=1))

    query = _heads(attn, attn.to_q(hidden_states))
    together = (
        with_reference(attn.to_k(hidden_states), keys),
        with_reference(attn.to_v(hidden_states), values),
    )
    if strength == 1:  # without a mask there are faster kernels
        return _merged(attn, functional.scaled_dot_product_attention(query, *together))
    # 4 log s more on a score counts its token s^4 times, see the top of this file.
    bias = query.new_zeros(1, 1, 1, own_tokens + keys.shape[1])
    bias[..., own_tokens:] = STRENGTH_POWER * math.log(strength)
    return _merged(attn, functional.scaled_dot_product_attention(query, *together, attn_mask=bias))


def _heads(attn: Attention, tokens: torch.Tensor) -> torch.Tensor:
    return tokens.unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # B L (N d) -> B N L d


def _merged(attn: Attention, out: torch.Tensor) -> torch.Tensor:
    out = out.transpose(1, 2).flatten(2)  # B N L d -> B L (N d)
    return attn.to_out[1](attn.to_out[0](out))


def paired_blocks(unet: Any, *, fusion: Fusion) -> list[str]:
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
        # Motion modules have self-attention over time, which the paper leaves as it is.
        is_spatial = found and ".motion_modules." not in name
        if is_spatial and (fusion == "full" or not name.startswith("down_blocks")):
            names.append(name)
    return names


def install_hybrid_attention(unet: Any, *, fusion: Fusion) -> dict[str, HybridSelfAttention]:
    """Give the blocks of ``fusion`` a `HybridSelfAttention`; the other attentions become plain again.

    Returns:
        Path of each reading transformer block -> its processor.
    """
    # New ones for each call, so that no bank of an earlier animation is left in them.
    readers = {name: HybridSelfAttention() for name in paired_blocks(unet, fusion=fusion)}
    unet.set_attn_processor(
        {
            key: readers.get(key.removesuffix(f"{SELF_ATTENTION}.processor"), AttnProcessor2_0())
            for key in unet.attn_processors
        }
    )
    return readers


@contextlib.contextmanager
def hybrid_attention(unet: Any, *, fusion: Fusion) -> Iterator[dict[str, HybridSelfAttention]]:
    """A context with `install_hybrid_attention`; afterwards the UNet has its earlier processors again."""
    # A pipeline gives its networks back as it found them, so that others may use the same UNet.
    before = unet.attn_processors
    try:
        yield install_hybrid_attention(unet, fusion=fusion)
    finally:
        unet.set_attn_processor(before)


def set_reference(
    readers: Mapping[str, HybridSelfAttention],
    bank: Mapping[str, torch.Tensor] | None,
    *,
    visible: Sequence[bool] | None = None,
    strength: float = 1.0,
) -> None:
    """Give a bank to the readers, or take it away with ``bank=None``.

    Args:
        readers: from `install_hybrid_attention`.
        bank: from `AppearanceEncoder.forward`; must have an entry for every reader.
        visible: per video of the batch, whether it sees the reference; all do when ``None``.
        strength: of the reference, 0 or more.

    Raises:
        KeyError: the encoder has no block of a reader's name.
    """
    # Processors keep the bank themselves: diffusers hands attention no argument that would carry it.
    for name, reader in readers.items():
        reader.reference = None if bank is None else bank[name]
        reader.strength = strength
    set_visible(readers, visible)


def set_visible(readers: Mapping[str, HybridSelfAttention], visible: Sequence[bool] | None) -> None:
    """Set which videos of the batch see the bank; see `set_reference`."""
    shared = None if visible is None else Visibility(visible)
    for reader in readers.values():
        reader.visible = shared
