"""Open a motion clip: a video file or a folder of frames, as a sequence of frames at an even rate.

Which frames of the source make up the sequence (stretch, stride, resampling) is plain arithmetic on times.
"""

from __future__ import annotations

import math
import re
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from magicanimate.config import MediaLimits
from magicanimate.errors import InputError
from magicanimate.media import video_file
from magicanimate.media.photo import load_photo
from magicanimate.palette import BACKGROUND

DEFAULT_RATE = Fraction(25)
"""Frames a second where nothing says otherwise; the rate of the published scripts."""

_LARGEST_DENOMINATOR = 1001  # broadcast rates are n / 1001, so this recovers 30000/1001 from 29.97002997
_SLACK = 1e-6  # tolerance in frames: a time this little before a frame still means that frame
_ALIKE_SHARE = 0.9  # share of the steps between frames that must be alike; the others are pauses
_TIMESTAMP_SLACK = 1e-3  # tolerance in seconds: WebM rounds its timestamps to milliseconds
_PICTURES = ".png .jpg .jpeg .webp .avif .heic .heif .bmp .tif .tiff .gif .ppm .tga .jp2 .qoi .jxl"
_FRAME_SUFFIXES = frozenset(_PICTURES.split())
_SEEK_FROM = 2.0  # seconds; a stretch that begins later is reached by seeking


@dataclass(frozen=True)
class SourceTiming:
    """When a source shows its frames."""

    times: np.ndarray  # seconds since the first frame, ascending, float64 (N,)
    rate: Fraction  # frames a second: on average, or where it does not pause
    regular: bool  # whether the frames come evenly
    duration: float  # seconds until the last frame is over


@dataclass(frozen=True)
class Timing:
    """The output sequence."""

    rate: Fraction  # output frames a second, after the stride
    picks: np.ndarray  # index of the source frame shown by each output frame, int64 (N,), never decreasing
    resampled: bool  # whether frames may repeat or be dropped


def as_rate(fps: float | Fraction) -> Fraction:
    """Frames a second as a fraction that a container can hold exactly: 29.97003 becomes 30000/1001."""
    return Fraction(fps).limit_denominator(_LARGEST_DENOMINATOR)


def average_rate(times: Sequence[float], nominal: Fraction | None) -> Fraction:
    """Frames a second of ascending times; the container's own figure where it agrees within 0.5 %."""
    nominal = Fraction(nominal) if nominal and nominal > 0 else None
    if len(times) < 2 or times[-1] <= times[0]:
        return nominal or DEFAULT_RATE
    measured = (len(times) - 1) / (times[-1] - times[0])
    if nominal and abs(float(nominal) - measured) <= 0.005 * measured:
        return nominal
    return as_rate(measured) or Fraction(1, _LARGEST_DENOMINATOR)


def usual_rate(times: Sequence[float]) -> Fraction | None:
    """Frames a second of a clip that is even but for pauses; ``None`` if nine in ten steps are not alike."""
    steps = np.diff(times)
    if len(steps) == 0:
        return None
    usual = np.median(steps)
    steps = steps[steps > 0.25 * usual]  # a frame that gives way to the next at once is not seen
    # A pause is one long step; the rate is that of the steps between the pauses.
    alike = steps[np.abs(steps - usual) <= 0.25 * usual]
    if len(alike) < _ALIKE_SHARE * len(steps) or alike.sum() <= 0:
        return None
    measured = 1 / alike.mean()
    # Rounded timestamps leave it a little off the rates that cameras have.
    cameras = (round(measured) / scale for scale in (Fraction(1), Fraction(1001, 1000)))
    nearest = min(cameras, key=lambda rate: abs(float(rate) - measured))
    return nearest if abs(float(nearest) - measured) <= 0.002 * measured else as_rate(measured)


def is_regular(times: Sequence[float], rate: Fraction) -> bool:
    """Whether every frame is within a quarter of a frame of its place on an even grid of that rate."""
    grid = np.arange(len(times)) / float(rate)
    deviation = np.asarray(times) - times[0] - grid if len(times) else grid
    # An even grid may sit anywhere; what counts is how far the frames scatter around it.
    return bool(np.ptp(deviation) < 0.5 / float(rate)) if len(times) else True


