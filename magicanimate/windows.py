"""Context windows: which frames the UNet sees together, and how their predictions are blended.

Source: MagicAnimate paper, section 3.4 (video fusion): windows of K frames that overlap, whose noise
predictions are averaged where they do. The closed loop reproduces the published schedule; the other is ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class WindowPlan:
    """The settings of the context windows, by their names in `magicanimate.config.AnimationRequest`.

    Raises:
        ValueError: a value outside its range.
    """

    context_length: int = 16  # frames of a window
    context_overlap: int = 4  # frames that neighbouring windows share, less than ``context_length``
    closed_loop: bool = False  # the clip's end is joined to its start; otherwise the last window slides back
    # Of a closed loop; there are windows of every frame, every second, ... every 2^(context_stride - 1)-th.
    context_stride: int = 1
    # Shift the windows from step to step, so that their seams do not always fall together.
    context_offset: bool = False

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> WindowPlan:
        """Those of a request's settings, see `AnimationRequest.settings`.

        Raises:
            KeyError: one is missing.
            ValueError: a value outside its range.
        """
        return cls(**{field.name: settings[field.name] for field in fields(cls)})

    def __post_init__(self) -> None:
        length, overlap, stride = self.context_length, self.context_overlap, self.context_stride
        if length < 1 or not 0 <= overlap < length or stride < 1:
            raise ValueError(
                f"windows of {length} frames with overlap {overlap} and stride {stride} are not possible: "
                "length and stride are at least 1, the overlap is at least 0 and less than the length"
            )

    def windows(self, num_frames: int, *, step: int = 0) -> list[list[int]]:
        """Frame indices of each window of a denoising step; together they cover every frame.

        Without ``context_offset`` the windows are the same at each step, as in the published program.
        """
        # A short clip is one window: nothing to fuse, and no frame may come twice.
        if num_frames <= self.context_length:
            return [list(range(num_frames))]
        fraction = bit_reversed_fraction(step) if self.context_offset else 0.0
        return (
            self._looped(num_frames, fraction) if self.closed_loop else self._straight(num_frames, fraction)
        )

    def weights(self, window: list[int]) -> list[float]:
        """Blending weight of each frame of a window: equal in a closed loop, else falling to the ends."""
        if self.closed_loop:
            return [1.0] * len(window)
        # A triangle: a frame at a window's end has seen fewer neighbours on one side, so the other window,
        # in whose middle it lies, counts for more.
        return [float(min(i + 1, len(window) - i)) for i in range(len(window))]

    def _straight(self, num_frames: int, fraction: float) -> list[list[int]]:
        length = self.context_length
        last, hop = num_frames - length, length - self.context_overlap
        # Moving the starts by a part of their distance puts the seams elsewhere in the next step.
        shift = int(fraction * hop)
        # First and last window are always there, so that every frame is covered however the others move.
        starts = sorted({0, last, *range(shift, last, hop)})
        return [list(range(start, start + length)) for start in starts]

    def _looped(self, num_frames: int, fraction: float) -> list[list[int]]:
        length, shift = self.context_length, round(num_frames * fraction)
        # The published schedule: besides neighbouring frames, windows of every second, fourth, ... frame, as
        # far as a window of that spacing still fits into the clip.
        levels = min(self.context_stride, math.ceil(math.log2(num_frames / length)) + 1)
        found = []
        for spacing in (2**level for level in range(levels)):
            first = int(fraction * spacing) + shift
            for start in range(first, num_frames + shift, length * spacing - self.context_overlap):
                # Modulo joins the end to the beginning, as if the clip were a loop.
                found.append([(start + i * spacing) % num_frames for i in range(length)])
        return found


def bit_reversed_fraction(step: int) -> float:
    """The step's binary digits mirrored behind the point: 0, 1/2, 1/4, 3/4, 1/8, ... (van der Corput)."""
    return sum(2.0 ** -(i + 1) for i, digit in enumerate(reversed(f"{step:b}")) if digit == "1")
