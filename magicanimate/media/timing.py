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

_TIMESTAMP_SLACK = 1e-3
"""Seconds; WebM rounds its timestamps to milliseconds."""


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


def is_regular(times: Sequence[float], rate: Fraction) -> bool:
    """Whether every frame is within half a frame of its place on an even grid of that rate."""
    grid = np.arange(len(times)) / float(rate)
    deviation = np.asarray(times) - times[0] - grid if len(times) else grid
    # An even grid may sit anywhere; what counts is how far the frames scatter around it.
    return bool(np.ptp(deviation) < 0.999 / float(rate)) if len(times) else True


def count_picks(
    num_frames: int, rate: Fraction, *, start: float, end: float | None, stride: int, fps: float | None
) -> int:
    """How many output frames there will be, without making the list; 0 if the stretch is empty."""
    duration = num_frames / float(rate)
    end = duration if end is None else min(end, duration)
    target = float(rate) if fps is None else fps
    first = math.ceil(start * target - _SLACK) if fps is None else 0
    last = math.ceil((end if fps is None else end - start) * target - _SLACK)
    return max(0, math.ceil((last - first) / stride))


def plan(
    times: Sequence[float],
    nominal: Fraction | None,
    *,
    start: float = 0.0,
    end: float | None = None,
    stride: int = 1,
    fps: float | None = None,
) -> Timing:
    """Choose the frames shown.

    A source with even timestamps and no ``fps`` gives every frame of the stretch exactly once. Otherwise the
    sequence is sampled on an even grid that begins at ``start``, and each point shows the latest frame that
    is not after it: at ``fps``, or at the source's average rate.

    Args:
        times: seconds since the first frame, ascending, one for each source frame.
        nominal: the container's own frame rate, if it gives one.
        start, end: stretch in seconds; ``end=None`` is the end.
        stride: every n-th frame of the result is kept, and the output rate falls with it.
        fps: resample to this rate before the stride.
    """
    rate = average_rate(times, nominal)
    regular = is_regular(times, rate)
    count = count_picks(len(times), rate, start=start, end=end, stride=stride, fps=fps)
    if regular and (fps is None or as_rate(fps) == rate):
        first = math.ceil(start * float(rate) - _SLACK)
        return Timing(rate / stride, first + stride * np.arange(count), resampled=False)
    target = rate if fps is None else as_rate(fps)
    points = start + stride * np.arange(count) / float(target)
    if regular:
        picks = np.floor(points * float(rate) + _SLACK).astype(np.int64)
    else:
        picks = np.searchsorted(np.asarray(times), points + _TIMESTAMP_SLACK, side="right") - 1
    return Timing(target / stride, np.clip(picks, 0, len(times) - 1), resampled=True)