def source_timing(
    times: Sequence[float] | np.ndarray, nominal: Fraction | None, *, last: float | None = None
) -> SourceTiming:
    """Describe a source by the times of its frames, seconds since the first, ascending, at least one.

    ``nominal`` is the container's own frame rate and ``last`` the seconds for which the last frame is shown,
    a usual frame's time if that is not known.
    """
    times = np.asarray(times, dtype=np.float64)
    rate = average_rate(times, nominal)
    if is_regular(times, rate):
        return SourceTiming(times, rate, True, len(times) / float(rate))
    rate = usual_rate(times) or rate
    return SourceTiming(times, rate, False, float(times[-1]) + (last or 1 / float(rate)))


def count_picks(
    source: SourceTiming,
    *,
    start: float = 0.0,
    end: float | None = None,
    stride: int = 1,
    fps: float | None = None,
) -> int:
    """How many frames `plan_picks` will choose, without choosing them; 0 if the stretch is empty."""
    end = source.duration if end is None else min(end, source.duration)
    if _keeps_all(source, fps):
        rate = float(source.rate)
        count = math.ceil(end * rate - _SLACK) - math.ceil(start * rate - _SLACK)
    else:
        target = float(source.rate if fps is None else as_rate(fps))
        count = math.ceil((end - start) * target - _SLACK)
    return max(0, math.ceil(count / stride))


def plan_picks(
    source: SourceTiming,
    *,
    start: float = 0.0,
    end: float | None = None,
    stride: int = 1,
    fps: float | None = None,
) -> Timing:
    """Choose the frames shown.

    An even source without ``fps`` gives every frame of the stretch exactly once. Otherwise the sequence is
    sampled on an even grid that begins at ``start``, and each point shows the latest frame that is not after
    it: at ``fps``, or at the source's own rate. Of that every ``stride``-th frame is kept, and the output
    rate falls with it. ``start`` and ``end`` are seconds; ``end=None`` is the end.
    """
    count = count_picks(source, start=start, end=end, stride=stride, fps=fps)
    if _keeps_all(source, fps):
        # Without tolerance, rounding could skip the frame at exactly this time.
        first = math.ceil(start * float(source.rate) - _SLACK)
        return Timing(source.rate / stride, first + stride * np.arange(count), resampled=False)
    target = source.rate if fps is None else as_rate(fps)
    points = start + stride * np.arange(count) / float(target)
    if source.regular:
        picks = np.floor(points * float(source.rate) + _SLACK).astype(np.int64)
    else:
        picks = np.searchsorted(source.times, points + _TIMESTAMP_SLACK, side="right") - 1
    return Timing(target / stride, np.clip(picks, 0, len(source.times) - 1), resampled=True)


def _keeps_all(source: SourceTiming, fps: float | None) -> bool:
    """Whether nothing needs to be resampled."""
    return source.regular and (fps is None or as_rate(fps) == source.rate)


@dataclass(frozen=True)
class MotionClip:
    """A sequence of frames that can be read as often as wanted."""

    path: Path  # video file or folder
    fps: float  # frames a second of the sequence, after resampling and stride
    rate: Fraction  # the same as an exact fraction
    width: int  # of the frames, upright, in pixels
    height: int
    num_frames_estimate: int | None  # length of the sequence; damaged frames may make it shorter
    has_sound: bool  # whether the file has an audio stream
    start: float  # where in the file the sequence begins, seconds
    _source: _VideoSource | _FolderSource

    def frames(self) -> Generator[np.ndarray, None, None]:
        """Decode from the beginning: RGB uint8 (height, width, 3). Given up early, it closes the file."""
        return self._source.frames()


