"""Metrics of pixels and windows of pixels: L1, PSNR, SSIM, sharpness, flicker, and feature distances.

Videos are uint8 ``F H W 3``. A mask is bool ``F H W`` and restricts a metric to its pixels (the person); with
an empty mask a metric is NaN. torchmetrics gives the same PSNR and SSIM (tests), but knows no masks and is
optional.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

WINDOW, SIGMA = 11, 1.5
HEAD = (23, 24)  # part ids of the two halves of the head
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_FRAMES_AT_ONCE = 8
PERFECT_PSNR = 100.0
"""The PSNR of a frame without any error in the published evaluation, in dB."""


def check_videos(truth: np.ndarray, result: np.ndarray, mask: np.ndarray | None = None) -> None:
    """Check the arguments of a metric.

    Raises:
        ValueError: a video is not uint8 ``F H W 3``, the shapes differ, or the mask does not fit.
    """
    for name, video in (("truth", truth), ("result", result)):
        if video.dtype != np.uint8 or video.ndim != 4 or video.shape[3] != 3 or not len(video):
            raise ValueError(f"{name} must be uint8 (F, H, W, 3), not {video.dtype} {video.shape}")
    if truth.shape != result.shape:
        raise ValueError(f"truth {truth.shape} and result {result.shape} differ in shape")
    if mask is not None and (mask.dtype != np.bool_ or mask.shape != truth.shape[:3]):
        raise ValueError(f"mask must be bool {truth.shape[:3]}, not {mask.dtype} {mask.shape}")


def _differences(truth: np.ndarray, result: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Signed differences in grey levels, float64 ``F H W 3``, or ``N 3`` on a mask."""
    check_videos(truth, result, mask)
    difference = result.astype(np.float64) - truth.astype(np.float64)
    return difference if mask is None else difference[mask]


