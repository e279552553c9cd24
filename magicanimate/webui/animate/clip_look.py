"""A quick look at photo and clip as an animation would take them: what they are, and what of them is used."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np

from magicanimate.config import AnimationRequest
from magicanimate.media.densepose_check import MotionReport, check_densepose
from magicanimate.media.fit import Box, MotionFit, fit_photo, frame_box, plan_motion_fit
from magicanimate.media.motion import MotionClip, open_motion
from magicanimate.media.photo import load_photo

_PIXELS = 60_000_000
"""Of a clip's frames that are decoded: about 230 frames of 512 x 512, a fraction of a second."""

_KEPT = 12
"""Frames of them that are kept."""


@dataclass(frozen=True)
class ClipLook:
    """What a clip shows.

    Attributes:
        report: what its colours say.
        size: width and height of a frame.
        frames, fps: of the result.
        boxes: around the people in each of the frames looked at; the animation looks at all of them.
        samples: some of the frames, the first one with somebody in it first, uint8 (k, h, w, 3).
        numbers: of the samples among the frames.
        looked_at: frames that were decoded.
    """

    report: MotionReport
    size: tuple[int, int]
    frames: int
    fps: float
    boxes: tuple[Box | None, ...]
    samples: np.ndarray
    numbers: tuple[int, ...]
    looked_at: int

    def plan(self, *, width: int, height: int, fit: str) -> MotionFit:
        """Which part of the frames would be used."""
        people = self.boxes if self.report.is_densepose else []
        keep_labels = self.report.is_densepose
        return plan_motion_fit(
            self.size, people, width=width, height=height, fit=fit, keep_labels=keep_labels
        )

    def fitted(self, *, width: int, height: int, fit: str) -> list[np.ndarray]:
        """The samples as the networks would see them, uint8 (height, width, 3) each."""
        plan = self.plan(width=width, height=height, fit=fit)
        return [plan.apply(frame, number) for frame, number in zip(self.samples, self.numbers, strict=True)]


def look_at_photo(
    request: AnimationRequest, find_people: Callable[[np.ndarray], Box | None] | None = None
) -> np.ndarray:
    """The photo as the networks would see it, uint8 (height, width, 3).

    Args:
        request: with a size.
        find_people: tells where the people in the whole photo are.

    Raises:
        InputError: it cannot be used.
    """
    photo = _photo(Path(request.photo), _changed(request.photo))
    people = None if find_people is None else find_people(photo)
    return fit_photo(photo, width=request.width, height=request.height, fit=request.fit, person=people)


def look_at_clip(request: AnimationRequest) -> ClipLook:
    """What the clip of a request shows in the stretch that is used.

    Raises:
        InputError: it cannot be used.
    """
    path = Path(request.motion)
    return _clip(path, _changed(path), request.start, request.end, request.stride, request.fps)


def _changed(path: Path) -> int:
    """What changes when a file does; 0 if there is none, which its reader will say."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=2)
def _photo(path: Path, changed: int) -> np.ndarray:
    return load_photo(path)


@lru_cache(maxsize=4)
def _clip(
    path: Path, changed: int, start: float, end: float | None, stride: int, fps: float | None
) -> ClipLook:
    clip = open_motion(path, start=start, end=end, stride=stride, fps=fps)
    with closing(clip.frames()) as frames:
        report = check_densepose(islice(frames, _most(clip)))
    boxes: list[Box | None] = []
    samples: list[np.ndarray] = []
    numbers: list[int] = []
    every = max(1, min(_most(clip), clip.num_frames_estimate or 1) // _KEPT)
    with closing(clip.frames()) as frames:
        for number, frame in enumerate(islice(frames, _most(clip))):
            if report.is_densepose:
                frame = report.colours.cleaned(frame)
            found = frame_box(frame)
            boxes.append(found)
            if (not samples and found is not None) or (samples and number % every == 0):
                samples.append(frame)
                numbers.append(number)
            last = frame
    shown = samples[: _KEPT + 1] or [last]
    return ClipLook(
        report=report,
        size=(clip.width, clip.height),
        frames=clip.num_frames_estimate or 0,
        fps=clip.fps,
        boxes=tuple(boxes),
        samples=np.stack(shown),
        numbers=tuple(numbers[: _KEPT + 1] or [len(boxes) - 1]),
        looked_at=number + 1,
    )


def _most(clip: MotionClip) -> int:
    return max(5 * _KEPT, _PIXELS // (clip.width * clip.height))