def open_motion(
    path: Path | str,
    *,
    start: float = 0.0,
    end: float | None = None,
    stride: int = 1,
    fps: float | None = None,
    folder_rate: float | None = None,
    limits: MediaLimits | None = None,
) -> MotionClip:
    """Open a clip, or a folder of pictures in natural order of names, and plan which of its frames are used.

    Without ``fps`` a clip of constant rate gives every frame exactly once, and one of variable rate is
    resampled: to its usual rate if it is even but for pauses, else to its average. With ``fps`` every clip is
    resampled by timestamp, each output frame showing the latest source frame that is not after it; a folder
    of frames has that rate (25 without), unless ``folder_rate`` says at which its pictures were taken.
    ``stride`` comes last and divides the rate, so that the motion keeps its speed. ``start`` and ``end`` are
    seconds since the first frame.

    Raises:
        InputError: the file cannot be used, an option makes no sense, or a limit is passed.
    """
    path = Path(path)
    limits = limits or MediaLimits()
    _check_options(start=start, end=end, stride=stride, fps=fps)
    if path.is_dir():
        files = _frame_files(path)
        rate = folder_rate or fps
        nominal = as_rate(rate) if rate else DEFAULT_RATE
        timed = source_timing(np.arange(len(files)) / float(nominal), nominal)
        # A folder without a rate of its own already has that of fps: there is nothing to resample.
        fps = fps if folder_rate else None
        height, width = _load_frame(files[0], limits).shape[:2]
        has_sound = False
    else:
        index = video_file.index_video(path, limits=limits)
        timed = source_timing(index.times, index.nominal_rate, last=index.last)
        width, height, has_sound = index.width, index.height, index.has_sound
        _check_complete(path, index, end)
    _check_length(path, timed, start=start, end=end, stride=stride, fps=fps, limits=limits)
    _check_work(path, timed, width * height, start=start, end=end, limits=limits)
    chosen = plan_picks(timed, start=start, end=end, stride=stride, fps=fps)
    source: _VideoSource | _FolderSource
    if path.is_dir():
        source = _FolderSource([files[pick] for pick in chosen.picks], (width, height), limits)
    else:
        source = _VideoSource(path, chosen.picks, index.pts, timed.times, limits)
    return MotionClip(
        path=path,
        fps=float(chosen.rate),
        rate=chosen.rate,
        width=width,
        height=height,
        num_frames_estimate=len(chosen.picks),
        has_sound=has_sound,
        start=start,
        _source=source,
    )


@dataclass(frozen=True)
class _VideoSource:
    """The picked frames of a video file."""

    path: Path
    picks: np.ndarray
    pts: np.ndarray | None
    times: np.ndarray
    limits: MediaLimits

    def frames(self) -> Generator[np.ndarray, None, None]:
        picks = self.picks.tolist()
        seek_pts = None
        if self.pts is not None and self.times[picks[0]] >= _SEEK_FROM:
            # Decoding everything before a late stretch would take longer than the stretch itself.
            seek_pts = int(self.pts[picks[0]])
        done = 0
        latest: np.ndarray | None = None
        decoding = video_file.decode(self.path, limits=self.limits, seek_pts=seek_pts)
        with closing(decoding):
            for count, (pts, frame) in enumerate(decoding):
                # Containers without usable timestamps leave only counting.
                position = count if self.pts is None or pts is None else int(np.searchsorted(self.pts, pts))
                # A picked frame that could not be decoded is replaced by the one before it, or the next.
                while done < len(picks) and picks[done] < position and latest is not None:
                    yield latest
                    done += 1
                latest = frame
                while done < len(picks) and picks[done] <= position:
                    yield frame
                    done += 1
                if done == len(picks):
                    return
        if latest is not None:
            # The file ended early: the last frame stands still, so that the length is as planned.
            for _ in picks[done:]:
                yield latest


@dataclass(frozen=True)
class _FolderSource:
    """The picked pictures of a folder."""

    files: list[Path]
    size: tuple[int, int]
    limits: MediaLimits

    def frames(self) -> Generator[np.ndarray, None, None]:
        for file in self.files:
            frame = _load_frame(file, self.limits)
            if frame.shape[1::-1] != self.size:
                raise InputError(
                    f"The frame {file} has {frame.shape[1]}x{frame.shape[0]} pixels and the first one "
                    f"{self.size[0]}x{self.size[1]}; all frames of a folder must have one size."
                )
            yield frame


