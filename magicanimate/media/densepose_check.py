"""Recognise DensePose part maps by their colours, read them, and say what to do with other clips.

Maps come with other colour maps of OpenCV, with red and blue swapped, over black or another background, as
label numbers, with bars at the sides, with captions, dithered. They are read frame by frame: a frame that
shows nothing of the map, such as a black one, shows nobody.

Letters in shape comments: ``h w`` pixels of a thinned frame, ``N`` colours.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageFilter

from magicanimate.errors import InputError
from magicanimate.media.drawn_over import JUMP, is_drawn_over_video
from magicanimate.palette import (
    BACKGROUND,
    FAR,
    NEAR,
    PALETTE,
    SHIFTED,
    colour_distance,
    map_tables,
    meeting_labels,
    meeting_share,
    nearest_colours,
    nearest_labels,
)

Kind = Literal["ready", "recolourable", "empty", "ordinary", "other"]
"""Whether a clip animates as it is, is a part map that can be brought into the right colours, shows nothing
but the background of part maps, is a video whose people must be found first, or none of these."""

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels; x1 and y1 are outside."""

WHOLE = (0.0, 0.0, 1.0, 1.0)
"""The box of a map without bars."""

Reading = Literal["colours", "smoothed", "grey", "red", "blue"]
"""Whether labels are read by colour, by colour after taking out dithering, or as numbers in a channel."""

_SAMPLES = 12  # number of frames with something on them that are judged
_EVERY = 5  # every fifth frame is judged, unless the caller says otherwise
_PIXELS = 200  # frames are thinned to about this many rows and columns
_SPECKS = 0.0005  # share of the pixels; fewer that show something show nothing
# What sets part maps apart; `check_densepose` has the measurements.
_MIN_PALETTE_SHARE = 0.7
_MIN_BACKGROUND = 0.02
_MIN_JUMP_SHARE = 0.1
_SMOOTHING = 2  # pixels to each side over which dithering is averaged
_SAMPLED = 200  # rows and columns of a frame that decide whether it shows anything of the map
_LEAST_OF_FRAME = 0.5  # of a frame's pixels must be in the map's colours, else the frame is none of it
# Maps in other colours have at least so many pixels of their figure in these, and so many neighbours that
# meet on a body. Real maps have 0.31 to 0.5 of the latter in the right colours and up to 0.2 in jet read
# backwards, which has nearly the same colours; a smooth heat map has 0.17.
_MIN_SHARE, _MIN_MEETING = 0.7, 0.22
# Shifted colours are believed if the distance of the pixels from them is at most this share of the usual.
_CLEARLY_NEARER = 0.75
_MAX_INK = 0.3  # largest share of the pixels that captions, which are white or black, may cover
_SOME_INK = 0.003  # of the pixels; compression leaves a few that are nearly black


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
            self.jumps += int((step >= JUMP).sum())

    @property
    def palette_share(self) -> float:
        return self.parts / max(1, self.pixels - self.background)

    @property
    def colours_fit(self) -> bool:
        return self.parts > _SPECKS * self.pixels and self.palette_share >= _MIN_PALETTE_SHARE

    @property
    def has_background(self) -> bool:
        return self.background >= _MIN_BACKGROUND * self.pixels

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


def table_name(name: str, background: np.ndarray, *, own: bool) -> str:
    """What to call the colours; nothing if they are the usual ones."""
    if own:
        return "" if name == "viridis" else name
    red, green, blue = background.tolist()
    return (
        f"{name}, over black" if max(red, green, blue) < 32 else f"{name}, over RGB ({red}, {green}, {blue})"
    )


