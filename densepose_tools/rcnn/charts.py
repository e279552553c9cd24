"""From a region's logits to labels and coordinates at the region's own size.

Letters in shape comments: ``H W`` pixels of the box in the picture.
"""

from __future__ import annotations

import torch
from torch.nn import functional


def box_corner_and_size(box: torch.Tensor) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 -> whole x, y, width, height, each cut off, not rounded."""
    x0, y0, x1, y1 = box.unbind()
    return int(x0), int(y0), int(x1 - x0), int(y1 - y0)


def chart_result(
    coarse: torch.Tensor, fine: torch.Tensor, u: torch.Tensor, v: torch.Tensor, *, size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Part and coordinates of every pixel of a box.

    The logits are stretched to the box; a pixel has the likeliest part where the coarse logits see a body.

    Args:
        coarse: (2, h, w) logits of background and body.
        fine, u, v: (25, h, w); coordinates lie in 0..1, more or less.
        size: (H, W) of the box, at least one pixel is given back.

    Returns:
        labels uint8 (H, W), 0..24; coordinates float32 (2, H, W), 0 on the background.
    """
    size = (max(size[0], 1), max(size[1], 1))

    def stretched(logits: torch.Tensor) -> torch.Tensor:
        return functional.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]

    labels = stretched(fine).argmax(dim=0) * (stretched(coarse).argmax(dim=0) > 0)
    coordinates = torch.stack([stretched(plane).gather(0, labels[None])[0] for plane in (u, v)])
    return labels.to(torch.uint8), coordinates * (labels > 0)


def as_bytes(coordinates: torch.Tensor) -> torch.Tensor:
    """Coordinates 0..1 as uint8 0..255, cut off."""
    return (coordinates * 255).clamp(0, 255).to(torch.uint8)
