"""Losses on the attention to the reference, for networks that are trained from random weights.

Stable Diffusion's attention finds similar places from the first step on. A new network needs thousands of
steps to find out that a part of the body has to be looked up at the same part of the reference, and the
background at the same place. Part maps of both images tell it at once (`attention_losses`), and the body
points of rendered dancers tell it exactly (`point_losses`). This is ours, not the paper's, and changes
nothing in the networks.

Letters in shape comments: ``B`` references, ``F`` targets of each, ``H W`` pixels, ``h w`` size of a block's
tokens, ``L`` = h w, ``Q`` supervised (watched) tokens, ``P`` labels of a part map, ``N`` images.
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
"""Of blocks with more tokens on a side, only every second (or fourth) is supervised: their attention scores
are the largest tensors of a step, and the projections are the same for all tokens."""
_LEAST_MASS = 1e-4  # bounds the gradient of a token that attends to nothing near the right place


class WatchedAttention(HybridSelfAttention):
    """Hybrid attention that keeps its attention to the reference for a loss.

    Attributes:
        attention: float32 ``(B F) Q L``: for each of the `watched_tokens`, its attention to the reference's
            tokens, averaged over the heads. The target's own keys are left out, so each row sums to 1.
            ``None`` before the first forward pass with gradients.
    """

    attention: torch.Tensor | None = None

    def __call__(self, attn: Attention, hidden_states: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        # Sampling and validation need no loss, nor the memory for it.
        if self.reference is not None and torch.is_grad_enabled():
            frames = len(hidden_states) // len(self.reference)
            # The reference's keys again, by the UNet's own projection (supplement, section 1): fused
            # attention does not give its probabilities away.
            keys = attn.to_k(self.reference.to(hidden_states.dtype)).repeat_interleave(frames, dim=0)
            watched = watched_tokens(keys.shape[1], hidden_states.device)
            query = attn.to_q(hidden_states.index_select(1, watched))
            query, keys = (attn.head_to_batch_dim(x) for x in (query, keys))
            weights = attn.get_attention_scores(query, keys)  # (B F N) Q L
            self.attention = weights.unflatten(0, (-1, attn.heads)).float().mean(dim=1)
        return super().__call__(attn, hidden_states, *args, **kwargs)


def watched_side(side: int) -> int:
    """Supervised tokens on a side of a block with ``side`` tokens."""
    while side > WATCHED_SIDE:
        side //= 2
    return side


def watched_tokens(count: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Indices of the supervised tokens among a square block's ``count``, int64 ``Q``."""
    side = round(count**0.5)
    stride = side // watched_side(side)
    tokens = torch.arange(count, device=device).view(side, side)
    # From the middle of each cell of stride x stride tokens.
    return tokens[stride // 2 :: stride, stride // 2 :: stride].flatten()


def watch(unet: nn.Module, readers: Mapping[str, HybridSelfAttention]) -> dict[str, WatchedAttention]:
    """Replace the hybrid attention processors ``readers`` by `WatchedAttention`, by the same names."""
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
    """Attention losses by part maps, float32 ``B``.

    A token on a body part should attend to any tokens that show the same part in the reference; a token on
    the background to the token at its own place, if the reference shows background there. The loss of a token
    is the negative logarithm of the attention that goes there. It is averaged over the tokens on body parts
    and over those on the background, then over these two and over the blocks. The background must not move.

    Args:
        readers: the processors, after a forward pass.
        reference_labels: part ids of the references, integers ``B H W``.
        target_labels: part ids of the targets, ``B F H W``.
        size: tokens of the largest blocks, h and w.
    """
    samples, frames = target_labels.shape[:2]
    # Shares, not one label a token: a token covers 8 x 8 pixels or more, and limbs are narrow.
    there = label_shares(reference_labels, size).repeat_interleave(frames, dim=0)  # (B F) P h w
    here = label_shares(target_labels.flatten(0, 1), size)
    losses = []
    for reader in readers.values():
        scale = round((size[0] * size[1] / reader.attention.shape[-1]) ** 0.5)
        pooled = [functional.avg_pool2d(shares, scale).flatten(2) for shares in (here, there)]
        losses.append(_block_losses(reader.attention, *pooled))
    return torch.stack(losses).mean(0).unflatten(0, (samples, frames)).mean(1)


def _block_losses(attention: torch.Tensor, here: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """Losses ``N`` of one block, from attention ``N Q L`` and both images' label shares ``N P L``."""
    watched = watched_tokens(here.shape[-1], here.device)
    here, there_too = here[..., watched], there[..., watched]  # the same places
    # Label 0 is background: what counts as a part begins at 1.
    same_part = torch.einsum("npi,npj->nij", here[:, 1:], there[:, 1:])
    # Relative to the best match, since at borders no token shows a part alone.
    wanted = same_part / same_part.amax(dim=-1, keepdim=True).clamp_min(1e-6)
    # Parts that the reference does not show have nothing to attend to.
    parts = here[:, 1:].sum(1) * (same_part.amax(dim=-1) > 0)  # N L: how much a token counts as part
    background = here[:, 0] * there_too[:, 0]
    own_place = attention[:, torch.arange(len(watched), device=attention.device), watched]
    masses = {"parts": ((attention * wanted).sum(-1), parts), "background": (own_place, background)}
    total = torch.zeros(len(attention), device=attention.device)
    for mass, weight in masses.values():
        each = -mass.clamp_min(_LEAST_MASS).log() * weight
        total = total + each.sum(-1) / weight.sum(-1).clamp_min(1.0)
    return total / len(masses)


SIGMA = 5.0
"""Standard deviation of the wanted attention around the right body point, centimetres in the rest pose."""
REACH = 12.0
"""A body point with none this near (centimetres) in the reference counts as not visible there."""
_LEAST_SHARE = 1e-4  # bounds the gradient of a share that is almost nothing


@dataclass(frozen=True)
class _Wanted:
    """What the supervised tokens of blocks of one size should attend to.

    Attributes:
        attention: ``N Q L``, the wanted attention of each supervised token to each of the reference's tokens.
            A row sums to the share of the token that shows a place on the body which the reference shows,
            too.
        nobody_here: ``N Q``, the share of background in each supervised token of the target.
        nobody_there: ``N L``, the share of background in each token of the reference.
    """

    attention: torch.Tensor
    nobody_here: torch.Tensor
    nobody_there: torch.Tensor

    def pooled(self, side: int) -> _Wanted:
        """The same for blocks with ``side`` tokens on a side."""
        smaller = self.attention.shape[-1] // side**2
        if smaller == 1:
            return self
        wanted = _pooled(self.attention.transpose(1, 2), watched_side(side)).transpose(1, 2)
        # Sums over the places of a token, means over the watched ones.
        wanted = _pooled(wanted, side) * smaller
        nobody_here = _pooled(self.nobody_here, watched_side(side))
        return _Wanted(wanted, nobody_here, _pooled(self.nobody_there, side))

    def loss(self, attention: torch.Tensor) -> torch.Tensor:
        """Losses ``N`` of a block's attention ``N Q L``, float32."""
        watched = watched_tokens(attention.shape[-1], attention.device)
        # Each half is a mean over its own tokens, so a small person counts as much as the background.
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
    """Attention losses by body points, float32 ``B``.

    The cross-entropy between the attention and a Gaussian around the token's own body point in the reference;
    tokens on the background as in `attention_losses`.

    Args:
        readers: the processors, after a forward pass.
        reference_points: body points of the references, uint8 ``B M M 4``, see `training.dancers.render`.
        target_points: body points of the targets, ``B F M M 4``.
        size: tokens of the largest blocks, h and w, which are equal.
    """
    samples, frames = target_points.shape[:2]
    wanted = _wanted(reference_points, target_points, size[0])
    # Worked out once for the finest blocks and pooled for the others.
    sides = {round(reader.attention.shape[-1] ** 0.5) for reader in readers.values()}
    of_size = {side * side: wanted.pooled(side) for side in sides}
    losses = torch.stack([of_size[r.attention.shape[-1]].loss(r.attention) for r in readers.values()])
    return losses.mean(0).unflatten(0, (samples, frames)).mean(1)


@torch.no_grad()
def _wanted(reference_points: torch.Tensor, target_points: torch.Tensor, side: int) -> _Wanted:
    """The wanted attention for ``side`` tokens on a side; the point in its middle stands for a token."""
    here = _on_grid(target_points.flatten(0, 1), watched_side(side))  # (B F) Q 4
    there = _on_grid(reference_points, side).repeat_interleave(target_points.shape[1], dim=0)
    # Distances in the rest pose, where the same place of the body is the same point in any pose.
    apart = torch.cdist(here[..., :3], there[..., :3])
    somebody = here[..., 3:] > 0
    # Only of the same person: the fourth channel is their number.
    possible = somebody & (here[..., 3:] == there[:, None, :, 3])
    # So far that it gets no attention and does not count as shown.
    apart = torch.where(possible, apart, 1e3)
    shown = apart.amin(-1, keepdim=True) < REACH
    wanted = (-(apart**2) / (2 * SIGMA**2)).softmax(-1) * shown
    return _Wanted(wanted, (here[..., 3] == 0).float(), (there[..., 3] == 0).float())


def _on_grid(points: torch.Tensor, side: int) -> torch.Tensor:
    """The points ``N M M 4`` in the middles of ``side`` x ``side`` cells, float32 ``N side^2 4``."""
    middles = (2 * torch.arange(side, device=points.device) + 1) * points.shape[1] // (2 * side)
    return points[:, middles][:, :, middles].flatten(1, 2).float()


def _pooled(values: torch.Tensor, side: int) -> torch.Tensor:
    """Average values on a square grid, ``... G``, over ``side`` x ``side`` cells: ``... side^2``."""
    fine = round(values.shape[-1] ** 0.5)
    cells = values.unflatten(-1, (side, fine // side, side, fine // side))
    return cells.mean((-3, -1)).flatten(-2)
