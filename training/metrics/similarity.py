"""Structural similarity.

Letters in shape comments: ``F`` frames, ``H W`` pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from training.metrics.pixels import check_videos

WINDOW, SIGMA = 11, 1.5
HEAD = (23, 24)  # labels of its halves
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_FRAMES_AT_ONCE = 8


def ssim_map(truth: np.ndarray, result: np.ndarray) -> np.ndarray:
    """SSIM of every full window, mean of the three channels: float64 ``F H-10 W-10``.

    torchmetrics gives the same figures (tests), but goes on beyond the edges on mirrored pixels, and is an
    optional dependency, whereas a training looks at this one.

    Source: Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity" (IEEE
    TIP 2004), section III.B: Gaussian window of 11, sigma 1.5, K1 = 0.01, K2 = 0.03.

    Raises:
        ValueError: pictures smaller than the window.
    """
    check_videos(truth, result)
    if min(truth.shape[1:3]) < WINDOW:
        raise ValueError(f"pictures of {truth.shape[1:3]} are smaller than the window of {WINDOW}")
    chunks = range(0, len(truth), _FRAMES_AT_ONCE)
    parts = [_ssim(truth[i : i + _FRAMES_AT_ONCE], result[i : i + _FRAMES_AT_ONCE]) for i in chunks]
    return np.concatenate(parts)


def _ssim(truth: np.ndarray, result: np.ndarray) -> np.ndarray:
    x, y = (torch.from_numpy(np.array(v)).double().movedim(-1, 1) for v in (truth, result))
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    variance_x = _window_mean(x * x) - mean_x**2
    variance_y = _window_mean(y * y) - mean_y**2
    covariance = _window_mean(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * covariance + _C2) / (variance_x + variance_y + _C2)
    return (luminance * structure).mean(1).numpy()


def _window_mean(values: torch.Tensor) -> torch.Tensor:
    """Gaussian-weighted mean in every full window; ``F 3 H W`` -> ``F 3 H-10 W-10``."""
    offsets = torch.arange(WINDOW, dtype=values.dtype) - WINDOW // 2
    kernel = torch.exp(-0.5 * (offsets / SIGMA) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, WINDOW)
    flat = values.flatten(0, 1)[:, None]  # F 3 H W -> (F 3) 1 H W
    flat = functional.conv2d(functional.conv2d(flat, kernel), kernel.transpose(2, 3))
    return flat.view(*values.shape[:2], *flat.shape[2:])


def ssim(truth: np.ndarray, result: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Mean SSIM over frames, windows and channels, at most 1; on a mask, of the windows centred on it.

    The published evaluation takes grey pictures and a square window of 7 instead, which gives other values.
    """
    check_videos(truth, result, mask)
    values = ssim_map(truth, result)
    if mask is not None:
        edge = WINDOW // 2
        values = values[mask[:, edge : mask.shape[1] - edge, edge : mask.shape[2] - edge]]
    return float(values.mean()) if values.size else float("nan")


def feature_distance(truth: list[np.ndarray], result: list[np.ndarray]) -> float:
    """Distance of what a network sees in two clips: LPIPS's form without its learned weights and network.

    Features are scaled to length 1 at every place; the squared differences are summed over channels, averaged
    over places and frames, then over layers. 0 is equal, 4 the largest possible. Not LPIPS: figures of
    different networks cannot be compared.

    Args:
        truth, result: features of each layer, float ``F D h w``.

    Source: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (CVPR
    2018), equation 1 with all weights 1.
    """
    distances = []
    for a, b in zip(truth, result, strict=True):
        a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-10) for x in (a, b))
        distances.append(((a - b) ** 2).sum(1).mean())
    return float(np.mean(distances))


def head_ssim(truth: np.ndarray, result: np.ndarray, labels: np.ndarray) -> float:
    """Mean SSIM of the head's box, in the frames that show the head large; NaN if none does.

    Large is a quarter of the picture's height at least: in smaller ones a face is a few pixels.

    Args:
        truth, result: uint8 ``F H W 3``.
        labels: part ids, uint8 ``F H W``.
    """
    found = []
    for frame, head in enumerate(np.isin(labels, HEAD)):
        rows, columns = (np.flatnonzero(head.any(axis)) for axis in (1, 0))
        if not rows.size or rows[-1] + 1 - rows[0] < max(WINDOW, head.shape[0] / 4):
            continue
        left = min(columns[0], head.shape[1] - WINDOW)
        box = slice(rows[0], rows[-1] + 1), slice(left, max(columns[-1] + 1, left + WINDOW))
        found.append(ssim(truth[frame][box][None], result[frame][box][None]))
    return float(np.mean(found)) if found else float("nan")
