"""Crop images and their control images to the square of the training, all by the same window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from magicanimate.errors import InputError
from magicanimate.media.densepose_check import check_densepose
from magicanimate.media.fit import MotionFit, drawing_box, person_box, plan_motion_fit

Shares = tuple[float, float, float, float]
"""A box as shares of width and height: left, top, right, bottom in 0..1."""


@dataclass(frozen=True)
class SquareCrop:
    """Cuts out the largest square around the person, or in the middle, and scales it to ``size`` pixels.

    If the person is taller than the square, the head stays, with a little room above it. An image and its
    control images may differ in resolution, not in what they show.

    Attributes:
        size: side of the result, pixels.
        person: box around the person in all frames together; ``None`` cuts out the middle.
    """

    size: int
    person: Shares | None

    def _plan(self, width: int, height: int, *, keep_labels: bool) -> MotionFit:
        box = None
        if self.person is not None:
            left, top, right, bottom = self.person
            # Shares, not pixels, since the image and its control images may differ in resolution.
            box = (round(left * width), round(top * height), round(right * width), round(bottom * height))
        return plan_motion_fit(
            (width, height), box, width=self.size, height=self.size, fit="crop", keep_labels=keep_labels
        )

    def picture(self, frame: np.ndarray) -> np.ndarray:
        """A photo or a keypoints drawing, uint8 (h, w, 3), to uint8 (size, size, 3)."""
        return self._plan(frame.shape[1], frame.shape[0], keep_labels=False).apply(frame)

    def part_map(self, frame: np.ndarray) -> np.ndarray:
        """A part map, uint8 (h, w, 3), to uint8 (size, size, 3), without mixing colours of parts."""
        return self._plan(frame.shape[1], frame.shape[0], keep_labels=True).apply(frame)

    def points(self, points: np.ndarray, *, width: int, height: int) -> np.ndarray:
        """Move keypoints (..., 3), x and y in pixels of an image of ``width`` x ``height`` and confidence."""
        x0, y0, x1, y1 = self._plan(width, height, keep_labels=False).window
        moved = np.array(points, dtype=np.float32)
        moved[..., 0] = (moved[..., 0] - x0) * (self.size / (x1 - x0))
        moved[..., 1] = (moved[..., 1] - y0) * (self.size / (y1 - y0))
        return moved


def person_of(signal: str, drawn: Sequence[np.ndarray], path: Path | str) -> Shares | None:
    """Box around the person in all of some control images together; ``None`` if they are empty.

    Args:
        signal: "densepose" or "keypoints".
        drawn: uint8 (h, w, 3), all of one size.
        path: where they come from, for the message.

    Raises:
        InputError: what should be part maps are none.
    """
    if not drawn:
        return None
    if signal == "keypoints":
        # Drawn on black: the brightest value over time shows everything that was ever drawn.
        box = drawing_box(np.maximum.reduce(drawn))
    else:
        # Every frame that was read is checked: there are only a few, from all over the clip.
        report = check_densepose(drawn, every=1)
        if not report.is_densepose:
            raise InputError(f"{path} {report.reason}.")
        if not report.colours.is_clean:
            raise InputError(
                f"{path} has bars, captions or dithering over the part map; take them out with `python -m "
                "densepose_tools MAP -o NEW --recolour`."
            )
        box = person_box(drawn)
    height, width = drawn[0].shape[:2]
    return None if box is None else (box[0] / width, box[1] / height, box[2] / width, box[3] / height)


def same_aspect(first: tuple[int, int], second: tuple[int, int]) -> bool:
    """Whether two sizes (width, height) have the same aspect ratio, up to 2 %, as codecs round sizes."""
    return abs(first[0] * second[1] / (first[1] * second[0]) - 1) <= 0.02
