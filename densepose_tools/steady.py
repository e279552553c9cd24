"""Steadier part maps: what changes for a moment and changes back is taken for an error of the detector.

Neighbouring frames are moved onto a frame block by block first, so that a limb that passes quickly is not
taken for such an error.

Letters in shape comments: ``T`` frames, ``H W`` pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product

import numpy as np

_REACH = 2
"""Frames before and after that have a say; together they see changes that last up to two frames."""

_BLOCK = 16
_SEARCH = 8
"""Blocks are looked for this many pixels around, at half size, and then one pixel around at full size."""

_STANDSTILL = 0.02
"""A block moves only if that makes this share of it agree more: noise is no motion."""

_BACK_WITHIN = 3


class FlickerMeter:
    """Measures the flicker of part maps as they pass: holds four of them.

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


def steadied(maps: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Take momentary changes out of a sequence of part maps, labels uint8 (H, W); holds five of them."""
    window: list[np.ndarray] = []
    at = 0
    for frame in maps:
        window.append(frame)
        if len(window) > at + _REACH:
            yield _steadied_frame(window, at)
            if at == _REACH:
                window.pop(0)
            else:
                at += 1
    while at < len(window):
        yield _steadied_frame(window, at)
        at += 1


def _steadied_frame(window: list[np.ndarray], at: int) -> np.ndarray:
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
    steady = labels.copy()
    steady[region] = result
    return steady


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