def _load_frame(file: Path, limits: MediaLimits) -> np.ndarray:
    return load_photo(file, limits=limits, what="frame", alpha_over=BACKGROUND)


def _frame_files(folder: Path) -> list[Path]:
    """The pictures of a folder, natural order: 2.png before 10.png."""
    try:
        entries = list(folder.iterdir())
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be read; check its permissions.") from error
    files = [
        entry
        for entry in entries
        if entry.suffix.lower() in _FRAME_SUFFIXES and not entry.name.startswith(".") and entry.is_file()
    ]
    if not files:
        raise InputError(
            f"The folder {folder} holds no pictures; give a folder of numbered frames such as 0001.png."
        )
    return sorted(files, key=_natural)


def _natural(file: Path) -> list[tuple[int, int | str]]:
    """Sort key in which runs of digits count as numbers."""
    # Digits at odd places, since the split begins with what is before them.
    parts = re.split(r"([0-9]+)", file.name.lower())
    return [(0, int(part)) if place % 2 else (1, part) for place, part in enumerate(parts)]


def _check_options(*, start: float, end: float | None, stride: int, fps: float | None) -> None:
    """Refuse values of options that make no sense for any clip."""
    if not 0 <= start < float("inf"):
        raise InputError(f"start is {start}; give seconds from 0 on.")
    if end is not None and not end > start:
        raise InputError(f"end is {end} and start {start}; the end must come after the start.")
    if stride < 1:
        raise InputError(f"stride is {stride}; give 1 for every frame, 2 for every second one.")
    if fps is not None and not 0.01 <= fps <= 1000:
        raise InputError(f"fps is {fps}; give frames a second from 0.01 to 1000.")


def _check_length(
    path: Path,
    timed: SourceTiming,
    *,
    start: float,
    end: float | None,
    stride: int,
    fps: float | None,
    limits: MediaLimits,
) -> None:
    """Refuse a stretch that is empty or passes the limits."""
    duration = timed.duration
    # Counted without building the list, which a wrong rate could make huge.
    count = count_picks(timed, start=start, end=end, stride=stride, fps=fps)
    if count == 0:
        raise InputError(
            f"The motion clip {path} is {duration:.2f} seconds long and no frame is left between start "
            f"{start:g} and end {'of clip' if end is None else f'{end:g}'}; choose an earlier start."
        )
    used = min(duration, duration if end is None else end) - start
    if used > limits.max_seconds:
        raise InputError(
            f"The motion clip {path} is used for {used:.0f} seconds and the limit is "
            f"{limits.max_seconds:g}; choose a stretch with start and end, or raise max_seconds."
        )
    if count > limits.max_frames:
        raise InputError(
            f"The motion clip {path} gives {count} frames and the limit is {limits.max_frames}; choose a "
            "stretch with start and end, a lower fps or a larger stride, or raise max_frames."
        )


def _check_work(
    path: Path, timed: SourceTiming, pixels: int, *, start: float, end: float | None, limits: MediaLimits
) -> None:
    """Refuse frames that are each allowed but together more than can be decoded in a sensible time."""
    used = int(np.count_nonzero((timed.times >= start) & (timed.times <= (end or np.inf))))
    if used * pixels > limits.max_total_pixels:
        raise InputError(
            f"The motion clip {path} unpacks to {used} frames of {pixels / 1e6:.1f} million pixels, which is "
            "more than can be worked on; choose a stretch with start and end, scale it down, or raise "
            "max_total_pixels."
        )


def _check_complete(path: Path, index: video_file.VideoIndex, end: float | None) -> None:
    """Refuse a file whose header speaks of clearly more frames than it holds, unless they are not needed."""
    held = len(index.times)
    # Encoders announce a few frames that they drop; a cut download lacks many.
    if index.announced - held <= max(2, 0.02 * index.announced):
        return
    last = float(index.times[-1])
    if end is None or end > last:
        raise InputError(
            f"The motion clip {path} is cut off ({held} of {index.announced} frames are there); copy or "
            f"download it again, or choose an end up to {last:.2f} seconds."
        )
