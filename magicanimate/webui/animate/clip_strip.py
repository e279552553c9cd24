"""Pictures of a clip for the page: a row of its frames, and one to click on."""

from __future__ import annotations

import io
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from densepose_tools.one_click import examine
from densepose_tools.photo_people import PersonDetector, count_people, is_plausible
from densepose_tools.pointing import with_mark
from magicanimate.errors import InputError
from magicanimate.media.densepose_check import Kind
from magicanimate.media.motion import open_motion

ANIMATED_PICTURES = (".gif", ".png", ".apng", ".webp", ".avif", ".jxl")
"""Suffixes of clips that no browser plays as a video; the page's ``keys.js`` knows them, too."""

_FRAMES, _HEIGHT = 10, 56  # of the row, in pixels


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