def l1(truth: np.ndarray, result: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Mean absolute difference relative to full scale, 0..1."""
    difference = _differences(truth, result, mask)
    return float(np.abs(difference).mean() / 255) if difference.size else float("nan")


def l1_published(truth: np.ndarray, result: np.ndarray) -> float:
    """The L1 of the paper's tables ("E-04"): mean difference in grey levels by a frame's pixels.

    So it depends on the resolution: the same error at twice the side gives a quarter.

    Source: the evaluation of DisCo (Wang et al., CVPR 2024), ``tool/metrics/ssim_l1_lpips_psnr.py``, which
    MagicAnimate's table 1 follows.
    """
    return l1(truth, result) * 255 / (truth.shape[1] * truth.shape[2])


def psnr(truth: np.ndarray, result: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio of the whole clip in dB; infinite without error.

    The squared error is averaged over the clip before the logarithm, so that a single perfect frame, such as
    the photo itself, does not dominate.
    """
    difference = _differences(truth, result, mask)
    if not difference.size:
        return float("nan")
    error = float((difference**2).mean())
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def psnr_overflowing(truth: np.ndarray, result: np.ndarray) -> float:
    """The PSNR as first published by this line of work, with an overflow: its uint8 arithmetic wraps around.

    Difference and square are both taken modulo 256; a frame without (wrapped) error counts as 100 dB, and the
    mean over frames is reported. Only for comparisons with published tables.

    Source: DisCo's ``tool/metrics/ssim_l1_lpips_psnr.py``; the fault is described in issue 86 of
    github.com/Wangt-CN/DisCo and issue 146 of github.com/magic-research/magic-animate.
    """
    check_videos(truth, result)
    # Left in uint8 on purpose: this is the overflow.
    wrapped = (result - truth) ** 2
    errors = wrapped.reshape(len(truth), -1).mean(axis=1, dtype=np.float64)
    values = [10 * np.log10(255**2 / error) if error else PERFECT_PSNR for error in errors]
    return float(np.mean(values))


def gradient_energy(truth: np.ndarray, result: np.ndarray, mask: np.ndarray) -> float:
    """Sharpness: the energy of horizontal and vertical image gradients, relative to the truth's.

    1 is as sharp as the truth, less is blurred, more is grain or ringing. Only pairs of pixels that are both
    on the mask count, so that the contrast at its edge does not.
    """
    check_videos(truth, result, mask)
    energies = []
    for video in (result.astype(np.float64), truth.astype(np.float64)):
        total = 0.0
        for axis in (1, 2):
            # The two pixels of each difference, in the shape that np.diff gives.
            lower, upper = (np.delete(mask, end, axis) for end in (-1, 0))
            total += float((np.diff(video, axis=axis)[lower & upper] ** 2).sum())
        energies.append(total)
    return energies[0] / energies[1] if energies[1] else float("nan")


def temporal_error(truth: np.ndarray, result: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Mean absolute difference, in grey levels, between the changes from frame to frame of result and truth.

    A constant colour error costs nothing, flicker and wrong motion do. With a mask, a change counts where
    either of its two frames is on the mask.

    Returns:
        0..510; NaN for a single frame or an empty mask.
    """
    check_videos(truth, result, mask)
    # int16 holds all differences of bytes at half the memory of floats.
    changes = [np.diff(video.astype(np.int16), axis=0) for video in (truth, result)]
    error = np.abs(changes[1] - changes[0])
    if mask is not None:
        error = error[mask[1:] | mask[:-1]]
    return float(error.mean()) if error.size else float("nan")


def flicker(video: np.ndarray) -> float:
    """Mean absolute second difference over time, in grey levels, for clips without ground truth.

    This is ``x[t-1] - 2 x[t] + x[t+1]``: 0 for a still image and for steady change, large for noise that is
    new in every frame. Motion adds to it, by about the same amount for all results of one motion clip.

    Returns:
        0..510; NaN for fewer than three frames.
    """
    check_videos(video, video)
    if len(video) < 3:
        return float("nan")
    return float(np.abs(np.diff(video.astype(np.int16), n=2, axis=0)).mean())


def ssim_map(truth: np.ndarray, result: np.ndarray) -> np.ndarray:
    """SSIM of every complete window, averaged over the channels: float64 ``F H-10 W-10``.

    torchmetrics gives the same values (tests), but pads the edges with mirrored pixels.

    Source: Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity" (IEEE
    TIP 2004), section III.B: Gaussian window of 11, sigma 1.5, K1 = 0.01, K2 = 0.03.

    Raises:
        ValueError: pictures smaller than the window.
    """
    check_videos(truth, result)
    if min(truth.shape[1:3]) < WINDOW:
        raise ValueError(f"pictures of {truth.shape[1:3]} are smaller than the window of {WINDOW}")
    # A few frames at a time, as the windows' moments take many times the memory of the video.
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
    """Gaussian-weighted mean in every complete window; ``F 3 H W`` -> ``F 3 H-10 W-10``."""
    offsets = torch.arange(WINDOW, dtype=values.dtype) - WINDOW // 2
    kernel = torch.exp(-0.5 * (offsets / SIGMA) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, WINDOW)
    flat = values.flatten(0, 1)[:, None]  # F 3 H W -> (F 3) 1 H W
    # A Gaussian is separable: twice 11 products in place of 121.
    flat = functional.conv2d(functional.conv2d(flat, kernel), kernel.transpose(2, 3))
    return flat.view(*values.shape[:2], *flat.shape[2:])


def ssim(truth: np.ndarray, result: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Mean SSIM over frames, windows and channels, at most 1; with a mask, of the windows centred on it.

    The published evaluation uses greyscale images and a square window of 7 instead, which gives other values.
    """
    check_videos(truth, result, mask)
    values = ssim_map(truth, result)
    if mask is not None:
        edge = WINDOW // 2
        values = values[mask[:, edge : mask.shape[1] - edge, edge : mask.shape[2] - edge]]
    return float(values.mean()) if values.size else float("nan")


def feature_distance(truth: list[np.ndarray], result: list[np.ndarray]) -> float:
    """Perceptual distance of two clips: LPIPS's formula without its learned weights and its network.

    Features are normalized to length 1 at every position; squared differences are summed over channels, then
    averaged over positions, frames and layers. 0 is equal, 4 the maximum. It is not LPIPS, and values of
    different networks cannot be compared.

    Args:
        truth, result: a network's features by layer, float ``F D h w`` each.

    Source: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (CVPR
    2018), equation 1 with all weights 1.
    """
    distances = []
    for a, b in zip(truth, result, strict=True):
        a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-10) for x in (a, b))
        distances.append(((a - b) ** 2).sum(1).mean())
    return float(np.mean(distances))


def head_ssim(truth: np.ndarray, result: np.ndarray, labels: np.ndarray) -> float:
    """Mean SSIM of the box around the head, in close-up frames; NaN if there are none.

    A close-up has a head of at least a quarter of the image's height: a smaller face is only a few pixels.

    Args:
        truth, result: uint8 ``F H W 3``.
        labels: part ids, uint8 ``F H W``.
    """
    found = []
    for frame, head in enumerate(np.isin(labels, HEAD)):
        rows, columns = (np.flatnonzero(head.any(axis)) for axis in (1, 0))
        if not rows.size or rows[-1] + 1 - rows[0] < max(WINDOW, head.shape[0] / 4):
            continue
        # At least as wide as an SSIM window.
        left = min(columns[0], head.shape[1] - WINDOW)
        box = slice(rows[0], rows[-1] + 1), slice(left, max(columns[-1] + 1, left + WINDOW))
        found.append(ssim(truth[frame][box][None], result[frame][box][None]))
    return float(np.mean(found)) if found else float("nan")
