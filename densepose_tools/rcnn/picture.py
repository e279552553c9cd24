"""Pictures as the network wants them.

Letters in shape comments: ``H W`` pixels of the picture, ``h w`` pixels the network sees, ``h+ w+`` the same
grown to multiples of 32.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

SHORT_SIDE, LONG_SIDE = 800, 1333
"""Pictures are scaled to the first, or as far as the second allows (config of R_50_FPN_s1x)."""

_STRIDE = 32
_MEAN_BGR = (103.53, 116.28, 123.675)


def network_size(
    height: int, width: int, *, short: int = SHORT_SIDE, long: int = LONG_SIDE
) -> tuple[int, int]:
    """``(h, w)`` to which a picture of ``height`` x ``width`` is scaled."""
    scale = short / min(height, width)
    scaled = (short, scale * width) if height < width else (scale * height, short)
    if max(scaled) > long:
        shrink = long / max(scaled)
        scaled = (scaled[0] * shrink, scaled[1] * shrink)
    return max(1, int(scaled[0] + 0.5)), max(1, int(scaled[1] + 0.5))


def resized_bgr(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale RGB uint8 (H, W, 3) with Pillow's bilinear filter: BGR uint8 (h, w, 3)."""
    height, width = size
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized)[..., ::-1]


def network_input(images: list[np.ndarray], size: tuple[int, int], device: torch.device) -> torch.Tensor:
    """A batch of pictures of one size, RGB uint8 (H, W, 3) each.

    The mean is taken off before the padding, so that padding is an average grey.

    Returns:
        float32 (N, 3, h+, w+), BGR.
    """
    bgr = np.stack([resized_bgr(image, size) for image in images])
    batch = torch.from_numpy(bgr).to(device).movedim(-1, 1).float()
    batch = batch - torch.tensor(_MEAN_BGR, device=device).view(3, 1, 1)
    down, right = (-side % _STRIDE for side in size)
    return functional.pad(batch, (0, right, 0, down))
