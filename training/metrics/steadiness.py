"""How a result changes from frame to frame. Videos are uint8 ``F H W 3``, masks bool ``F H W``."""

from __future__ import annotations

import numpy as np

from training.metrics.pixels import check_videos


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
