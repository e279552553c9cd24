"""The loss on the attention to the reference, from body points instead of part maps.

The renderer knows which place of the body each pixel shows (`training.dancers.render.render_points`). A token
of the target should attend to the tokens of the reference that show the places nearest to its own, unless the
reference shows none of them; one of the background to its own place. The loss is the cross-entropy of the
attention with the wanted distribution, a Gaussian around the right place.

Letters in shape comments: ``B`` references, ``F`` targets of each, ``M`` side of a map of body points, ``Q``
watched tokens of a block, ``L`` all its tokens, ``N`` targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from training.attention_loss import WatchedAttention, watched_side, watched_tokens

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
