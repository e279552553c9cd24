"""Box arithmetic: applying predicted deltas, clipping, scaling.

Letters in shape comments: ``K`` boxes. A box is x0, y0, x1, y1 in pixels that the network sees.
"""

from __future__ import annotations

import math

import numpy as np
import torch

_LARGEST_GROWTH = math.log(1000.0 / 16)
"""Bound on the logarithm by which a side may grow."""

_CUT = 0.04
"""A side of a box cuts off the body if so much of it lies on the body; a box that fits is touched by tips."""


def moved(
    boxes: torch.Tensor, deltas: torch.Tensor, weights: tuple[float, float, float, float]
) -> torch.Tensor:
    """Apply predicted deltas (Girshick et al., "R-CNN", CVPR 2014, appendix C).

    Args:
        boxes: (K, 4).
        deltas: (K, 4) of shifts of the centre in box sizes and logarithms of growth, each times its weight.
        weights: see ``deltas``.

    Returns:
        (K, 4).
    """
    x0, y0, x1, y1 = boxes.unbind(dim=1)
    width, height = x1 - x0, y1 - y0
    dx, dy, dw, dh = (delta / weight for delta, weight in zip(deltas.unbind(dim=1), weights, strict=True))
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
    """Clip boxes (K, 4) to a picture of ``size`` (h, w); also tells which have an area, bool (K,)."""
    height, width = size
    x0, y0, x1, y1 = boxes.unbind(dim=1)
    inside = torch.stack(
        (x0.clamp(0, width), y0.clamp(0, height), x1.clamp(0, width), y1.clamp(0, height)), dim=1
    )
    return inside, (inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1])


def rescaled(
    boxes: torch.Tensor, size: tuple[int, int], picture: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes (K, 4) of a network that saw ``size`` (h, w), in pixels of ``picture`` (H, W); see `clipped`."""
    ratio = boxes.new_tensor([picture[1] / size[1], picture[0] / size[0]] * 2)
    return clipped(boxes * ratio, picture)


def cut_sides(labels: np.ndarray) -> tuple[bool, bool, bool, bool]:
    """Which sides of a box, left, top, right and bottom, cut off the body in it, labels uint8 (H, W)."""
    edges = (labels[:, 0], labels[0], labels[:, -1], labels[-1])
    return tuple(bool((edge > 0).mean() >= _CUT) for edge in edges)


def widened(boxes: torch.Tensor, sides: tuple[bool, bool, bool, bool], margin: float) -> torch.Tensor:
    """Boxes (K, 4) with some sides, left, top, right and bottom, moved out by a share of the box."""
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    step = margin * torch.stack([-width, -height, width, height], dim=1)
    return boxes + step * boxes.new_tensor(sides)
