"""Box arithmetic: applying predicted deltas, clipping, scaling, widening.

A box is x0, y0, x1, y1 in pixels of the network's input. Letters in shape comments: ``K`` boxes.
"""

from __future__ import annotations

import math

import numpy as np
import torch

_LARGEST_GROWTH = math.log(1000.0 / 16)
"""Largest logarithm of a side's growth, as in detectron2, against overflow of the exponential."""

_CUT = 0.04
"""Smallest share of a box's side on the body that counts as cutting it off; limbs only touch a box."""


def moved(
    boxes: torch.Tensor, deltas: torch.Tensor, weights: tuple[float, float, float, float]
) -> torch.Tensor:
    """Apply predicted deltas (Girshick et al., "R-CNN", CVPR 2014, appendix C).

    Args:
        boxes: (K, 4).
        deltas: (K, 4): shifts of the centre relative to the box's size, and logarithms of its growth, each
            multiplied by its weight.
        weights: see ``deltas``.

    Returns:
        (K, 4).
    """
    x0, y0, x1, y1 = boxes.unbind(dim=1)
    width, height = x1 - x0, y1 - y0
    dx, dy, dw, dh = (delta / weight for delta, weight in zip(deltas.unbind(dim=1), weights, strict=True))
    # Shifts are relative to the box's size, growth is logarithmic, so that both suit boxes of any size.
    centre_x = dx * width + (x0 + 0.5 * width)
    centre_y = dy * height + (y0 + 0.5 * height)
    half_width = 0.5 * (dw.clamp(max=_LARGEST_GROWTH).exp() * width)
    half_height = 0.5 * (dh.clamp(max=_LARGEST_GROWTH).exp() * height)
    corners = (
        centre_x - half_width,
        centre_y - half_height,
        centre_x + half_width,
        centre_y + half_height,
    )
    return torch.stack(corners, dim=1)


def clipped(boxes: torch.Tensor, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Clip boxes (K, 4) to an image of ``size`` (h, w); also returns which have an area left, bool (K,)."""
    height, width = size
    x0, y0, x1, y1 = boxes.unbind(dim=1)
    inside = torch.stack(
        (x0.clamp(0, width), y0.clamp(0, height), x1.clamp(0, width), y1.clamp(0, height)), dim=1
    )
    return inside, (inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1])


def rescaled(
    boxes: torch.Tensor, size: tuple[int, int], picture: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale boxes (K, 4) from the network's ``size`` (h, w) to a ``picture`` (H, W); see `clipped`."""
    # Both sides separately: the network's size is rounded to whole pixels.
    ratio = boxes.new_tensor([picture[1] / size[1], picture[0] / size[0]] * 2)
    return clipped(boxes * ratio, picture)


def cut_sides(labels: np.ndarray) -> tuple[bool, bool, bool, bool]:
    """Which sides of a box (left, top, right, bottom) cut off the body; labels are uint8 (H, W)."""
    # The outermost row or column of labels on each side.
    edges = (labels[:, 0], labels[0], labels[:, -1], labels[-1])
    return tuple(bool((edge > 0).mean() >= _CUT) for edge in edges)


def widened(boxes: torch.Tensor, sides: tuple[bool, bool, bool, bool], margin: float) -> torch.Tensor:
    """Move some sides (left, top, right, bottom) of boxes (K, 4) out by a share of the box."""
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    # Outwards: to the left and top is negative.
    step = margin * torch.stack([-width, -height, width, height], dim=1)
    return boxes + step * boxes.new_tensor(sides)
