"""A loss on the attention to the reference, for networks that learn from nothing.

Stable Diffusion's attention finds what looks alike from the first step; a new network needs thousands of
steps to find out that a part of the body is to be looked for at the same part in the reference, and what is
behind it at the same place. The part maps of both pictures tell it so at once, and body points
(`training.attention_loss`) more exactly. This is ours, not the paper's, and changes nothing in the networks.

Letters in shape comments: ``B`` references, ``F`` targets of each, ``H W`` pixels, ``h w`` size of a block's
tokens, ``L`` = h w, ``Q`` tokens that are watched, ``P`` labels of a part map, ``N`` heads of width ``d``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from diffusers.models.attention_processor import Attention
from torch import nn
from torch.nn import functional

from magicanimate.models.appearance_encoder import SELF_ATTENTION, label_shares
from magicanimate.models.hybrid_attention import HybridSelfAttention

WATCHED_SIDE = 16
"""Blocks with more tokens each way have every second one watched: their scores are the largest tensors of a
step, and projections that are right for a quarter of the tokens are right for all."""
_LEAST_MASS = 1e-4  # bounds the gradient of a token that attends to nothing near the right place


class WatchedAttention(HybridSelfAttention):
    """Remembers its attention to the reference.

    Attributes:
        attention: ``(B F) Q L``, probabilities of the reference's tokens for each of the `watched_tokens`,
            mean over the heads; own tokens are left out, so that each row adds up to 1. ``None`` before the
            first pass with gradients.
    """

    attention: torch.Tensor | None = None

    def __call__(self, attn: Attention, hidden_states: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        if self.reference is not None and torch.is_grad_enabled():
            frames = len(hidden_states) // len(self.reference)
            keys = attn.to_k(self.reference.to(hidden_states.dtype)).repeat_interleave(frames, dim=0)
            watched = watched_tokens(keys.shape[1], hidden_states.device)
            query = attn.to_q(hidden_states.index_select(1, watched))
            query, keys = (attn.head_to_batch_dim(x) for x in (query, keys))
            weights = attn.get_attention_scores(query, keys)  # (B F N) Q L
            self.attention = weights.unflatten(0, (-1, attn.heads)).float().mean(dim=1)
        return super().__call__(attn, hidden_states, *args, **kwargs)


def watched_side(side: int) -> int:
    """How many tokens each way are watched of a block with ``side`` of them."""
    while side > WATCHED_SIDE:
        side //= 2
    return side


def watched_tokens(count: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Which of a square block's ``count`` tokens are watched, int64 ``Q``."""
    side = round(count**0.5)
    stride = side // watched_side(side)
    tokens = torch.arange(count, device=device).view(side, side)
    return tokens[stride // 2 :: stride, stride // 2 :: stride].flatten()


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
    reference_labels: torch.Tensor,
    target_labels: torch.Tensor,
    *,
    size: tuple[int, int],
) -> torch.Tensor:
    """How far the blocks' attention is from where it should be, float32 ``B``.

    A token of a body part should attend to tokens that show this part in the reference, wherever; a token of
    the background to the token of its own place, if the reference shows background there. The loss of a token
    is minus the logarithm of the share of its attention that does; it is averaged over the tokens of parts,
    over those of background, over both of these, and over the blocks. Pictures whose background moves are not
    for this.

    Args:
        readers: after a forward pass.
        reference_labels: part ids of the references, integers ``B H W``.
        target_labels: of the targets, ``B F H W``.
        size: h, w of the largest blocks' tokens.
    """
    samples, frames = target_labels.shape[:2]
    there = label_shares(reference_labels, size).repeat_interleave(frames, dim=0)  # (B F) P h w
    here = label_shares(target_labels.flatten(0, 1), size)
    losses = []
    for reader in readers.values():
        scale = round((size[0] * size[1] / reader.attention.shape[-1]) ** 0.5)
        pooled = [functional.avg_pool2d(shares, scale).flatten(2) for shares in (here, there)]
        losses.append(_block_losses(reader.attention, *pooled))
    return torch.stack(losses).mean(0).unflatten(0, (samples, frames)).mean(1)


