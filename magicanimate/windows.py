"""Temporal windows: which frames the UNet sees together, and how their predictions are blended.

Source: MagicAnimate paper, section 3.4 (video fusion): windows of K frames that overlap, whose noise
predictions are averaged where they do. "ring" reproduces the published schedule; "open" is ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from magicanimate.config import WINDOW_MODES, WindowMode


@dataclass(frozen=True)
class WindowPlan:
    """Settings of the windows.

    Attributes:
        mode: "open" (the last window slides back) or "ring" (the end is joined to the start).
        size: frames of a window.
        overlap: frames that neighbouring windows share, less than ``size``.
        stride: largest frame step of the additional, wider windows of the "ring" mode is 2^(stride-1).
        offset: shift the windows from step to step, so that their seams do not always fall together.

    Raises:
        ValueError: a value outside its range.
    """

    mode: WindowMode = "open"
    size: int = 16
    overlap: int = 4
    stride: int = 1
    offset: bool = False

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> WindowPlan:
        """Those of a request's settings, see `AnimationRequest.settings`.

        Raises:
            KeyError: one is missing.
            ValueError: a value outside its range.
        """
        return cls(
            mode=settings["windows"],
            size=settings["window_size"],
            overlap=settings["window_overlap"],
            stride=settings["window_stride"],
            offset=settings["window_offset"],
        )

    def __post_init__(self) -> None:
        if self.mode not in WINDOW_MODES:
            raise ValueError(f"unknown window mode {self.mode!r}; choose from {WINDOW_MODES}")
        if self.size < 1 or not 0 <= self.overlap < self.size or self.stride < 1:
            raise ValueError(
                f"windows of {self.size} frames with overlap {self.overlap} and stride {self.stride} are not "
                "possible: size and stride are at least 1, the overlap is at least 0 and less than the size"
            )

    def windows(self, num_frames: int, *, step: int = 0) -> list[list[int]]:
        """Frame indices of each window of a denoising step; together they cover every frame.

        Without ``offset`` the windows are the same at each step, as in the published program.
        """
        # A short clip is one window: nothing to fuse, and no frame may come twice.
        if num_frames <= self.size:
            return [list(range(num_frames))]
        fraction = bit_reversed_fraction(step) if self.offset else 0.0
        return self._ring(num_frames, fraction) if self.mode == "ring" else self._open(num_frames, fraction)

    def weights(self, window: list[int]) -> list[float]:
        """Blending weight of each frame of a window: equal ("ring") or falling to the ends ("open")."""
        if self.mode == "ring":
            return [1.0] * len(window)
        # A triangle: a frame at a window's end has seen fewer neighbours on one side, so the other window,
        # in whose middle it lies, counts for more.
        return [float(min(i + 1, len(window) - i)) for i in range(len(window))]

    def _open(self, num_frames: int, fraction: float) -> list[list[int]]:
        last, hop = num_frames - self.size, self.size - self.overlap
        # Moving the starts by a part of their distance puts the seams elsewhere in the next step.
        shift = int(fraction * hop)
        # First and last window are always there, so that every frame is covered however the others move.
        starts = sorted({0, last, *range(shift, last, hop)})
        return [list(range(start, start + self.size)) for start in starts]

    def _ring(self, num_frames: int, fraction: float) -> list[list[int]]:
        shift = round(num_frames * fraction)
        # The published schedule: besides neighbouring frames, windows of every second, fourth, ... frame, as
        # far as a window of that spacing still fits into the clip.
        levels = min(self.stride, math.ceil(math.log2(num_frames / self.size)) + 1)
        found = []
        for spacing in (2**level for level in range(levels)):
            first = int(fraction * spacing) + shift
            for start in range(first, num_frames + shift, self.size * spacing - self.overlap):
                # Modulo joins the end to the beginning, as if the clip were a loop.
                found.append([(start + i * spacing) % num_frames for i in range(self.size)])
        return found


def bit_reversed_fraction(step: int) -> float:
    """The step's binary digits mirrored behind the point: 0, 1/2, 1/4, 3/4, 1/8, ... (van der Corput)."""
    return sum(2.0 ** -(i + 1) for i, digit in enumerate(reversed(f"{step:b}")) if digit == "1")
