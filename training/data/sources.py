"""What a set of videos and a set of images are to the training, and the sets made of other sets.

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
"""What the names of mirrored copies end in; so they may lie in the folder of the data itself."""

SIGNALS = ("densepose", "keypoints")
"""The driving signals there are: DensePose part map, keypoints drawing."""


@dataclass(frozen=True)
class Frames:
    """Pictures with what drives them.

    Attributes:
        pixels: uint8 N H W 3; ``None`` where the latents are there and nobody looks at the pictures.
        control: the drawn driving signals by name, uint8 N H W 3 each: "densepose" (part map in the viridis
            palette), "keypoints" (drawing on black), or both. Without "densepose" where the labels are there.
        latents: float16 N C h w, if they were computed beforehand.
        labels: part ids, uint8 N H W, likewise.
        points: body points, uint8 N M M 4 (`training.dancers.render.render_points`), likewise.
        photo_labels: part ids that the part segmenter sees in the pictures, uint8 N M M, likewise.
    """

    pixels: np.ndarray | None
    control: dict[str, np.ndarray]
    latents: np.ndarray | None = None
    labels: np.ndarray | None = None
    points: np.ndarray | None = None
    photo_labels: np.ndarray | None = None


class VideoSet(Protocol):
    """Videos of one training size. A set never flips: parts and keypoints tell left from right.

    Attributes:
        stills: so many leading frames of every video are pictures apart (same person and place, other poses);
            what follows is one continuous clip. 0 for real videos.
    """

    stills: int

    def __len__(self) -> int: ...

    def num_frames(self, video: int) -> int:
        """Frames of a video, stills included."""

    def name(self, video: int) -> str:
        """What to call the video in a message."""

    def read(self, video: int, frames: Sequence[int]) -> Frames:
        """Some frames, in the order asked for; ``InputError`` names the file that cannot be read."""


class ImageSet(Protocol):
    """Images of one training size."""

    def __len__(self) -> int: ...

    def read(self, image: int) -> Frames:
        """One image (N = 1); ``InputError`` names the file that cannot be read."""


class VideoSubset:
    """Some videos of a set."""

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
    """The set without its last ``count`` videos, and these.

    Mirrored copies (`training.data.flip`) of videos that are held out are not learned from either, and are
    not held out themselves.

    Raises:
        ValueError: nothing would be left to learn from.
    """
    stems = [Path(videos.name(video)).stem for video in range(len(videos))]
    there = set(stems)
    original = [
        stem.removesuffix(MIRRORED) if stem.removesuffix(MIRRORED) in there else stem for stem in stems
    ]
    originals = [video for video, stem in enumerate(stems) if original[video] == stem]
    if not 0 <= count < len(originals):
        raise ValueError(
            f"--holdout {count} of {len(originals)} videos would leave nothing to learn from; lower it, or "
            "choose another --preset."
        )
    held_out = originals[len(originals) - count :]
    names = {stems[video] for video in held_out}
    learned = [video for video, stem in enumerate(original) if stem not in names]
    return VideoSubset(videos, learned), VideoSubset(videos, held_out)


class VideoFrames:
    """All frames of a set of videos as images, one after the other (they may serve as the image set)."""

    def __init__(self, videos: VideoSet):
        self.videos = videos
        self._ends = np.cumsum([videos.num_frames(video) for video in range(len(videos))])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def locate(self, image: int) -> tuple[int, int]:
        """The video and the frame in it that an image is."""
        video = int(np.searchsorted(self._ends, image, side="right"))
        return video, image - (int(self._ends[video - 1]) if video else 0)

    def read(self, image: int) -> Frames:
        video, frame = self.locate(image)
        return self.videos.read(video, [frame])