def _block_losses(attention: torch.Tensor, here: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """Losses of a block's pictures, ``N``, from its attention ``N Q L`` and the label shares ``N P L``."""
    watched = watched_tokens(here.shape[-1], here.device)
    here, there_too = here[..., watched], there[..., watched]  # the same places
    same_part = torch.einsum("npi,npj->nij", here[:, 1:], there[:, 1:])
    wanted = same_part / same_part.amax(dim=-1, keepdim=True).clamp_min(1e-6)
    parts = here[:, 1:].sum(1) * (same_part.amax(dim=-1) > 0)  # N L: how much a token counts as part
    background = here[:, 0] * there_too[:, 0]
    own_place = attention[:, torch.arange(len(watched), device=attention.device), watched]
    masses = {"parts": ((attention * wanted).sum(-1), parts), "background": (own_place, background)}
    total = torch.zeros(len(attention), device=attention.device)
    for mass, weight in masses.values():
        each = -mass.clamp_min(_LEAST_MASS).log() * weight
        total = total + each.sum(-1) / weight.sum(-1).clamp_min(1.0)
    return total / len(masses)


SIGMA = 5.0  # centimetres of the rest pose: how far from the right place attention may be
REACH = 12.0  # a place with none this near in the reference is not visible there
_LEAST_SHARE = 1e-4  # bounds the gradient of a share that is almost nothing


@dataclass(frozen=True)
class _Wanted:
    """What the watched tokens of blocks of one size should attend to.

    Attributes:
        attention: ``N Q L``, how much each watched token should attend to each of the reference's; rows add
            up to the share of the token that is a place of the body which the reference shows.
        nobody_here: ``N Q``, share of a token of the target that is background; nobody_there: ``N L``, of the
            reference's.
    """

    attention: torch.Tensor
    nobody_here: torch.Tensor
    nobody_there: torch.Tensor

    def pooled(self, side: int) -> _Wanted:
        """For blocks with ``side`` tokens each way."""
        smaller = self.attention.shape[-1] // side**2
        if smaller == 1:
            return self
        wanted = _pooled(self.attention.transpose(1, 2), watched_side(side)).transpose(1, 2)
        # Sums over the places of a token, means over the watched ones.
        wanted = _pooled(wanted, side) * smaller
        nobody_here = _pooled(self.nobody_here, watched_side(side))
        return _Wanted(wanted, nobody_here, _pooled(self.nobody_there, side))

    def loss(self, attention: torch.Tensor) -> torch.Tensor:
        """Of a block's attention ``N Q L``, float32 ``N``."""
        watched = watched_tokens(attention.shape[-1], attention.device)
        body = self.attention.sum(-1)
        logarithms = (attention + _LEAST_SHARE).log()
        astray = -torch.einsum("nql,nql->n", self.attention, logarithms)  # body times cross-entropy
        nobody = self.nobody_here * self.nobody_there[:, watched]
        own = -logarithms[:, torch.arange(len(watched), device=attention.device), watched]
        return 0.5 * (
            astray / body.sum(-1).clamp_min(1.0) + (own * nobody).sum(-1) / nobody.sum(-1).clamp_min(1.0)
        )


def point_losses(
    readers: Mapping[str, WatchedAttention],
    reference_points: torch.Tensor,
    target_points: torch.Tensor,
    *,
    size: tuple[int, int],
) -> torch.Tensor:
    """How far the blocks' attention is from where it should be, float32 ``B``.

    Args:
        readers: after a forward pass.
        reference_points: body points of the references, uint8 ``B M M 4``.
        target_points: of the targets, ``B F M M 4``.
        size: h, w of the largest blocks' tokens, equal.
    """
    samples, frames = target_points.shape[:2]
    wanted = _wanted(reference_points, target_points, size[0])
    sides = {round(reader.attention.shape[-1] ** 0.5) for reader in readers.values()}
    of_size = {side * side: wanted.pooled(side) for side in sides}
    losses = torch.stack([of_size[r.attention.shape[-1]].loss(r.attention) for r in readers.values()])
    return losses.mean(0).unflatten(0, (samples, frames)).mean(1)


@torch.no_grad()
def _wanted(reference_points: torch.Tensor, target_points: torch.Tensor, side: int) -> _Wanted:
    """For blocks of ``side`` tokens each way, each of them judged by the place in its middle."""
    here = _on_grid(target_points.flatten(0, 1), watched_side(side))  # (B F) Q 4
    there = _on_grid(reference_points, side).repeat_interleave(target_points.shape[1], dim=0)
    apart = torch.cdist(here[..., :3], there[..., :3])
    somebody = here[..., 3:] > 0
    possible = somebody & (here[..., 3:] == there[:, None, :, 3])
    apart = torch.where(possible, apart, 1e3)
    shown = apart.amin(-1, keepdim=True) < REACH
    wanted = (-(apart**2) / (2 * SIGMA**2)).softmax(-1) * shown
    return _Wanted(wanted, (here[..., 3] == 0).float(), (there[..., 3] == 0).float())


def _on_grid(points: torch.Tensor, side: int) -> torch.Tensor:
    """Maps ``N M M 4`` at the middles of ``side`` x ``side`` cells, float32 ``N side^2 4``."""
    middles = (2 * torch.arange(side, device=points.device) + 1) * points.shape[1] // (2 * side)
    return points[:, middles][:, :, middles].flatten(1, 2).float()


def _pooled(values: torch.Tensor, side: int) -> torch.Tensor:
    """``... G``, on a square grid, -> means over ``side`` x ``side`` cells of it, ``... side^2``."""
    fine = round(values.shape[-1] ** 0.5)
    cells = values.unflatten(-1, (side, fine // side, side, fine // side))
    return cells.mean((-3, -1)).flatten(-2)
