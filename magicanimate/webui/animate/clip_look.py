"""A quick look at photo and clip as an animation would take them: what they are, and what of them is used."""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from densepose_tools.one_click import examine
from densepose_tools.photo_people import PersonDetector, count_people, is_plausible
from densepose_tools.tracking import with_mark
from magicanimate.config import AnimationRequest
from magicanimate.errors import InputError
from magicanimate.media.densepose_check import Kind, MotionReport, check_densepose
from magicanimate.media.fit import Box, MotionFit, fit_photo, frame_box, plan_motion_fit
from magicanimate.media.motion import MotionClip, open_motion
from magicanimate.media.photo import load_photo
from magicanimate.palette import nearest_labels

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


ANIMATED_PICTURES = (".gif", ".png", ".apng", ".webp", ".avif", ".jxl")
"""Suffixes of clips that no browser plays as a video; the page's ``keys.js`` knows them, too."""

_FRAMES, _HEIGHT = 10, 56  # of the row, in pixels
_POSES, _MOST_POSES = 12.5, 1000  # poses a second that are compared, and how many at most


@dataclass(frozen=True)
class ClipStrip:
    """What a clip shows.

    Attributes:
        kind: see `MotionReport`.
        seconds: its length.
        frames: some of its frames at even distances, uint8 (h, w, 3) each.
        times: of these frames, seconds.
    """

    kind: Kind
    seconds: float
    frames: tuple[np.ndarray, ...]
    times: tuple[float, ...]

    def row(self) -> bytes:
        """The frames side by side as a WebP."""
        small = [_small(frame) for frame in self.frames]
        canvas = Image.new("RGB", (sum(each.width for each in small), _HEIGHT))
        left = 0
        for each in small:
            canvas.paste(each, (left, 0))
            left += each.width
        file = io.BytesIO()
        canvas.save(file, "WEBP", quality=70)
        return file.getvalue()

    def people(self, bodies: PersonDetector) -> tuple[int, float]:
        """How many people the clip seems to show, at most, and a second at which they are seen."""
        most, second = 0, 0.0
        for frame, time in list(zip(self.frames, self.times, strict=True))[::3]:
            try:
                labels = bodies.labels(frame)
            except InputError:  # the small network cannot be used: nobody is asked then
                return 0, 0.0
            count = count_people(labels) if is_plausible(labels) else 0
            if count > most:
                most, second = count, time
        return most, second

    def picture(self, second: float, mark: tuple[int, int] | None = None) -> np.ndarray:
        """The frame at one of the times, with a ring around a pixel where somebody was clicked on."""
        frame = self.frames[self.times.index(second)]
        return frame if mark is None else with_mark(frame, *mark)


def look(clip: str | Path) -> ClipStrip:
    """Look at a clip; the last ones are remembered.

    Raises:
        InputError: it cannot be read.
    """
    path = Path(clip)
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        changed = 0  # which its reader will tell
    return _look(path, changed)


def as_video(picture: Path, folder: Path) -> Path:
    """An animated picture as a video that browsers play, in a new folder; see `look` for errors."""
    from magicanimate.media.writer import VideoWriter

    clip = open_motion(picture)
    folder.mkdir()
    video = folder / f"{picture.stem}.mp4"
    with VideoWriter(video, width=clip.width, height=clip.height, fps=clip.rate) as out:
        for frame in clip.frames():
            out.write(frame)
    return video


def last_frame(video: Path, folder: Path) -> Path:
    """The last frame of a video as a png in a new folder; see `look` for errors."""
    (frame,) = deque(open_motion(video).frames(), maxlen=1)
    folder.mkdir()
    path = folder / f"{video.stem}_last.png"
    Image.fromarray(frame).save(path)
    return path


def nearest_start(clip: Path, after: Path) -> float | None:
    """Where in a part map the pose is nearest to the one that another part map ends with.

    Only the first half is searched, so that enough of the dance is left.

    Args:
        clip: the dance that comes next.
        after: the dance before.

    Returns:
        the second; ``None`` if one of them is no part map.

    Raises:
        InputError: one cannot be read.
    """
    if any(examine(each).kind != "ready" for each in (clip, after)):
        return None
    (last,) = deque(open_motion(after).frames(), maxlen=1)
    wanted = _coarse(last)
    dance = open_motion(clip)
    dance = open_motion(clip, fps=min(dance.fps, _POSES))
    count = max(1, (dance.num_frames_estimate or 1) // 2)
    likeness = []
    for frame in islice(dance.frames(), min(count, _MOST_POSES)):
        labels = _coarse(frame)
        body = (labels > 0) | (wanted > 0)
        likeness.append(float((labels == wanted)[body].mean()) if body.any() else 0.0)
    return int(np.argmax(likeness)) / dance.fps


def _coarse(frame: np.ndarray) -> np.ndarray:
    """Part labels of a frame, uint8 (64, 64)."""
    small = Image.fromarray(frame).resize((64, 64), Image.Resampling.NEAREST)
    return nearest_labels(np.asarray(small))[0]


@lru_cache(maxsize=4)
def _look(path: Path, changed: int) -> ClipStrip:
    kind = examine(path).kind
    clip = open_motion(path)
    seconds = (clip.num_frames_estimate or 1) / clip.fps
    # As many frames a second as make the row; the reader steps over the others.
    sparse = open_motion(path, fps=min(clip.fps, _FRAMES / seconds))
    frames = tuple(frame for _, frame in zip(range(_FRAMES), sparse.frames(), strict=False))
    return ClipStrip(kind, seconds, frames, tuple(i / sparse.fps for i in range(len(frames))))


def _small(frame: np.ndarray) -> Image.Image:
    picture = Image.fromarray(frame)
    return picture.resize((max(1, round(_HEIGHT * picture.width / picture.height)), _HEIGHT))
