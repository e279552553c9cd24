"""Pictures as the networks want them.

Letters in shape comments: ``B`` batch, ``H W`` pixels.
"""

from __future__ import annotations

import numpy as np
import torch

from magicanimate.palette import PALETTE


def to_images(rgb: np.ndarray) -> torch.Tensor:
    """uint8 ``... H W 3`` -> float32 ``... 3 H W`` in [-1, 1]."""
    return torch.from_numpy(np.array(rgb)).movedim(-1, -3).float() / 127.5 - 1


def drawn_to_control(drawing: np.ndarray) -> torch.Tensor:
    """A drawn driving signal, uint8 ``... H W 3`` -> float32 ``... 3 H W`` in [0, 1]."""
    return torch.from_numpy(np.array(drawing)).movedim(-1, -3).float() / 255


def draw_labels(labels: torch.Tensor) -> torch.Tensor:
    """Part ids uint8 ``... H W`` on any device -> palette colours float32 ``... 3 H W`` in [0, 1]."""
    colours = torch.from_numpy(PALETTE / np.float32(255)).to(labels.device)
    return colours[labels.long()].movedim(-1, -3)


def labels_of(drawn: torch.Tensor) -> torch.Tensor:
    """Ids of the nearest colours, int64 ``... H W``, of drawn part maps ``... 3 H W`` in [0, 1]."""
    colours = torch.from_numpy(PALETTE / np.float32(255)).to(drawn.device, drawn.dtype)
    products = torch.einsum("...chw,pc->...phw", drawn, colours)
    return (colours.square().sum(1)[:, None, None] - 2 * products).argmin(-3)
