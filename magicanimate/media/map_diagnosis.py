"""In which colours a part map is drawn, and what of its picture is the map, told from some of its frames.

Maps come with other colour maps of OpenCV, with red and blue swapped, over black or another background, as
label numbers, with bars at the sides, with captions, dithered.

Letters in shape comments: ``h w`` pixels of a thinned frame, ``N`` colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from magicanimate.media.colour_maps import (
    FAR,
    NEAR,
    SHIFTED,
    colour_distance,
    map_tables,
    nearest_colours,
    table_name,
)
from magicanimate.media.map_colours import WHOLE, Box, MapColours, Reading, channel_of, numbers_in
from magicanimate.palette import PALETTE, meeting_labels, meeting_share

_MIN_SHARE, _MIN_MEETING = 0.7, 0.22
"""A map has at least so many pixels of its figure in its colours, and neighbours that meet on a body.

Real maps have 0.31 to 0.5 of the latter in the right colours and up to 0.2 in jet read backwards, which has
nearly the same colours; a smooth heat map has 0.17.
"""

_MIN_BACKGROUND = 0.02
"""Of the map's pixels; a background that is hardly there is none."""

_CLEARLY_NEARER = 0.75
"""Shifted colours are believed if the distance of the pixels from them is at most this share of the usual."""

_MAX_INK = 0.3
"""Of the pixels: captions, which are white or black, may cover so much."""

_SOME_INK = 0.003  # of the pixels; compression leaves a few that are nearly black


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
    """Tell in which colours a part map is drawn.

    Args:
        frames: some frames of one size with something on them, RGB uint8 (h, w, 3), thinned to a few hundred
            pixels each way.
        softened: the same after `smoothed`; without them dithering is not looked for.

    Returns:
        How to read the map, ``None`` if this is none.
    """
    if not frames:
        return None
    grey = _numbers_in_grey(frames)
    if grey is not None:
        return grey
    bars = _Bars.of(frames)
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
    glance = [_Summary.of(frame[::2, ::2]) for frame in frames[:: max(1, len(frames) // 3)]]
    summaries = [_Summary.of(frame) for frame in frames]
    border = _border_colour(frames)
    best = None
    for name, parts in map_tables().items():
        for background in (parts[0], border):
            own = bool(colour_distance(parts[0], background) <= NEAR)
            table = np.concatenate([(parts[0] if own else background)[None], parts[1:]])
            if _fit(glance, table, neighbours=False).share < _MIN_SHARE - 0.2:
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
    """Stretches of one colour along the edges, the same in all frames: bars, or just background.

    Attributes:
        shares: of the height or width that they take, left, top, right, bottom.
        colours: of each, float64 (4, 3).
    """

    shares: tuple[float, float, float, float]
    colours: np.ndarray

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
    """A frame by its colours, which are few: every table is compared with these only.

    Attributes:
        colours: float32 (N, 3).
        index: of the colour of every pixel, int (h, w).
        counts: pixels of every colour, int (N,).
    """

    colours: np.ndarray
    index: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, frame: np.ndarray) -> _Summary:
        # Four levels of 256 are far less than what colours are told apart by.
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
    """How well frames are drawn with a table.

    Attributes:
        share: of the figure in the table's colours, captions left aside; of the frame in the middle when all
            are ordered by it, so that a few that show something else do not matter.
        meeting: of unlike neighbours the share that meets on a body.
        behind: share of the background, likewise of the frame in the middle.
        near: mean RGB distance of the figure's pixels from the table's colours.
    """

    share: float
    meeting: float
    behind: float
    near: float


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
