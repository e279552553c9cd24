"""Removes flicker from part maps, and trembling from boxes.

A label that changes for a moment and then changes back is taken for an error of the detector. Before frames
are compared, the neighbours of a frame are aligned with it block by block, so that a limb in fast motion is
not taken for such an error. The detector's boxes also tremble around a person, and the maps drawn into them
tremble along.

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
"""Frames before and after a frame that are compared with it; they reveal changes of up to two frames."""
_BLOCK = 16
"""Side of the blocks in which motion is estimated, pixels."""
_SEARCH = 8
"""Range of the motion search, in pixels at half resolution; it is refined by one pixel at full resolution."""
_STANDSTILL = 0.02
"""A block counts as moving only if that lets this share of its pixels agree more: noise is no motion."""
_BLOB = 0.03
"""Half the width that a separate blob needs to be kept, relative to the square root of the body's area."""

_BACK_WITHIN = 3
"""A label flickers if it is back within this many frames."""
_BOX_REACH = 5
"""Frames before and after a frame through whose boxes its smoothed box is fitted."""
_GRID = 96
"""Points on a side of the grid on which two maps are compared."""
_CLEARLY = 0.9
"""A map trembles with its box if moving along with the box removes at least a tenth of its changes."""


class FlickerMeter:
    """Measures the flicker of a stream of part maps, with four of them in memory.

    Attributes:
        score: share of the body's pixels whose label changes and is back within three frames, 0..1; 0 for
            fewer than three frames.
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
        """Yield maps, uint8 (H, W), unchanged, and measure them."""
        for labels in maps:
            self._window.append(labels)
            if len(self._window) > _BACK_WITHIN:
                flickers, body = _flickers(self._window)
                self._flickers += flickers
                self._body += body
                self._window.pop(0)
            yield labels


def _flickers(window: list[np.ndarray]) -> tuple[int, int]:
    """Count pixels that change from the first to the second map and change back later, and body pixels."""
    before, here = window[:2]
    back = np.zeros(before.shape, dtype=bool)
    for later in window[2:]:
        back |= later == before
    return int(((here != before) & back).sum()), int(((before > 0) | (here > 0)).sum())


def deflickered(maps: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Remove momentary changes from a stream of part maps, uint8 (H, W), with five of them in memory."""
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
    """A frame of the window, without changes that its aligned neighbours on both sides do not share."""
    labels = window[at]
    # Motion search is slow, so it is limited to the part of the picture that shows anybody.
    region = _body_region(window)
    if region is None:
        return labels
    here = labels[region]
    moved = {k - at: _moved_onto(window[k][region], here) for k in range(len(window)) if k != at}
    result = here.copy()
    # The nearest pair comes last and so has the last word.
    # Two frames together bridge up to three steps: (-2, 1) and (-1, 2) find changes that last two frames.
    for before, after in ((-2, 1), (-1, 2), (-1, 1)):
        if before in moved and after in moved:
            agree = (moved[before] == moved[after]) & (moved[before] != here)
            result[agree] = moved[before][agree]
    result[_stray(result > 0)] = 0
    deflickered_labels = labels.copy()
    deflickered_labels[region] = result
    return deflickered_labels


def _stray(body: np.ndarray) -> np.ndarray:
    """Mask, bool (H, W) like ``body``, of small blobs that are not connected to a body.

    Opening by reconstruction: the body is eroded until only wide areas are left, and then grown again within
    its old shape. Limbs grow back, blobs that were eroded away do not.
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
    """Dilate a mask by one pixel in all eight directions."""
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    across = grown.copy()
    across[:, 1:] |= grown[:, :-1]
    across[:, :-1] |= grown[:, 1:]
    return across


def _body_region(window: list[np.ndarray]) -> tuple[slice, slice] | None:
    """Rows and columns with body pixels in any frame, and a block on every side; ``None`` for none."""
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
    """Align ``other`` with ``here``: every block is taken from where it agrees best."""
    height, width = here.shape
    pad = [(0, -size % (2 * _BLOCK)) for size in here.shape]
    target, source = np.pad(here, pad), np.pad(other, pad)
    # A quarter of the pixels and half the range make the full search sixteen times cheaper.
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
    """For each block of ``target`` the shift, rows and columns, at which it agrees best with ``source``."""
    padded = np.pad(source, _SEARCH)
    height, width = target.shape
    reach = range(-_SEARCH, _SEARCH + 1)
    # The smallest shifts first, so that of equal ones the smallest wins.
    shifts = sorted(product(reach, repeat=2), key=lambda step: step[0] ** 2 + step[1] ** 2)
    best_cost, best = None, None
    for dy, dx in shifts:
        there = padded[_SEARCH + dy : _SEARCH + dy + height, _SEARCH + dx : _SEARCH + dx + width]
        cost = _block_means(there != target, block)
        if best_cost is None:
            # The first shift is (0, 0), which gets an advantage.
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
    """The people of a clip with smoothed boxes, into which their maps are drawn.

    Detectors differ: a map may tremble with its box, or it may be steady on the person while only the box
    around it trembles. So the boxes of a track are only smoothed if its maps change less relative to their
    own boxes than relative to the smooth path.

    Args:
        found: people of every frame.
        numbers: their track numbers, from `densepose_tools.tracking.track_people`.
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
        """Tracks whose maps change clearly less relative to their boxes than to the smooth path."""
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
    """Smooth boxes over time by fitting a parabola around each frame, with larger weights for nearer frames.

    Source: Savitzky and Golay, "Smoothing and differentiation of data" (1964); here with tricube weights, and
    for frames some of which may be missing.

    Args:
        frames: increasing numbers, int (N,).
        boxes: x, y, width, height, (N, 4).

    Returns:
        float64 (N, 4); sides are at least one pixel.
    """
    # Opposite corners, not corner and size: a wrong height must not move the other side.
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1).astype(np.float64)
    result = corners.copy()
    for k, frame in enumerate(frames):
        near = np.flatnonzero(np.abs(frames - frame) <= _BOX_REACH)
        # Too few boxes to tell motion from noise.
        if len(near) < 3:
            continue
        distance = (frames[near] - frame) / (_BOX_REACH + 1)
        # Square roots, since least squares squares them again.
        weights = np.sqrt((1 - np.abs(distance) ** 3) ** 3)
        powers = distance[:, None] ** np.arange(3 if len(near) > 3 else 2)
        fitted = np.linalg.lstsq(powers * weights[:, None], corners[near] * weights[:, None], rcond=None)[0]
        result[k] = fitted[0]  # the parabola's value at distance 0
    return np.concatenate([result[:, :2], np.maximum(result[:, 2:] - result[:, :2], 1)], axis=1)


def moved(person: Person, box: np.ndarray) -> Person:
    """Move a person to another box (4,), to which the map is stretched."""
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
    """Sample a person's labels on a grid over a box x, y, width, height: uint8 (``_GRID``, ``_GRID``)."""
    x, y = (low + side * (np.arange(_GRID) + 0.5) / _GRID for low, side in zip(box[:2], box[2:], strict=True))
    left, top = person.box[:2]
    h, w = person.labels.shape
    rows, columns = np.floor(y - top).astype(int), np.floor(x - left).astype(int)
    inside = ((rows >= 0) & (rows < h))[:, None] & ((columns >= 0) & (columns < w))
    return np.where(inside, person.labels[np.clip(rows, 0, h - 1)][:, np.clip(columns, 0, w - 1)], 0)
