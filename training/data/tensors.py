"""Conversions between arrays of images or labels and the networks' tensors.

Letters in shape comments: ``H W`` pixels.
"""

from __future__ import annotations

import numpy as np
import torch

from magicanimate.palette import PALETTE


def to_images(rgb: np.ndarray) -> torch.Tensor:
    """Images, uint8 ``... H W 3`` -> float32 ``... 3 H W`` in [-1, 1]."""
    return torch.from_numpy(np.array(rgb)).movedim(-1, -3).float() / 127.5 - 1


def drawn_to_control(drawing: np.ndarray) -> torch.Tensor:
    """Control images, uint8 ``... H W 3`` -> float32 ``... 3 H W`` in [0, 1], as ControlNet takes them."""
    return torch.from_numpy(np.array(drawing)).movedim(-1, -3).float() / 255


def draw_labels(labels: torch.Tensor) -> torch.Tensor:
    """Part ids, uint8 ``... H W`` -> palette colours, float32 ``... 3 H W`` in [0, 1], on any device."""
    colours = torch.from_numpy(PALETTE / np.float32(255)).to(labels.device)
    return colours[labels.long()].movedim(-1, -3)


def labels_of(drawn: torch.Tensor) -> torch.Tensor:
    """The inverse of `draw_labels`: ids of the nearest colours of ``... 3 H W``, int64 ``... H W``."""
    colours = torch.from_numpy(PALETTE / np.float32(255)).to(drawn.device, drawn.dtype)
    # |x - c|^2 = |x|^2 - 2 x c + |c|^2, of which the first term is the same for all colours c. This spares a
    # tensor of all differences.
    products = torch.einsum("...chw,pc->...phw", drawn, colours)
    return (colours.square().sum(1)[:, None, None] - 2 * products).argmin(-3)
