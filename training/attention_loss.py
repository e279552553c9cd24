"""A loss on where the blocks look in the reference, for networks that learn from nothing.

Stable Diffusion's attention finds what looks alike from the first step; a new network needs thousands of
steps to find out that a part of the body is to be looked for at the same part in the reference, and what is
behind it at the same place. The part maps of both pictures tell it so at once. This is ours, not the paper's,
and changes nothing in the networks.

Letters in shape comments: ``B`` references, ``F`` targets of each, ``H W`` pixels, ``h w`` size of a block's
tokens, ``L`` = h w, ``P`` labels of a part map, ``N`` heads of width ``d``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from diffusers.models.attention_processor import Attention
from torch import nn
from torch.nn import functional

from magicanimate.models.appearance_encoder import SELF_ATTENTION
from magicanimate.models.reference import HybridSelfAttention
from magicanimate.palette import PALETTE, nearest_labels

_LEAST_MASS = 1e-4  # bounds the gradient of a token that looks nowhere near where it should


class WatchedAttention(HybridSelfAttention):
    """Remembers how it divides its look at the reference.

    Attributes:
        seen: ``(B F) L L``, of each token the shares of the reference's tokens, mean over the heads; own
            tokens are left out, so that each row adds up to 1. ``None`` before the first pass with gradients.
    """

    seen: torch.Tensor | None = None

    def __call__(self, attn: Attention, hidden_states: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        if self.reference is not None and torch.is_grad_enabled():
            frames = len(hidden_states) // len(self.reference)
            keys = attn.to_k(self.reference.to(hidden_states.dtype)).repeat_interleave(frames, dim=0)
            query, keys = (attn.head_to_batch_dim(x) for x in (attn.to_q(hidden_states), keys))
            shares = attn.get_attention_scores(query, keys)  # (B F N) L L
            self.seen = shares.unflatten(0, (-1, attn.heads)).float().mean(dim=1)
        return super().__call__(attn, hidden_states, *args, **kwargs)


def watch(unet: nn.Module, readers: Mapping[str, HybridSelfAttention]) -> dict[str, WatchedAttention]:
    """Put watched attentions in the place of ``readers`` and return them, by the same names."""
    watched = {name: WatchedAttention() for name in readers}
    unet.set_attn_processor(
        unet.attn_processors
        | {f"{name}{SELF_ATTENTION}.processor": processor for name, processor in watched.items()}
    )
    return watched


def attention_losses(
    readers: Mapping[str, WatchedAttention],
    reference_map: torch.Tensor,
    target_maps: torch.Tensor,
    *,
    size: tuple[int, int],
) -> torch.Tensor:
    """How far the blocks look from where they should, float32 ``B``.

    A token of a body part should look at tokens that show this part in the reference, wherever; a token of
    the background at the token of its own place, if the reference shows background there. The loss of a token
    is minus the logarithm of the share of its look that does; it is averaged over the tokens of parts, over
    those of background, over both of these, and over the blocks. Pictures whose background moves are not for
    this.

    Args:
        readers: after a forward pass.
        reference_map: drawn part maps of the references, ``B 3 H W`` in [0, 1].
        target_maps: of the targets, ``B F 3 H W`` in [0, 1].
        size: h, w of the largest blocks' tokens.
    """
    samples, frames = target_maps.shape[:2]
    there = _label_shares(reference_map, size).repeat_interleave(frames, dim=0)  # (B F) P h w
    here = _label_shares(target_maps.flatten(0, 1), size)
    losses = []
    for reader in readers.values():
        scale = round((size[0] * size[1] / reader.seen.shape[-1]) ** 0.5)
        pooled = [functional.avg_pool2d(shares, scale).flatten(2) for shares in (here, there)]
        losses.append(_block_losses(reader.seen, *pooled))
    return torch.stack(losses).mean(0).unflatten(0, (samples, frames)).mean(1)


def _label_shares(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Drawn maps ``N 3 H W`` -> share of each label in each of ``h w`` cells, float32 ``N P h w``."""
    colours = (maps * 255).round().byte().movedim(1, -1).cpu().numpy()
    labels = torch.from_numpy(nearest_labels(colours)[0].astype(np.int64)).to(maps.device)
    shares = functional.one_hot(labels, len(PALETTE)).movedim(-1, 1).float()
    return functional.adaptive_avg_pool2d(shares, size)


def _block_losses(seen: torch.Tensor, here: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """Losses of a block's pictures, ``N``, from its look ``N L L`` and the label shares ``N P L``."""
    same_part = torch.einsum("npi,npj->nij", here[:, 1:], there[:, 1:])
    wanted = same_part / same_part.amax(dim=-1, keepdim=True).clamp_min(1e-6)
    parts = here[:, 1:].sum(1) * (same_part.amax(dim=-1) > 0)  # N L: how much a token counts as part
    background = here[:, 0] * there[:, 0]
    look = {
        "parts": ((seen * wanted).sum(-1), parts),
        "background": (seen.diagonal(dim1=-2, dim2=-1), background),
    }
    total = torch.zeros(len(seen), device=seen.device)
    for mass, weight in look.values():
        each = -mass.clamp_min(_LEAST_MASS).log() * weight
        total = total + each.sum(-1) / weight.sum(-1).clamp_min(1.0)
    return total / len(look)
