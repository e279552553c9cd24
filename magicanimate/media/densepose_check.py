"""Tell DensePose part maps from ordinary video by their colours, and say what is wrong with the others."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from magicanimate.errors import InputError
from magicanimate.media.motion import MotionClip
from magicanimate.palette import BACKGROUND, nearest_labels

_SAMPLES = 12
"""Frames with something on them that are looked at."""

_EVERY = 5
"""Of the frames given, every fifth is looked at, unless the caller says otherwise."""

_PIXELS = 200
"""Frames are thinned to about this many rows and columns."""

_BACKGROUND_DISTANCE = 12
_PART_DISTANCE = 32
"""RGB distances within which a pixel counts as background, or as some part. The back of a torso lies 21 from
the background, in compressed maps 14."""

_MIN_PALETTE_SHARE = 0.7
_MIN_BACKGROUND_SHARE = 0.02
_JUMP = 3
_MIN_JUMP_SHARE = 0.1
"""What sets part maps apart; ``check_densepose`` has the measurements."""

_SHIFTED_DISTANCE = 40
"""Up to here another background is the right one, badly converted."""

_EMPTY_SHARE = 0.0005
"""Of the pixels of a frame; below it there is nothing but specks."""


@dataclass(frozen=True)
class MotionReport:
    """What the colours of a clip say.

    Attributes:
        is_densepose: whether it can drive an animation as it is.
        palette_share: of the pixels that are not background, those within 32 of a part's colour, 0..1.
        background_share: pixels within 12 of the background colour, 0..1.
        person_share: pixels that show a part, 0..1.
        is_empty: whether nothing but the background of part maps is seen.
        is_ordinary: whether it is no part map in any colours, so that its people must be found first.
        reason: what was found, as a clause without a full stop.
    """

    is_densepose: bool
    palette_share: float
    background_share: float
    person_share: float
    is_empty: bool
    is_ordinary: bool
    reason: str


@dataclass
class _Counts:
    """Pixels and neighbour pairs, summed over frames."""

    pixels: int = 0
    background: int = 0
    parts: int = 0
    edges: int = 0
    jumps: int = 0

    def add(self, frame: np.ndarray) -> bool:
        """Count a frame; false if it shows background only."""
        labels, distance = nearest_labels(frame)
        background = _near(frame, BACKGROUND)
        foreground = frame.shape[0] * frame.shape[1] - int(background.sum())
        self.pixels += background.size
        self.background += int(background.sum())
        self.parts += int((~background & (labels > 0) & (distance < _PART_DISTANCE)).sum())
        for axis in (0, 1):
            step = np.abs(np.diff(labels.astype(np.int8), axis=axis))
            self.edges += int((step > 0).sum())
            self.jumps += int((step >= _JUMP).sum())
        return foreground > _EMPTY_SHARE * background.size

    @property
    def palette_share(self) -> float:
        return self.parts / max(1, self.pixels - self.background)

    @property
    def colours_fit(self) -> bool:
        return self.parts > _EMPTY_SHARE * self.pixels and self.palette_share >= _MIN_PALETTE_SHARE

    @property
    def has_background(self) -> bool:
        return self.background >= _MIN_BACKGROUND_SHARE * self.pixels

    @property
    def is_map(self) -> bool:
        return self.colours_fit and self.has_background and self.jumps >= _MIN_JUMP_SHARE * self.edges


def check_densepose(frames: Iterable[np.ndarray], *, every: int = _EVERY) -> MotionReport:
    """Judge frames by their colours: every fifth one, until twelve with something on them were seen.

    Measured on real maps (also shrunk, enlarged, and saved as JPEG of quality 30): 86 to 94 % of what is not
    background lies within 32 of a part's colour, and 24 to 42 % of neighbouring unlike labels are three or
    more apart. Photographs and drawings reach 20 % of the first, smooth colour maps and purple walls 2 % of
    the second.

    Args:
        frames: uint8 (h, w, 3); not all of them are read.
        every: look at every so many frames; 1 if the frames are a choice already.
    """
    counts = _Counts()
    kept: list[np.ndarray] = []
    for number, frame in enumerate(frames):
        if number % every:
            continue
        step = max(1, min(frame.shape[:2]) // _PIXELS)
        thinned = frame[::step, ::step]
        if counts.add(thinned):
            kept.append(thinned)
            if len(kept) == _SAMPLES:
                break
    reason = _reason(counts, kept)
    return MotionReport(
        is_densepose=bool(kept) and counts.is_map,
        palette_share=counts.palette_share,
        background_share=counts.background / max(1, counts.pixels),
        person_share=counts.parts / max(1, counts.pixels),
        is_empty=counts.pixels > 0 and not kept,
        is_ordinary=reason is None,
        reason=reason
        or f"looks like ordinary video, not like a DensePose part map ({counts.palette_share:.0%} of it in "
        "the map's colours); turn it into a map of DensePose body parts in viridis colours first",
    )


def require_densepose(clip: MotionClip) -> MotionReport:
    """Look at a clip and refuse it unless it is a DensePose part map in the viridis colours.

    Raises:
        InputError: with what the clip is instead and what to do.
    """
    frames = clip.frames()
    with closing(frames):
        report = check_densepose(frames)
    refuse_other_motion(clip.path, report)
    return report


def refuse_other_motion(path: Path, report: MotionReport) -> None:
    """Turn a report on anything but a part map into an ``InputError`` that names the file."""
    if report.is_densepose:
        return
    advice = ""
    if report.is_ordinary:
        words = ["python", "-m", "densepose_tools", str(path), "-o", f"{path.with_suffix('')}_densepose.mp4"]
        command = subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
        advice = f", with `{command}`"
    raise InputError(f"The motion clip {path} {report.reason}{advice}.")


def _reason(counts: _Counts, kept: list[np.ndarray]) -> str | None:
    """Say what the frames are, and what to do unless they are a part map; ``None`` if not even a bad one."""
    if counts.pixels == 0:
        return "has no frames; give a clip with at least one"
    if not kept:
        return "shows nobody, only the background colour; choose a stretch in which a person is seen"
    if counts.is_map:
        return f"is a DensePose part map ({counts.palette_share:.0%} of the figure in its colours)"
    if counts.colours_fit and counts.has_background:
        return (
            "has the viridis colours but they run smoothly into each other as in a heat map; give a map of "
            "DensePose body parts, one flat colour each"
        )
    if _all_grey(kept):
        return (
            "is grey; draw the DensePose parts in viridis colours over the background "
            f"RGB {BACKGROUND} (label x 255/24 on the colour map)"
        )
    if _counted(frame[..., ::-1] for frame in kept).is_map:
        return "is a DensePose map with red and blue swapped; write it as RGB instead of BGR"
    colour = _border_colour(kept)
    if _counted(_repainted(frame, colour) for frame in kept).is_map:
        if _distance(colour, BACKGROUND) < _SHIFTED_DISTANCE:
            return (
                f"is a DensePose map with shifted colours (background RGB {colour} instead of {BACKGROUND}), "
                "as when full and limited video range are mixed up; export it again, or as png frames"
            )
        name = "black" if max(colour) < 32 else f"RGB {colour}"
        return f"is a DensePose map over {name}; draw it over RGB {BACKGROUND} instead"
    return None


def _counted(frames: Iterable[np.ndarray]) -> _Counts:
    counts = _Counts()
    for frame in frames:
        counts.add(frame)
    return counts


def _near(frame: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Which pixels are within the background distance of a colour, bool (h, w)."""
    difference = frame.astype(np.int32) - np.array(colour, dtype=np.int32)
    return (difference * difference).sum(axis=-1) <= _BACKGROUND_DISTANCE**2


def _distance(first: tuple[int, int, int], second: tuple[int, int, int]) -> float:
    return float(np.linalg.norm(np.subtract(first, second)))


def _all_grey(frames: list[np.ndarray]) -> bool:
    """Whether nearly all pixels have red, green and blue alike."""
    return all(np.mean(np.ptp(frame.astype(np.int16), axis=-1) <= 8) > 0.98 for frame in frames)


def _border_colour(frames: list[np.ndarray]) -> tuple[int, int, int]:
    """The usual colour along the upper edge and the sides, where people rarely are."""
    edges = [np.concatenate([frame[0], frame[:, 0], frame[:, -1]]) for frame in frames]
    red, green, blue = np.median(np.concatenate(edges), axis=0).astype(int).tolist()
    return red, green, blue


def _repainted(frame: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """The frame with that colour replaced by the background of part maps."""
    return np.where(_near(frame, colour)[..., None], np.array(BACKGROUND, dtype=np.uint8), frame)
