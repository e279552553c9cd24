"""How far the pixels of a result are from the truth's, and how they change from frame to frame.

Videos are uint8 ``F H W 3``; a mask is bool ``F H W`` and limits a figure to its pixels (the person).
Figures of an empty mask are NaN.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

WINDOW, SIGMA = 11, 1.5
HEAD = (23, 24)  # labels of its halves
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_FRAMES_AT_ONCE = 8
PERFECT_PSNR = 100.0
"""What the published evaluation gives a frame without any error, in dB."""


def check_videos(truth: np.ndarray, result: np.ndarray, mask: np.ndarray | None = None) -> None:
    """Refuse what the figures are not made for.

    Raises:
        ValueError: not uint8 ``F H W 3``, different shapes, or a mask that does not fit.
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
    """Mean absolute difference as a share of full scale, 0..1."""
    difference = _differences(truth, result, mask)
    return float(np.abs(difference).mean() / 255) if difference.size else float("nan")


def l1_published(truth: np.ndarray, result: np.ndarray) -> float:
    """The L1 of the paper's tables ("E-04"): mean absolute difference in grey levels over pixels of a frame.

    It depends on the size of the picture: the same error at twice the side gives a quarter.

    Source: the evaluation of DisCo (Wang et al., CVPR 2024), ``tool/metrics/ssim_l1_lpips_psnr.py``, which
    MagicAnimate's table 1 follows.
    """
    return l1(truth, result) * 255 / (truth.shape[1] * truth.shape[2])


def psnr(truth: np.ndarray, result: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB, of the squared error over the whole clip; infinite without error.

    The error is averaged before the logarithm, so that one perfect frame (the photo itself) does not
    decide the figure. torchmetrics gives the same (tests), but knows no masks.
    """
    difference = _differences(truth, result, mask)
    if not difference.size:
        return float("nan")
    error = float((difference**2).mean())
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def psnr_overflowing(truth: np.ndarray, result: np.ndarray) -> float:
    """The PSNR first reported by this line of work, which is not one: uint8 arithmetic wraps around.

    The difference and its square are both taken modulo 256; each frame gives a figure, one without (wrapped)
    error gives 100 dB, and the frames' mean is reported. Only for comparing with published tables.

    Source: DisCo's ``tool/metrics/ssim_l1_lpips_psnr.py``; the fault is described in issue 86 of
    github.com/Wangt-CN/DisCo and issue 146 of github.com/magic-research/magic-animate.
    """
    check_videos(truth, result)
    wrapped = (result - truth) ** 2  # uint8 on purpose
    errors = wrapped.reshape(len(truth), -1).mean(axis=1, dtype=np.float64)
    values = [10 * np.log10(255**2 / error) if error else PERFECT_PSNR for error in errors]
    return float(np.mean(values))


def gradient_energy(truth: np.ndarray, result: np.ndarray, mask: np.ndarray) -> float:
    """Sharpness: mean squared difference to the neighbours beside and below, as a share of the truth's.

    1 is as sharp as the truth, less is blurred, more is grain or ringing. Counted are neighbours that lie
    both on the mask, so that the contrast with what is around it does not matter.
    """
    check_videos(truth, result, mask)
    energies = []
    for video in (result.astype(np.float64), truth.astype(np.float64)):
        total = 0.0
        for axis in (1, 2):
            lower, upper = (np.delete(mask, end, axis) for end in (-1, 0))
            total += float((np.diff(video, axis=axis)[lower & upper] ** 2).sum())
        energies.append(total)
    return energies[0] / energies[1] if energies[1] else float("nan")


def temporal_error(truth: np.ndarray, result: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Mean absolute difference, in grey levels, between the result's changes and the truth's.

    A change is a frame minus the one before. A constant error of colour costs nothing, flicker and wrong
    motion do. On a mask a change counts where either of its frames is masked.

    Returns:
        0..510; NaN for a single frame or an empty mask.
    """
    check_videos(truth, result, mask)
    changes = [np.diff(video.astype(np.int16), axis=0) for video in (truth, result)]
    error = np.abs(changes[1] - changes[0])
    if mask is not None:
        error = error[mask[1:] | mask[:-1]]
    return float(error.mean()) if error.size else float("nan")


def flicker(video: np.ndarray) -> float:
    """Mean absolute second difference over time in grey levels, for clips that have no truth.

    ``x[t-1] - 2 x[t] + x[t+1]``: a still picture and an even drift give 0, noise that is new in every frame
    gives much. Motion adds to it, the same amount for all results of one motion clip.

    Returns:
        0..510; NaN for fewer than three frames.
    """
    check_videos(video, video)
    if len(video) < 3:
        return float("nan")
    return float(np.abs(np.diff(video.astype(np.int16), n=2, axis=0)).mean())


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
