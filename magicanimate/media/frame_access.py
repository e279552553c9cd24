"""Read any frames of a video file without decoding all of it.

Letters in shape comments: ``H W`` pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import av
import numpy as np

from magicanimate.config import MediaLimits
from magicanimate.errors import InputError
from magicanimate.media import video_file
from magicanimate.media.video_file import VideoIndex


def frames_at(
    path: Path, index: VideoIndex, positions: Iterable[int], *, limits: MediaLimits
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode the frames at these positions, from the key frame before each group of them.

    Args:
        path: the file.
        index: of the file.
        positions: in the order shown, 0 is the first frame.
        limits: ``max_pixels`` is given to the decoder.

    Yields:
        position and upright RGB, uint8 (H, W, 3), ascending, each position once. Frames that are damaged are
        missing.

    Raises:
        InputError: the file is gone or can no longer be opened.
    """
    positions = sorted(set(positions))
    try:
        if index.pts is None:  # no timestamps to find frames by: count
            yield from _counted(path, positions, limits)
            return
        # Decoding goes on from one frame to the next unless a key frame lies between the two.
        group_of = np.searchsorted(index.key_pts, index.pts[positions], side="right")
        for group in np.unique(group_of):
            group_positions = [p for p, g in zip(positions, group_of.tolist(), strict=True) if g == group]
            yield from _one_group(path, index.pts, group_positions, limits)
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"The video {path} cannot be read any more ({error.strerror}).") from error


def _one_group(
    path: Path, pts: np.ndarray, positions: list[int], limits: MediaLimits
) -> Iterator[tuple[int, np.ndarray]]:
    """Frames at ascending positions that follow one key frame."""
    position_of = {int(pts[position]): position for position in positions}
    last = max(position_of)
    decoding = video_file.decode(
        path,
        limits=limits,
        seek_pts=int(pts[positions[0]]),
        wanted=lambda time: time is not None and (time in position_of or time > last),
    )
    with closing(decoding):
        for time, frame in decoding:
            if time > last:
                return
            yield position_of[time], frame
            if time == last:
                return


def _counted(path: Path, positions: list[int], limits: MediaLimits) -> Iterator[tuple[int, np.ndarray]]:
    """Frames at ascending positions, decoding from the beginning."""
    left = set(positions)
    decoding = video_file.decode(path, limits=limits)
    with closing(decoding):
        for position, (_, frame) in enumerate(decoding):
            if position in left:
                yield position, frame
                left.discard(position)
            if not left:
                return
