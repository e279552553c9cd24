"""Recognise DensePose part maps by their colours, and say what to do with other clips."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from magicanimate.errors import InputError
from magicanimate.media.map_colours import (
    FAR,
    NEAR,
    MapColours,
    colour_distance,
    diagnose,
    is_blank,
    smoothed,
    usual_colours,
)
from magicanimate.palette import BACKGROUND, MEETING_PARTS, PALETTE, nearest_labels

Kind = Literal["ready", "recolourable", "empty", "ordinary", "other"]
"""Whether a clip animates as it is, is a part map that can be brought into the right colours, shows nothing
but the background of part maps, is a video whose people must be found first, or none of these."""

_SAMPLES = 12  # number of frames with something on them that are judged

# Every fifth frame is judged, unless the caller says otherwise.
_EVERY = 5

_PIXELS = 200  # frames are thinned to about this many rows and columns
# What sets part maps apart; `check_densepose` has the measurements.
_MIN_PALETTE_SHARE = 0.7
_MIN_BACKGROUND_SHARE = 0.02
_JUMP = 3
_MIN_JUMP_SHARE = 0.1
_EMPTY_SHARE = 0.0005  # share of the pixels of all frames; fewer in part colours are nothing but specks
_STRENGTHS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)  # opacities of the parts that are tried
# Levels of 255: how even the two sides of a step are, and how much its channels differ.
_FLAT, _COLOURED = 16, 30
_FEWEST_STEPS, _MOST_STEPS = 300, 1000
# RGB distance by which steps between parts vary, because the picture behind is not quite the same there.
_SPREAD = 7.0
_MIN_EVIDENCE, _MIN_LEAD = 0.6, 0.1  # mean logarithms of likelihood ratios; see `is_drawn_over_video`
# Least share of pixels in part colours, least number of parts with a hundredth of these, and the range of
# hard edges for each such pixel; see `_hides_video`.
_DRAWN_SHARE, _DRAWN_PARTS, _DRAWN_JUMPS = 0.03, 12, (0.02, 0.1)


@dataclass(frozen=True)
class MotionReport:
    """What a clip is, judged by its colours."""

    kind: Kind
    palette_share: float  # of the pixels that are not background, those within 32 of a part's colour, 0..1
    background_share: float  # pixels within 12 of the background colour, 0..1
    person_share: float  # pixels that show a part, 0..1
    # How its labels are read if it is a part map, also one that needs nothing done to it.
    colours: MapColours | None
    reason: str  # what was found, as a clause without a full stop

    @property
    def is_densepose(self) -> bool:
        """Whether the clip can drive an animation as it is."""
        return self.kind == "ready"

    def advice(self, remedy: str) -> str:
        """What was found, and that ``remedy`` (a command, or the name of a button) corrects it."""
        if self.kind == "recolourable":
            return f"{self.reason}; bring it into the right colours with {remedy}"
        if self.kind == "ordinary":
            return f"{self.reason}; make a DensePose clip of it with {remedy}"
        return self.reason


@dataclass
class _Counts:
    """Pixels and neighbour pairs, summed over frames."""

    pixels: int = 0
    background: int = 0
    parts: int = 0
    edges: int = 0
    jumps: int = 0

    def add(self, frame: np.ndarray) -> None:
        """Count a frame."""
        labels, distance = nearest_labels(frame)
        background = colour_distance(frame, BACKGROUND) <= NEAR
        self.pixels += background.size
        self.background += int(background.sum())
        self.parts += int((~background & (labels > 0) & (distance < FAR)).sum())
        # Smooth colour maps step from one label to the next; bodies have hard edges between distant
        # labels.
        for axis in (0, 1):
            step = np.abs(np.diff(labels.astype(np.int8), axis=axis))
            self.edges += int((step > 0).sum())
            self.jumps += int((step >= _JUMP).sum())

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
    """Judge frames by their colours.

    Every fifth is looked at from the first with something on it, up to twelve, and if that looks like
    ordinary video the next twelve.

    Measured on real maps (also shrunk, enlarged, and saved as JPEG of quality 30): 86 to 94 % of what is not
    background lies within 32 of a part's colour, and 24 to 42 % of neighbouring unlike labels are three or
    more apart. Photographs and drawings reach 20 % of the first, smooth colour maps and purple walls 2 % of
    the second.

    Args:
        frames: uint8 (h, w, 3); not all of them are read.
        every: judge every n-th frame; 1 if the frames are a choice already.
    """
    counts, kept, softened, blank = _Counts(), [], [], None
    judged: tuple[Kind, MapColours | None, str] | None = None
    for number, frame in enumerate(frames):
        if number % every and (kept or judged):
            continue
        step = max(1, min(frame.shape[:2]) // _PIXELS)
        thinned = frame[::step, ::step]
        if is_blank(thinned):
            # It shows nobody, whatever its colour: clips fade, and begin and end in black.
            blank = thinned if blank is None else blank
            continue
        # The second dozen is judged for itself: a title before it must not count.
        if judged is not None and not kept:
            counts, softened = _Counts(), []
        counts.add(thinned)
        kept.append(thinned)
        softened.append(_softened(frame, step))
        if len(kept) == _SAMPLES:
            first_time, judged = judged is None, _judged(counts, kept, softened, blank)
            if judged[0] != "ordinary" or not first_time:
                break
            kept = []  # a title or a slow fade may come first: go on
    if kept or judged is None:
        if not kept and blank is not None:
            # There are figures to report also of a clip that shows nobody.
            counts.add(blank)
        judged = _judged(counts, kept, softened, blank)
    kind, colours, reason = judged
    return MotionReport(
        kind=kind,
        palette_share=counts.palette_share,
        background_share=counts.background / max(1, counts.pixels),
        person_share=counts.parts / max(1, counts.pixels),
        colours=colours,
        reason=reason,
    )


def refuse_other_motion(path: Path, report: MotionReport) -> None:
    """Turn a report on anything but a part map into an ``InputError`` that names the file and the remedy."""
    if not report.is_densepose:
        raise InputError(f"The motion clip {path} {report.advice(f'`{command_for(path, report)}`')}.")


def command_for(path: Path, report: MotionReport) -> str:
    """The command that turns an unsuitable clip into one that can be animated, quoted for this system."""
    words = ["python", "-m", "densepose_tools", str(path), "-o", f"{path.with_suffix('')}_densepose.mp4"]
    # The maps of other colours are right but for that, so they are not extracted anew.
    words += ["--recolour"] if report.kind == "recolourable" else []
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def _softened(frame: np.ndarray, step: int) -> np.ndarray:
    """A frame without dithering, thinned as the others."""
    if step < 3:
        return smoothed(frame)[::step, ::step]
    return np.asarray(Image.fromarray(np.ascontiguousarray(frame)).reduce(step))


def _judged(
    counts: _Counts, kept: list[np.ndarray], softened: list[np.ndarray], blank: np.ndarray | None
) -> tuple[Kind, MapColours | None, str]:
    """Kind, colours and reason for the frames that were kept, of which there may be none."""
    if counts.pixels == 0:
        return "other", None, "has no frames; give a clip with at least one"
    if not kept and counts.background > counts.pixels / 2:
        return (
            "empty",
            None,
            "shows nobody, only the background colour; choose a stretch in which a person is seen",
        )
    if kept:
        share = f"is a DensePose part map ({counts.palette_share:.0%} of the figure in its colours)"
        if counts.is_map:
            return _ready(usual_colours(kept), share)
        if counts.colours_fit and counts.has_background:
            return (
                "other",
                None,
                "has the viridis colours but they run smoothly into each other as in a heat map; give a map "
                "of DensePose body parts, one flat colour each",
            )
        colours = diagnose(kept, softened)
        if colours is not None:
            return _ready(colours, "is a DensePose part map")
        if is_drawn_over_video(kept):
            return (
                "ordinary",
                None,
                "is an ordinary video over which DensePose parts seem to be drawn (take the video without "
                "them if you have it)",
            )
    return (
        "ordinary",
        None,
        f"is an ordinary video, not a DensePose part map ({counts.palette_share:.0%} of it in the map's "
        "colours)",
    )


def _ready(colours: MapColours, reason: str) -> tuple[Kind, MapColours, str]:
    if colours.usual:
        return "ready", colours, reason
    return "recolourable", colours, f"is a DensePose map in other colours ({colours.name})"


def is_drawn_over_video(frames: Sequence[np.ndarray]) -> bool:
    """Whether part colours seem to be blended with a video, in colour or grey, uint8 (h, w, 3) each.

    So DensePose's own tool shows what it found, over the picture in grey.

    Where two parts meet, the picture behind is nearly the same on both sides, so that the colour steps by
    their difference times the opacity. Compared is how much better that explains the coloured steps of the
    frames than chance does, and compared with the same for the part colours with their channels exchanged:
    steps of ordinary pictures fit those as well or better. Opacities above 0.8 hide the picture, so that the
    colours themselves tell.

    Measured: photographs, drawings and flat random rectangles have less than 0.6, or lie behind the exchanged
    colours; real maps blended with photographs and compressed have 0.7 to 2.2 and lead by 0.1 to 0.8. Where
    the picture behind is very lively, they are not recognised below an opacity of about 0.8.
    """
    if _hides_video(frames):
        return True
    steps = _coloured_steps(frames)
    if len(steps) < _FEWEST_STEPS:
        return False
    evidence = {
        order: max(_evidence(steps[:, order], strength) for strength in _STRENGTHS)
        for order in permutations(range(3))
    }
    # Any lively picture explains something; only a lead over exchanged channels tells part colours.
    own = evidence.pop((0, 1, 2))
    return own >= _MIN_EVIDENCE and own - max(evidence.values()) >= _MIN_LEAD


def _hides_video(frames: Sequence[np.ndarray]) -> bool:
    """Whether a part of the frames is in the colours of many parts, which meet at hard edges.

    Measured: maps drawn over photographs at 0.8 and more show 12 to 21 parts with 0.026 to 0.065 hard edges a
    pixel; photographs and drawings show at most 7 parts, noise has 0.13 edges.
    """
    seen, jumps, pixels = np.zeros(len(PALETTE), int), 0, 0
    for frame in frames:
        labels, distance = nearest_labels(frame)
        part = (distance < FAR) & (colour_distance(frame, BACKGROUND) > NEAR)
        labels = np.where(part, labels, 0).astype(np.int8)
        seen += np.bincount(labels.ravel(), minlength=len(PALETTE))
        pixels += labels.size
        for lines in (labels, labels.T):
            one, other = lines[:-2], lines[2:]  # the pixel between is a mixture
            jumps += int(((one > 0) & (other > 0) & (np.abs(one - other) >= _JUMP)).sum())
    parts = seen[1:].sum()
    return bool(
        parts > _DRAWN_SHARE * pixels
        and (seen[1:] > 0.01 * parts).sum() >= _DRAWN_PARTS
        and _DRAWN_JUMPS[0] < jumps / parts < _DRAWN_JUMPS[1]
    )


def _coloured_steps(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Colour differences, float32 (N, 3), across places where the picture is even on both sides."""
    found = []
    for frame in frames:
        for axis in (0, 1):
            lines = np.moveaxis(frame.astype(np.float32), axis, 0)
            outer, inner, after, beyond = lines[:-4], lines[1:-3], lines[3:-1], lines[4:]
            even = (np.abs(outer - inner).max(axis=-1) < _FLAT) & (
                np.abs(beyond - after).max(axis=-1) < _FLAT
            )
            steps = (inner - after)[even]
            found.append(steps[np.ptp(steps, axis=1) > _COLOURED])
    steps = np.concatenate(found)
    return steps[:: max(1, len(steps) // _MOST_STEPS)]


def _evidence(steps: np.ndarray, strength: float) -> float:
    """Mean log likelihood ratio of steps (N, 3): half lie between parts of that opacity, or none."""
    colours = PALETTE.astype(np.float32)
    one, other = np.array(MEETING_PARTS).T
    expected = strength * (colours[one] - colours[other])
    expected = np.concatenate([expected, -expected])
    expected = expected[np.ptp(expected, axis=1) > _COLOURED]
    away = ((steps[:, None] - expected) ** 2).sum(axis=-1) / (2 * _SPREAD**2)
    likelihood = np.exp(-away).mean(axis=1) / ((2 * np.pi) ** 1.5 * _SPREAD**3)
    chance = 1 / 300**3  # all differences alike
    return float(np.log(0.5 + 0.5 * likelihood / chance).mean())
