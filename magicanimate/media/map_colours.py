"""The colours in which part maps are drawn: telling them from some frames, and reading all frames with them.

Maps come with other colour maps of OpenCV, with red and blue swapped, over black or another background, as
label numbers, with bars at the sides, with captions, dithered. They are read frame by frame: a frame that
shows nothing of the map, such as a black one, shows nobody.

Letters in shape comments: ``h w`` pixels of a thinned frame, ``N`` colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from PIL import Image, ImageFilter

from magicanimate.palette import BACKGROUND, PALETTE, meeting_labels, meeting_share, nearest_labels

NEAR, FAR = 12, 32
"""RGB distances within which a pixel counts as background, or as some part. The back of a torso is 21 from
the background, in compressed maps 14."""

SHIFTED = (
    "viridis with shifted colours (full range taken for limited)",
    "viridis with shifted colours (limited range taken for full)",
)
# OpenCV's colours of part i at index trunc(i * 255 / 24), RGB, background first.
_COLOUR_MAPS = {
    "jet": "000080 0000a8 0000d4 0000fc 0028ff 0054ff 007cff 00a8ff 00d4ff 00fcff 2affd6 52ffae 7eff82 "
    "aaff56 d2ff2e feff01 ffd400 ffac00 ff8000 ff5800 ff2c00 ff0000 d80000 ac0000 800000",
    "parula": "352a87 253ca3 1450c2 0461df 086edd 0e7ad8 1484d4 0f90d0 0b9ccb 06a6c6 16adb9 26b3ac 37b99f "
    "56bb90 72bd82 91bf74 aabd69 c0bc60 d8ba56 e4c04a f0c73c fcce2e fbdc24 faeb19 f9fb0e",
    "turbo": "30123b 3b2f80 434eba 4669e0 4685fa 3ba0fd 2ab9ee 1ad2d2 1ae4b6 2ff19b 55fa76 7dff56 a1fd3d "
    "bef434 d7e535 ecd13a faba39 fea130 fb8122 f36315 e5470b d23105 bc2002 9e1001 7a0403",
    "plasma": "0d0887 260591 3a049a 4b03a1 5c01a6 6e00a8 7d03a8 8d0ba5 9c179e a82296 b52f8c c03a83 cb4679 "
    "d5536f dd5e66 e56b5d ed7953 f3854b f89441 fba238 fdb22f fdc328 fbd324 f6e626 f0f921",
    "inferno": "000004 050417 110a30 1f0c48 320a5e 450a69 550f6d 67166e 781c6d 88226a 9a2865 a92e5e ba3655 "
    "ca404a d74b3f e35933 ed6925 f47918 f98c0a fc9f07 fcb418 f9c932 f4dd4f f1f179 fcffa4",
    "rainbow": "ff0000 ff1900 ff3400 ff4e00 ff6900 ff8400 ff9e00 ffb900 ffd400 ffee00 ebff00 b9ff00 82ff00 "
    "4bff00 19ff00 00e11e 00aa55 007887 0041be 000ff0 1b00ff 3f00ff 6100ff 8500ff aa00ff",
}

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels; x1 and y1 are outside."""

_EMPTY = 0.0005  # share of the pixels of a frame; fewer that differ from its one colour are specks

WHOLE = (0.0, 0.0, 1.0, 1.0)
"""The box of a map without bars."""

_SMOOTHING = 2  # pixels to each side over which dithering is averaged
_SAMPLED = 200  # rows and columns of a frame that decide whether it shows anything of the map
_LEAST_OF_FRAME = 0.5  # of a frame's pixels must be in the map's colours, else the frame is none of it
Reading = Literal["colours", "smoothed", "grey", "red", "blue"]
"""Whether labels are read by colour, by colour after taking out dithering, or as numbers in a channel."""

# A map has at least so many pixels of its figure in its colours, and neighbours that meet on a body.
#
# Real maps have 0.31 to 0.5 of the latter in the right colours and up to 0.2 in jet read backwards, which
# has nearly the same colours; a smooth heat map has 0.17.
_MIN_SHARE, _MIN_MEETING = 0.7, 0.22
_MIN_BACKGROUND = 0.02  # least share of background in a map's pixels
# Shifted colours are believed if the distance of the pixels from them is at most this share of the usual.
_CLEARLY_NEARER = 0.75
_MAX_INK = 0.3  # largest share of the pixels that captions, which are white or black, may cover
_SOME_INK = 0.003  # of the pixels; compression leaves a few that are nearly black


@lru_cache(maxsize=1)
def map_tables() -> dict[str, np.ndarray]:
    """The known colour tables of part maps by name, uint8 (25, 3)."""
    tables = {"viridis": PALETTE}
    for name, text in _COLOUR_MAPS.items():
        tables[name] = np.array([list(bytes.fromhex(colour)) for colour in text.split()], dtype=np.uint8)
    tables |= {f"{name} with red and blue swapped": table[:, ::-1] for name, table in tables.items()}
    usual = PALETTE.astype(np.float32)
    for name, shifted in zip(SHIFTED, ((usual - 16) * 255 / 219, usual * 219 / 255 + 16), strict=True):
        tables[name] = np.rint(shifted.clip(0, 255)).astype(np.uint8)
    return tables


def table_name(name: str, background: np.ndarray, *, own: bool) -> str:
    """What to call the colours; nothing if they are the usual ones."""
    if own:
        return "" if name == "viridis" else name
    red, green, blue = background.tolist()
    return (
        f"{name}, over black" if max(red, green, blue) < 32 else f"{name}, over RGB ({red}, {green}, {blue})"
    )


def nearest_colours(pixels: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the nearest colour and its distance for every pixel of (..., 3)."""
    # |c|^2 - 2 p.c stays below 2^24, so float32 holds it exactly.
    colours = table.astype(np.float32)
    flat = pixels.reshape(-1, 3).astype(np.float32)
    labels = (flat @ (-2 * colours.T) + (colours**2).sum(axis=1)).argmin(axis=1)
    distance = np.sqrt(((flat - colours[labels]) ** 2).sum(axis=1))
    return labels.astype(np.uint8).reshape(pixels.shape[:-1]), distance.reshape(pixels.shape[:-1])


def colour_distance(colours: np.ndarray, colour: np.ndarray | tuple[int, int, int]) -> np.ndarray:
    """RGB distances of (..., 3) from one colour, float32 (...)."""
    difference = colours.astype(np.float32) - np.asarray(colour, dtype=np.float32)
    return np.sqrt((difference**2).sum(axis=-1))


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
    return bool((colour_distance(frame, colour) > NEAR).mean() <= _EMPTY)


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
