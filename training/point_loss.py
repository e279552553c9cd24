"""The loss on where the blocks look in the reference, from body points instead of part maps.

The renderer knows which place of the body each pixel shows (`training.dancers.render.render_points`). A token
of the target should look at the tokens of the reference that show the places nearest to its own, unless the
reference shows none of them; one of the background at its own place. The loss is the cross-entropy of the
look with the wanted distribution, a Gaussian around the right place.

Letters in shape comments: ``B`` references, ``F`` targets of each, ``M`` side of a map of body points, ``Q``
watched tokens of a block, ``L`` all its tokens, ``G`` grid points of the reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from training.attention_loss import WatchedAttention, watched_side, watched_tokens

SIGMA = 5.0  # centimetres of the rest pose: how far from the right place a look may be
REACH = 12.0  # a place with none this near in the reference is not visible there
_LEAST_SHARE = 1e-4  # bounds the gradient of a share that is almost nothing


@dataclass(frozen=True)
class _Wanted:
    """Where the watched tokens of the largest blocks should look, on square grids of places.

    Attributes:
        look: ``N Q G``, of each watched token how much it should look at each place of the reference; rows
            add up to 1, or are 0 where the reference does not show it.
        nobody_here: ``N Q``, 1 where the target shows background; nobody_there: ``N G``, likewise.
    """

    look: torch.Tensor
    nobody_here: torch.Tensor
    nobody_there: torch.Tensor

    def loss(self, seen: torch.Tensor) -> torch.Tensor:
        """Of a block's look ``N Q' L``, float32 ``N``."""
        side = round(seen.shape[-1] ** 0.5)
        watched = watched_tokens(seen.shape[-1], seen.device)
        look = _pooled(self.look.transpose(1, 2), watched_side(side)).transpose(1, 2)  # N Q' G
        look = _pooled(look, side) * (self.look.shape[-1] / side**2)  # N Q' L, sums rather than means
        body = look.sum(-1)
        logarithms = (seen + _LEAST_SHARE).log()
        astray = -(look * logarithms).sum(-1)  # body times cross-entropy
        nobody = _pooled(self.nobody_here, watched_side(side)) * _pooled(self.nobody_there, side)[:, watched]
        own = -logarithms[:, torch.arange(len(watched), device=seen.device), watched]
        return 0.5 * (
            astray.sum(-1) / body.sum(-1).clamp_min(1.0)
            + (own * nobody).sum(-1) / nobody.sum(-1).clamp_min(1.0)
        )


def point_losses(
    readers: Mapping[str, WatchedAttention],
    reference_points: torch.Tensor,
    target_points: torch.Tensor,
    *,
    size: tuple[int, int],
) -> torch.Tensor:
    """How far the blocks look from where they should, float32 ``B``.

    Args:
        readers: after a forward pass.
        reference_points: body points of the references, uint8 ``B M M 4``.
        target_points: of the targets, ``B F M M 4``.
        size: h, w of the largest blocks' tokens, equal.
    """
    samples, frames = target_points.shape[:2]
    wanted = _wanted(reference_points, target_points, size[0])
    losses = torch.stack([wanted.loss(reader.seen) for reader in readers.values()])
    return losses.mean(0).unflatten(0, (samples, frames)).mean(1)


@torch.no_grad()
def _wanted(reference_points: torch.Tensor, target_points: torch.Tensor, side: int) -> _Wanted:
    """For blocks of at most ``side`` tokens each way."""
    # Blocks of few tokens are told more exactly where to look than their own grid is fine.
    fine = side if 4 * side > reference_points.shape[1] else 2 * side
    here = _on_grid(target_points.flatten(0, 1), watched_side(side))  # (B F) Q 4
    there = _on_grid(reference_points, fine).repeat_interleave(target_points.shape[1], dim=0)
    apart = torch.cdist(here[..., :3], there[..., :3])
    somebody = here[..., 3:] > 0
    possible = somebody & (here[..., 3:] == there[:, None, :, 3])
    apart = torch.where(possible, apart, 1e3)
    shown = apart.amin(-1, keepdim=True) < REACH
    look = (-(apart**2) / (2 * SIGMA**2)).softmax(-1) * shown
    return _Wanted(look, (here[..., 3] == 0).float(), (there[..., 3] == 0).float())


def _on_grid(points: torch.Tensor, side: int) -> torch.Tensor:
    """Maps ``N M M 4`` at the middles of ``side`` x ``side`` cells, float32 ``N side^2 4``."""
    middles = (2 * torch.arange(side, device=points.device) + 1) * points.shape[1] // (2 * side)
    return points[:, middles][:, :, middles].flatten(1, 2).float()


def _pooled(values: torch.Tensor, side: int) -> torch.Tensor:
    """``... G``, on a square grid, -> means over ``side`` x ``side`` cells of it, ``... side^2``."""
    fine = round(values.shape[-1] ** 0.5)
    cells = values.unflatten(-1, (side, fine // side, side, fine // side))
    return cells.mean((-3, -1)).flatten(-2)
