"""The interfaces of video and image sets, and sets derived from other sets.

Letters in shape comments: ``N`` pictures, ``H W`` pixels (equal: sets give squares of the training size),
``C h w`` latents, ``M`` side of a map of body points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

MIRRORED = "_mirrored"
"""Ending of the names of mirrored copies, which may lie in the same folder as the originals."""

SIGNALS = ("densepose", "keypoints")
"""The control signals: DensePose part maps, and drawn keypoints."""


@dataclass(frozen=True)
class Frames:
    """Images with their control images.

    Attributes:
        pixels: the images, uint8 ``N H W 3``; ``None`` where latents take their place.
        control: control images by signal, uint8 ``N H W 3``: "densepose" (part map in the viridis palette),
            "keypoints" (drawn on black), or both; without "densepose" where there are labels.
        latents: precomputed latents, float16 ``N C h w``.
        labels: exact part ids, uint8 ``N H W``.
        points: body points, uint8 ``N M M 4``, see `training.dancers.render.render_points`.
        photo_labels: part ids as the part segmenter finds them in the images, uint8 ``N M M``.
    """

    pixels: np.ndarray | None
    control: dict[str, np.ndarray]
    latents: np.ndarray | None = None
    labels: np.ndarray | None = None
    points: np.ndarray | None = None
    photo_labels: np.ndarray | None = None


class VideoSet(Protocol):
    """Videos of one size. Nothing is mirrored when it is read, as parts and keypoints tell left from right.

    Attributes:
        stills: number of leading frames of every video that are single images (the same person and place in
            other poses); the rest is a continuous clip. 0 for real videos.
    """

    stills: int

    def __len__(self) -> int: ...

    def num_frames(self, video: int) -> int:
        """Number of frames of a video, stills included."""

    def name(self, video: int) -> str:
        """The video's name for messages."""

    def read(self, video: int, frames: Sequence[int]) -> Frames:
        """Read frames in the given order; an `InputError` names the file that cannot be read."""


class ImageSet(Protocol):
    """Single images of one size."""

    def __len__(self) -> int: ...

    def read(self, image: int) -> Frames:
        """Read one image (N = 1); an `InputError` names the file that cannot be read."""


class VideoSubset:
    """A `VideoSet` of some videos of another one."""

    def __init__(self, videos: VideoSet, indices: Sequence[int]):
        self.videos, self.indices, self.stills = videos, list(indices), videos.stills

    def __len__(self) -> int:
        return len(self.indices)

    def num_frames(self, video: int) -> int:
        return self.videos.num_frames(self.indices[video])

    def name(self, video: int) -> str:
        return self.videos.name(self.indices[video])

    def read(self, video: int, frames: Sequence[int]) -> Frames:
        return self.videos.read(self.indices[video], frames)

    def signals_of(self, video: int, frames: Sequence[int]) -> dict[str, np.ndarray]:
        """See `training.data.videos.VideoFolder.signals_of`."""
        return self.videos.signals_of(self.indices[video], frames)


def hold_out(videos: VideoSet, count: int) -> tuple[VideoSubset, VideoSubset]:
    """Split a set into training videos and its last ``count`` videos, which are held out for validation.

    Mirrored copies (`training.data.flip`) of held-out videos are in neither part.

    Raises:
        ValueError: nothing would be left to learn from.
    """
    stems = [Path(videos.name(video)).stem for video in range(len(videos))]
    there = set(stems)
    original = [
        # A copy only if its original is in the set; else the name merely ends like one.
        stem.removesuffix(MIRRORED) if stem.removesuffix(MIRRORED) in there else stem
        for stem in stems
    ]
    originals = [video for video, stem in enumerate(stems) if original[video] == stem]
    if not 0 <= count < len(originals):
        raise ValueError(
            f"--holdout {count} of {len(originals)} videos would leave nothing to learn from; lower it, or "
            "choose another --preset."
        )
    held_out = originals[len(originals) - count :]
    # A mirrored validation video would be almost seen in training.
    names = {stems[video] for video in held_out}
    learned = [video for video, stem in enumerate(original) if stem not in names]
    return VideoSubset(videos, learned), VideoSubset(videos, held_out)


class VideoFrames:
    """An `ImageSet` of all frames of a set of videos."""

    def __init__(self, videos: VideoSet):
        self.videos = videos
        # Running totals, in which a frame's video is found by bisection.
        self._ends = np.cumsum([videos.num_frames(video) for video in range(len(videos))])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def locate(self, image: int) -> tuple[int, int]:
        """The video that an image belongs to, and its frame number."""
        video = int(np.searchsorted(self._ends, image, side="right"))
        return video, image - (int(self._ends[video - 1]) if video else 0)

    def read(self, image: int) -> Frames:
        video, frame = self.locate(image)
        return self.videos.read(video, [frame])
