"""Which source frames make the output sequence: stretch, stride and resampling. Numbers only, no files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

DEFAULT_RATE = Fraction(25)
"""Frames a second where nothing says otherwise; the rate of the published scripts."""

_LARGEST_DENOMINATOR = 1001
"""Broadcast rates are n / 1001, so this recovers 30000/1001 from 29.97002997."""

_SLACK = 1e-6
"""In frames: how far a time may lie before a frame and still mean it."""

_ALIKE_SHARE = 0.9
"""Of the steps from frame to frame; the others of a clip with a usual rate are pauses."""

_TIMESTAMP_SLACK = 1e-3
"""Seconds; WebM rounds its timestamps to milliseconds."""


@dataclass(frozen=True)
class SourceTiming:
    """When a source shows its frames.

    Attributes:
        times: seconds since the first frame, ascending, float64 (N,).
        rate: frames a second: on average, or where it does not pause.
        regular: whether the frames come evenly.
        duration: seconds until the last frame is over.
    """

    times: np.ndarray
    rate: Fraction
    regular: bool
    duration: float


@dataclass(frozen=True)
class Timing:
    """The output sequence.

    Attributes:
        rate: output frames a second, after the stride.
        picks: index of the source frame shown by each output frame, int64 (N,), never decreasing.
        resampled: whether frames may repeat or be dropped.
    """

    rate: Fraction
    picks: np.ndarray
    resampled: bool


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
    """Describe a source.

    Args:
        times: seconds since the first frame, ascending, at least one.
        nominal: the container's own frame rate, if it gives one.
        last: seconds for which the last frame is shown, if known; a usual frame's time otherwise.
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
    """How many frames ``plan`` will choose, without choosing them; 0 if the stretch is empty."""
    end = source.duration if end is None else min(end, source.duration)
    if _keeps_all(source, fps):
        rate = float(source.rate)
        count = math.ceil(end * rate - _SLACK) - math.ceil(start * rate - _SLACK)
    else:
        target = float(source.rate if fps is None else as_rate(fps))
        count = math.ceil((end - start) * target - _SLACK)
    return max(0, math.ceil(count / stride))


def plan(
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
    it: at ``fps``, or at the source's own rate.

    Args:
        source: from ``source_timing``.
        start, end: stretch in seconds; ``end=None`` is the end.
        stride: every n-th frame of the result is kept, and the output rate falls with it.
        fps: resample to this rate before the stride.
    """
    count = count_picks(source, start=start, end=end, stride=stride, fps=fps)
    if _keeps_all(source, fps):
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
