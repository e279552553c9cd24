"""Takes the flicker out of part maps, and the trembling out of boxes.

What changes for a moment and changes back is taken for an error of the detector. Neighbouring frames are
moved onto a frame block by block first, so that a limb that passes quickly is not taken for such an error.
A detector's box trembles around a person, too, and a map drawn into it trembles along.

Letters in shape comments: ``T`` frames, ``H W`` pixels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import product

import numpy as np

from densepose_tools.people import Person

_REACH = 2
"""Frames before and after that have a say; together they see changes that last up to two frames."""
_BLOCK = 16
_SEARCH = 8
"""Blocks are looked for this many pixels around, at half size, and then one pixel around at full size."""
_STANDSTILL = 0.02
"""A block moves only if that makes this share of it agree more: noise is no motion."""
_BLOB = 0.03
"""Half the breadth that a blob apart from a body needs to stay, by the root of the body's area."""

_BACK_WITHIN = 3
_BOX_REACH = 5
"""Frames before and after that have a say in where a box is."""
_GRID = 96
"""Points a side at which two maps are compared."""
_CLEARLY = 0.9
"""A map trembles with its box if that explains at least a tenth of its changes."""


class FlickerMeter:
    """Measures the flicker of part maps as they stream by, with four of them in memory.

    Attributes:
        score: share of body pixels whose part changes and is back within three frames, 0..1; 0 for fewer
            than three frames.
    """

    def __init__(self) -> None:
        self._window: list[np.ndarray] = []
        self._flickers = self._body = 0

    @property
    def score(self) -> float:
        flickers, body = self._flickers, self._body
        if len(self._window) == _BACK_WITHIN:  # the last frames have fewer behind them
            more = _flickers(self._window)
            flickers, body = flickers + more[0], body + more[1]
        return flickers / body if body else 0.0

    def watch(self, maps: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Pass maps on, labels uint8 (H, W), and measure them."""
        for labels in maps:
            self._window.append(labels)
            if len(self._window) > _BACK_WITHIN:
                flickers, body = _flickers(self._window)
                self._flickers += flickers
                self._body += body
                self._window.pop(0)
            yield labels


def _flickers(window: list[np.ndarray]) -> tuple[int, int]:
    """Pixels that change from the first to the second of some maps and change back later, and body pixels."""
    before, here = window[:2]
    back = np.zeros(before.shape, dtype=bool)
    for later in window[2:]:
        back |= later == before
    return int(((here != before) & back).sum()), int(((before > 0) | (here > 0)).sum())


def deflickered(maps: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Take momentary changes out of a sequence of part maps, labels uint8 (H, W); holds five of them."""
    window: list[np.ndarray] = []
    at = 0
    for frame in maps:
        window.append(frame)
        if len(window) > at + _REACH:
            yield _deflickered_frame(window, at)
            if at == _REACH:
                window.pop(0)
            else:
                at += 1
    while at < len(window):
        yield _deflickered_frame(window, at)
        at += 1


def _deflickered_frame(window: list[np.ndarray], at: int) -> np.ndarray:
    """One frame of the window, with the changes undone that its neighbours agree about."""
    labels = window[at]
    region = _body_region(window)
    if region is None:
        return labels
    here = labels[region]
    moved = {k - at: _moved_onto(window[k][region], here) for k in range(len(window)) if k != at}
    result = here.copy()
    # The nearest pair decides last.
    for before, after in ((-2, 1), (-1, 2), (-1, 1)):
        if before in moved and after in moved:
            agree = (moved[before] == moved[after]) & (moved[before] != here)
            result[agree] = moved[before][agree]
    result[_stray(result > 0)] = 0
    deflickered_labels = labels.copy()
    deflickered_labels[region] = result
    return deflickered_labels


def _stray(body: np.ndarray) -> np.ndarray:
    """Where small blobs are that no body hangs on to, however long they stay: bool (H, W) as ``body``.

    The body is worn away until only what is broad is left, and grown again within itself: limbs grow back,
    blobs that were worn away do not.
    """
    depth = max(1, round(_BLOB * np.sqrt(body.sum())))
    kept = body.copy()
    for _ in range(depth):
        kept = ~_grown(~kept)
    if not kept.any():  # all of it is thin
        return np.zeros_like(body)
    size = 0
    while (now := int(kept.sum())) != size:
        size = now
        kept = _grown(kept) & body
    return body & ~kept


def _grown(mask: np.ndarray) -> np.ndarray:
    """A mask and its neighbours along rows, columns and diagonals."""
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    across = grown.copy()
    across[:, 1:] |= grown[:, :-1]
    across[:, :-1] |= grown[:, 1:]
    return across


def _body_region(window: list[np.ndarray]) -> tuple[slice, slice] | None:
    """The rows and columns in which somebody is, grown to whole blocks as far as the picture goes."""
    body = np.zeros(window[0].shape, dtype=bool)
    for frame in window:
        body |= frame > 0
    if not body.any():
        return None
    spans = []
    for axis, size in enumerate(body.shape):
        inside = np.flatnonzero(body.any(axis=1 - axis))
        start = max(0, int(inside[0]) - _BLOCK)
        spans.append(slice(start, min(size, int(inside[-1]) + 1 + _BLOCK)))
    return spans[0], spans[1]


def _moved_onto(other: np.ndarray, here: np.ndarray) -> np.ndarray:
    """``other`` with its blocks shifted to where they agree best with ``here``."""
    height, width = here.shape
    pad = [(0, -size % (2 * _BLOCK)) for size in here.shape]
    target, source = np.pad(here, pad), np.pad(other, pad)
    coarse = _best_shifts(source[::2, ::2], target[::2, ::2], _BLOCK // 2)
    rows, columns = np.indices(target.shape)
    shift_y, shift_x = (np.kron(2 * shift, np.ones((_BLOCK, _BLOCK), dtype=np.int64)) for shift in coarse)
    best, best_cost = source, None
    for dy, dx in sorted(product((-1, 0, 1), repeat=2), key=lambda step: abs(step[0]) + abs(step[1])):
        y = np.clip(rows + shift_y + dy, 0, target.shape[0] - 1)
        x = np.clip(columns + shift_x + dx, 0, target.shape[1] - 1)
        tried = source[y, x]
        cost = np.kron(_block_means(tried != target, _BLOCK), np.ones((_BLOCK, _BLOCK)))
        if best_cost is None:
            best, best_cost = tried, cost
        else:
            better = cost < best_cost
            best, best_cost = np.where(better, tried, best), np.minimum(cost, best_cost)
    return best[:height, :width]


def _best_shifts(source: np.ndarray, target: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
    """For each block of ``target`` how far away in ``source`` it is found: rows and columns."""
    padded = np.pad(source, _SEARCH)
    height, width = target.shape
    reach = range(-_SEARCH, _SEARCH + 1)
    shifts = sorted(product(reach, repeat=2), key=lambda step: step[0] ** 2 + step[1] ** 2)
    best_cost, best = None, None
    for dy, dx in shifts:
        there = padded[_SEARCH + dy : _SEARCH + dy + height, _SEARCH + dx : _SEARCH + dx + width]
        cost = _block_means(there != target, block)
        if best_cost is None:
            best_cost, best = cost - _STANDSTILL, np.zeros((2, *cost.shape), dtype=np.int64)
        else:
            better = cost < best_cost
            best_cost = np.where(better, cost, best_cost)
            best[0][better], best[1][better] = dy, dx
    return best[0], best[1]


def _block_means(values: np.ndarray, block: int) -> np.ndarray:
    height, width = values.shape
    return values.reshape(height // block, block, width // block, block).mean(axis=(1, 3))


class SmoothedBoxes(Sequence[list[Person]]):
    """The people of a clip in boxes that move smoothly, the maps drawn into those.

    Whether that is right differs from detector to detector: a map may tremble with its box, or lie still on
    the person while only the box around it trembles. So a track's boxes are changed only where the map is
    stiller as seen from them than as seen from the smooth path.

    Args:
        found: people of every frame.
        numbers: whose they are, of `densepose_tools.tracking.track_people`.
    """

    def __init__(self, found: Sequence[list[Person]], numbers: list[list[int]]):
        self._found, self._numbers = found, numbers
        frames: dict[int, list[int]] = defaultdict(list)
        boxes: dict[int, list[tuple[float, ...]]] = defaultdict(list)
        for frame, (people, owners) in enumerate(zip(found, numbers, strict=True)):
            for person, owner in zip(people, owners, strict=True):
                frames[owner].append(frame)
                boxes[owner].append(person.box)
        smooth = {
            (track, frame): box
            for track, seen in frames.items()
            for frame, box in zip(seen, smoothed(np.array(seen), np.array(boxes[track])), strict=True)
        }
        wanted = self._trembling(smooth)
        # (track, frame) -> where the box is moved to
        self._boxes = {key: box for key, box in smooth.items() if key[0] in wanted}

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, frame: int) -> list[Person]:
        people, owners = self._found[frame], self._numbers[frame]
        return [
            moved(person, self._boxes[owner, frame]) if (owner, frame) in self._boxes else person
            for person, owner in zip(people, owners, strict=True)
        ]

    def __iter__(self) -> Iterator[list[Person]]:
        return (self[frame] for frame in range(len(self)))

    def _trembling(self, smooth: dict[tuple[int, int], np.ndarray]) -> frozenset[int]:
        """Tracks whose maps change less as seen from their own boxes than as seen from the smooth path."""
        before: dict[int, tuple[int, np.ndarray]] = {}
        changes: dict[int, np.ndarray] = defaultdict(lambda: np.zeros(2))
        for frame, (people, owners) in enumerate(zip(self._found, self._numbers, strict=True)):
            for person, owner in zip(people, owners, strict=True):
                views = np.stack([_seen_from(person, box) for box in (person.box, smooth[owner, frame])])
                last, earlier = before.get(owner, (-1, views))
                if last == frame - 1:
                    changes[owner] += (views != earlier).mean(axis=(1, 2))
                before[owner] = frame, views
        return frozenset(track for track, (own, path) in changes.items() if own < _CLEARLY * path)


def smoothed(frames: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Boxes on a smooth path: at each frame a parabola through those around it, near ones counting more.

    (Savitzky and Golay, "Smoothing and differentiation of data", 1964, with tricube weights, for frames
    that may be missing.)

    Args:
        frames: increasing numbers, int (N,).
        boxes: x, y, width, height, (N, 4).

    Returns:
        float64 (N, 4); sides are at least one pixel.
    """
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1).astype(np.float64)
    result = corners.copy()
    for k, frame in enumerate(frames):
        near = np.flatnonzero(np.abs(frames - frame) <= _BOX_REACH)
        if len(near) < 3:
            continue
        distance = (frames[near] - frame) / (_BOX_REACH + 1)
        weights = np.sqrt((1 - np.abs(distance) ** 3) ** 3)
        powers = distance[:, None] ** np.arange(3 if len(near) > 3 else 2)
        fitted = np.linalg.lstsq(powers * weights[:, None], corners[near] * weights[:, None], rcond=None)[0]
        result[k] = fitted[0]  # the parabola's value at distance 0
    return np.concatenate([result[:, :2], np.maximum(result[:, 2:] - result[:, :2], 1)], axis=1)


def moved(person: Person, box: np.ndarray) -> Person:
    """A person in another box (4,), the map stretched to it."""
    to = replace(person, box=tuple(float(number) for number in box))
    _, _, width, height = to.corner_and_size()
    h, w = person.labels.shape
    rows = np.arange(max(height, 1)) * h // max(height, 1)
    columns = np.arange(max(width, 1)) * w // max(width, 1)
    coordinates = person.coordinates
    return replace(
        to,
        labels=person.labels[rows][:, columns],
        coordinates=None if coordinates is None else coordinates[:, rows][:, :, columns],
    )


def _seen_from(person: Person, box: Sequence[float]) -> np.ndarray:
    """Labels on a grid over a box x, y, width, height, uint8 (``_GRID``, ``_GRID``); 0 where nobody is."""
    x, y = (low + side * (np.arange(_GRID) + 0.5) / _GRID for low, side in zip(box[:2], box[2:], strict=True))
    left, top = person.box[:2]
    h, w = person.labels.shape
    rows, columns = np.floor(y - top).astype(int), np.floor(x - left).astype(int)
    inside = ((rows >= 0) & (rows < h))[:, None] & ((columns >= 0) & (columns < w))
    return np.where(inside, person.labels[np.clip(rows, 0, h - 1)][:, np.clip(columns, 0, w - 1)], 0)