@dataclass(frozen=True, eq=False)
class MapColours:
    """How the frames of a part map are read."""

    name: str  # for people, such as "jet with red and blue swapped, over black"; empty if they are usual
    table: np.ndarray  # RGB of background and parts, uint8 (25, 3)
    usual: bool  # whether they are those that the ControlNet knows
    reading: Reading = "colours"  # how a pixel is turned into its label
    step: float = 1.0  # for numbers in a channel, the difference from one label to the next
    # The map without bars, as shares of width and height, 0..1.
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    captions: bool = False  # whether something white or black is written over it

    @property
    def is_clean(self) -> bool:
        """Whether nothing but the map is in the picture, in the usual colours."""
        return self.usual and self.reading == "colours" and self.box == WHOLE and not self.captions

    def labels(self, frame: np.ndarray) -> np.ndarray:
        """Labels of a frame: RGB uint8 (H, W, 3) -> uint8 (H, W).

        Where compression has mixed two colours the label is that of the nearest pixels that are clear.
        """
        labels = np.zeros(frame.shape[:2], dtype=np.uint8)
        x0, y0, x1, y1 = self._inner(frame)
        part = frame[y0:y1, x0:x1]
        if self.reading in ("colours", "smoothed"):
            if self.reading == "smoothed":
                part = smoothed(part)
            found, distance = nearest_labels(part) if self.usual else nearest_colours(part, self.table)
            if (distance <= FAR).mean() >= _LEAST_OF_FRAME:
                labels[y0:y1, x0:x1] = _cleared(found, distance)
        else:
            labels[y0:y1, x0:x1] = numbers_in(part, self.reading, self.step)
        return labels

    def cleaned(self, frame: np.ndarray) -> np.ndarray:
        """A frame of a map in the usual colours without what is not part of the map, uint8 (H, W, 3).

        Pixels of the map stay as they are unless captions or dithering lie over them.
        """
        if self.captions or self.reading == "smoothed":
            return PALETTE[self.labels(frame)]
        x0, y0, x1, y1 = self._inner(frame)
        part = frame[y0:y1, x0:x1]
        cleaned = np.empty_like(frame)
        cleaned[:] = BACKGROUND
        step = max(1, min(part.shape[:2]) // _SAMPLED)
        if (nearest_labels(part[::step, ::step])[1] <= FAR).mean() < _LEAST_OF_FRAME:
            return cleaned
        if part.shape == frame.shape:
            return frame
        cleaned[y0:y1, x0:x1] = part
        return cleaned

    def _inner(self, frame: np.ndarray) -> Box:
        """The box in pixels, without the pixels that compression has mixed with the bars."""
        height, width = frame.shape[:2]
        left, top, right, bottom = self.box
        # Two pixels inside: compression mixes the colours of bar and map at their edge.
        x0, y0 = (int(np.ceil(left * width)) + 2) * (left > 0), (int(np.ceil(top * height)) + 2) * (top > 0)
        x1 = width if right >= 1 else max(x0 + 1, int(right * width) - 2)
        y1 = height if bottom >= 1 else max(y0 + 1, int(bottom * height) - 2)
        return x0, y0, x1, y1


def is_blank(frame: np.ndarray) -> bool:
    """Whether a frame, uint8 (h, w, 3), is of one colour but for specks."""
    colour = np.median(frame.reshape(-1, 3), axis=0)
    return bool((colour_distance(frame, colour) > NEAR).mean() <= _SPECKS)


def smoothed(frame: np.ndarray) -> np.ndarray:
    """A frame with dithering averaged away, uint8 (h, w, 3)."""
    return np.asarray(Image.fromarray(np.ascontiguousarray(frame)).filter(ImageFilter.BoxBlur(_SMOOTHING)))


def channel_of(frame: np.ndarray, reading: Reading) -> np.ndarray:
    """The channel that holds label numbers, float32 (h, w)."""
    if reading == "grey":
        return frame.mean(axis=-1, dtype=np.float32)
    return frame[..., 2 if reading == "blue" else 0].astype(np.float32)


def numbers_in(frame: np.ndarray, reading: Reading, step: float) -> np.ndarray:
    """Labels of a frame whose channel holds their numbers times ``step``, uint8 (h, w)."""
    return np.rint(channel_of(frame, reading) / step).clip(0, 24).astype(np.uint8)


def _cleared(labels: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Labels (h, w) with those that are unclear taken from the nearest clear pixels; else background."""
    unclear = distance > FAR
    for _ in range(4):
        if not unclear.any():
            break
        for axis, shift in ((0, 1), (0, -1), (1, 1), (1, -1)):
            other, other_unclear = np.roll(labels, shift, axis), np.roll(unclear, shift, axis)
            take = unclear & ~other_unclear
            labels[take] = other[take]
            unclear = unclear & ~take
    # No clear pixel is near: something that is not of the map, such as a logo.
    labels[unclear & (distance > 2 * FAR)] = 0
    return labels


def usual_colours(frames: Sequence[np.ndarray]) -> MapColours:
    """How to read frames that are a map in viridis over its own background, maybe with bars and captions.

    Conversions that mix up full and limited range leave colours near enough to pass, and parts that are not
    what they seem; what is read from the result then is not usual.
    """
    bars = _Bars.of(frames)
    box = bars.box(PALETTE)
    x0, y0, x1, y1 = _pixels(box, frames[0])
    cut = [frame[y0:y1, x0:x1] for frame in frames]
    summaries = [_Summary.of(frame) for frame in cut]
    near = {name: _fit(summaries, map_tables()[name]).near for name in ("viridis", *SHIFTED)}
    # Conversions between full and limited range shift the colours by a few levels only.
    name = min(near, key=near.__getitem__)
    if near[name] > _CLEARLY_NEARER * near["viridis"]:
        name = "viridis"
    captions = _ink_share(cut, map_tables()[name]) > _SOME_INK
    return MapColours(
        table_name(name, PALETTE[0], own=True),
        map_tables()[name],
        name == "viridis",
        box=box,
        captions=captions,
    )


def diagnose(frames: Sequence[np.ndarray], softened: Sequence[np.ndarray] = ()) -> MapColours | None:
    """How to read some frames of a part map, by the colours it is drawn in; ``None`` if they are none.

    Args:
        frames: of one size, with something on them, RGB uint8 (h, w, 3), thinned to a few hundred pixels each
            way.
        softened: the same after `smoothed`; without them dithering is not detected.
    """
    if not frames:
        return None
    # Grey maps first: any colour table fits a grey picture badly, but may fit it.
    grey = _numbers_in_grey(frames)
    if grey is not None:
        return grey
    bars = _Bars.of(frames)
    # Dithered maps fit only once their dots are averaged, clean ones lose edges by it.
    for pictures in filter(len, (frames, softened)):
        best, best_fit = None, 0.0
        for box in dict.fromkeys((WHOLE, bars.box(None))):
            x0, y0, x1, y1 = _pixels(box, frames[0])
            cut = [frame[y0:y1, x0:x1] for frame in pictures]
            found = _best_table(cut)
            if found is None or found.fit <= best_fit + 0.02:
                continue
            best_fit = found.fit
            # A side of the map's own background is no bar: people may come there in other frames.
            best = MapColours(
                found.name,
                found.table,
                not found.name,
                reading="colours" if pictures is frames else "smoothed",
                box=WHOLE if box == WHOLE else bars.box(found.table),
                captions=_ink_share(cut, found.table) > _SOME_INK,
            )
        if best is not None:
            return best
    return _numbers_beside_coordinates(frames)


@dataclass(frozen=True)
class _Found:
    """A table that fits: its name (empty if usual), its colours uint8 (25, 3), and how well it fits."""

    name: str
    table: np.ndarray
    fit: float


def _best_table(frames: list[np.ndarray]) -> _Found | None:
    """The colours that fit some frames best; a map over its own background goes before others."""
    # Sixteen tables and two backgrounds are tried; most are ruled out by every fourth pixel of a few
    # frames.
    preview = [_Summary.of(frame[::2, ::2]) for frame in frames[:: max(1, len(frames) // 3)]]
    summaries = [_Summary.of(frame) for frame in frames]
    border = _border_colour(frames)
    best = None
    for name, parts in map_tables().items():
        for background in (parts[0], border):
            own = bool(colour_distance(parts[0], background) <= NEAR)
            # The background may be exchanged while the parts keep their colours.
            table = np.concatenate([(parts[0] if own else background)[None], parts[1:]])
            if _fit(preview, table, neighbours=False).share < _MIN_SHARE - 0.2:
                continue
            fit = _fit(summaries, table)
            if fit.share < _MIN_SHARE or fit.meeting < _MIN_MEETING or fit.behind < _MIN_BACKGROUND:
                continue
            score = fit.share + fit.meeting - fit.near / FAR + own
            if best is None or score > best.fit:
                best = _Found(table_name(name, table[0], own=own), table, score)
    return best


@dataclass(frozen=True)
class _Bars:
    """Stretches of one colour along the edges, the same in all frames: bars, or just background."""

    # Of the height or width that they take, left, top, right, bottom.
    shares: tuple[float, float, float, float]
    colours: np.ndarray  # of each, float64 (4, 3)

    @classmethod
    def of(cls, frames: Sequence[np.ndarray]) -> _Bars:
        stack = np.stack(frames).astype(np.int16)
        middle = np.median(stack, axis=0)
        spread = np.abs(stack - middle).max(axis=(0, 3))

        def run(lines: np.ndarray, uneven: np.ndarray) -> int:
            near = np.abs(lines - np.median(lines[0], axis=0)).max(axis=-1) <= 2 * NEAR
            plain = (near.mean(axis=1) > 0.98) & ((uneven <= 2 * NEAR).mean(axis=1) > 0.98)
            return 0 if plain.all() else int(plain.argmin())

        top, bottom = run(middle, spread), run(middle[::-1], spread[::-1])
        inside = slice(top, len(middle) - bottom)
        across, uneven = middle[inside].transpose(1, 0, 2), spread[inside].T
        left, right = run(across, uneven), run(across[::-1], uneven[::-1])
        height, width = middle.shape[:2]
        edges = (across[0], middle[0], across[-1], middle[-1])
        return cls(
            (left / width, top / height, right / width, bottom / height),
            np.stack([np.median(edge, axis=0) for edge in edges]),
        )

    def box(self, table: np.ndarray | None) -> tuple[float, float, float, float]:
        """What is left without the bars, as shares; stretches in a colour of the map's own are none."""
        cut = [
            share if table is None or colour_distance(table, colour).min() > 2 * NEAR else 0.0
            for share, colour in zip(self.shares, self.colours, strict=True)
        ]
        return cut[0], cut[1], 1 - cut[2], 1 - cut[3]


def _pixels(box: tuple[float, float, float, float], frame: np.ndarray) -> Box:
    """A box of shares in the pixels of a frame."""
    height, width = frame.shape[:2]
    return round(box[0] * width), round(box[1] * height), round(box[2] * width), round(box[3] * height)


@dataclass(frozen=True)
class _Summary:
    """A frame by its colours, which are few: every table is compared with these only."""

    colours: np.ndarray  # float32 (N, 3)
    index: np.ndarray  # of the colour of every pixel, int (h, w)
    counts: np.ndarray  # pixels of every colour, int (N,)

    @classmethod
    def of(cls, frame: np.ndarray) -> _Summary:
        # Four levels of 256 are far less than the distances between the colours of a table.
        cells = (frame >> 2).astype(np.int32)
        keys, index, counts = np.unique(
            (cells[..., 0] << 12) | (cells[..., 1] << 6) | cells[..., 2],
            return_inverse=True,
            return_counts=True,
        )
        colours = np.stack([keys >> 12, (keys >> 6) & 63, keys & 63], axis=-1) * 4 + 1.5
        return cls(colours.astype(np.float32), index.reshape(frame.shape[:2]), counts)


@dataclass(frozen=True)
class _Fit:
    """How well frames are drawn with a table."""

    # Of the figure in the table's colours, captions left aside; of the frame in the middle when all are
    # ordered by it, so that a few that show something else do not matter.
    share: float
    meeting: float  # of unlike neighbours the share that meets on a body
    behind: float  # share of the background, likewise of the frame in the middle
    near: float  # mean RGB distance of the figure's pixels from the table's colours


def _fit(summaries: list[_Summary], table: np.ndarray, *, neighbours: bool = True) -> _Fit:
    """Compare frames with a table of colours, float or uint8 (25, 3); without neighbours it is quick."""
    meets = meeting_labels()
    shares, behinds = [], []
    meeting = pairs = 0
    clear_pixels, far = 0, 0.0
    for summary in summaries:
        labels, distance = nearest_colours(summary.colours, table)
        body = colour_distance(summary.colours, table[0]) > NEAR
        clear = body & (labels > 0) & (distance < FAR)
        ink = _is_ink(summary.colours) & body & ~clear
        counts, total = summary.counts, summary.index.size
        if counts[ink].sum() > _MAX_INK * total:
            ink = np.zeros_like(ink)
        share = counts[clear].sum() / max(1, counts[body & ~ink].sum())
        shares.append(share)
        behinds.append(counts[~body].sum() / total)
        clear_pixels += int(counts[clear].sum())
        far += float((counts * distance)[clear].sum())
        if not neighbours or share < _MIN_SHARE:
            continue
        labelled, clearly = labels[summary.index], clear[summary.index]
        for axis in (0, 1):
            first, second = (np.moveaxis(array, axis, 0) for array in (labelled, clearly))
            # Across one pixel, which compression may have mixed.
            unlike = (first[:-2] != first[2:]) & second[:-2] & second[2:]
            pairs += int(unlike.sum())
            meeting += int(meets[first[:-2], first[2:]][unlike].sum())
    return _Fit(
        share=float(np.median(shares)),
        meeting=meeting / max(1, pairs),
        behind=float(np.median(behinds)),
        near=far / max(1, clear_pixels),
    )


def _is_ink(colours: np.ndarray) -> np.ndarray:
    """Which colours are those of captions: nearly white, or nearly black, bool (...)."""
    return (colours.min(axis=-1) > 200) | (colours.max(axis=-1) < 28)


def _ink_share(frames: list[np.ndarray], table: np.ndarray) -> float:
    """Share of the pixels that are captions."""
    return float(
        np.mean([(_is_ink(frame) & (nearest_colours(frame, table)[1] > 48)).mean() for frame in frames])
    )


def _numbers_in_grey(frames: Sequence[np.ndarray]) -> MapColours | None:
    """A map whose label numbers, maybe times ten, stand as levels of grey."""
    if any(np.mean(np.ptp(frame.astype(np.int16), axis=-1) <= 8) <= 0.98 for frame in frames):
        return None
    step = _step_of(frames, "grey")
    return None if step is None else MapColours("label numbers in grey", PALETTE, False, "grey", step)


def _numbers_beside_coordinates(frames: Sequence[np.ndarray]) -> MapColours | None:
    """A map whose label numbers stand in one channel and DensePose's u and v in the others (IUV)."""
    for reading in ("blue", "red"):
        step = _step_of(frames, reading)
        if step is None:
            continue
        labels = [numbers_in(frame, reading, step) for frame in frames]
        if _coordinates_beside(frames, labels, reading):
            return MapColours(
                f"label numbers in {reading}, as in IUV pictures", PALETTE, False, reading, step
            )
    return None


def _step_of(frames: Sequence[np.ndarray], reading: Reading) -> float | None:
    """By how much labels differ in a channel if they stand there as numbers, else ``None``."""
    values = [channel_of(frame, reading) for frame in frames]
    top = max(float(np.percentile(value, 99.9)) for value in values)
    for step in (1.0, 10.0, 255 / 24):
        if top > 24 * step + 4 or top < 12 * step:
            continue
        labels = [numbers_in(frame, reading, step) for frame in frames]
        flat = np.mean(
            [np.mean(np.abs(v - each * step) <= 2) for v, each in zip(values, labels, strict=True)]
        )
        behind = np.median([np.mean(each == 0) for each in labels])
        if flat > 0.9 and behind >= _MIN_BACKGROUND and meeting_share(labels) >= _MIN_MEETING:
            return step
    return None


def _coordinates_beside(frames: Sequence[np.ndarray], labels: list[np.ndarray], reading: Reading) -> bool:
    """Whether the other channels are nothing where nobody is, and vary where somebody is."""
    others = [0, 1] if reading == "blue" else [1, 2]
    beside = np.concatenate([frame[each > 0][:, others] for frame, each in zip(frames, labels, strict=True)])
    behind = np.concatenate([frame[each == 0][:, others] for frame, each in zip(frames, labels, strict=True)])
    return bool((behind <= 16).mean() > 0.95 and beside.std(axis=0).min() > 16)


def _border_colour(frames: Sequence[np.ndarray]) -> np.ndarray:
    """The commonest colour along the upper edge and the sides, where people rarely are, uint8 (3,)."""
    edges = [np.concatenate([frame[0], frame[:, 0], frame[:, -1]]) for frame in frames]
    edge = np.concatenate(edges)
    cells = (edge >> 4).astype(np.int32)
    keys = (cells[:, 0] << 8) | (cells[:, 1] << 4) | cells[:, 2]
    commonest = np.bincount(keys, minlength=4096).argmax()
    near = colour_distance(edge, np.median(edge[keys == commonest], axis=0)) <= 2 * NEAR
    return np.median(edge[near], axis=0).astype(np.uint8)
