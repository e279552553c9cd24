"""The people that an extractor finds, and the part map that is drawn from them.

Letters in shape comments: ``H W`` pixels of the picture, ``h w`` pixels of a person's box.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from magicanimate.palette import FLIP_PERMUTATION


@dataclass(frozen=True, eq=False)
class Person:
    """One person in one image.

    Attributes:
        box: x, y, width, height in pixels of the image, as the network gives them.
        score: confidence, 0..1.
        labels: part id of every pixel of the box, uint8 (h, w), from 0 (background) to 24; h and w are the
            sides of ``box``, truncated to whole pixels.
        coordinates: DensePose's u and v on the part, uint8 (2, h, w), or ``None`` if the extractor does not
            give them.
    """

    box: tuple[float, float, float, float]
    score: float
    labels: np.ndarray
    coordinates: np.ndarray | None = None

    def corner_and_size(self) -> tuple[int, int, int, int]:
        """x, y, width and height in whole pixels, where ``labels`` lies in the image."""
        x, y, width, height = (int(number) for number in self.box)
        return x, y, width, height

    def area(self) -> int:
        """Number of pixels on the body."""
        return int((self.labels > 0).sum())


def part_map(people: Iterable[Person], *, width: int, height: int) -> np.ndarray:
    """Draw people as a part map, uint8 (H, W).

    They are drawn in the given order, so later ones, usually those with lower scores, cover earlier ones.
    DensePose's viewer draws them like this, and so the released ControlNet was trained. Label 0 covers
    nothing. A box of less than one pixel draws nothing.
    """
    labels = np.zeros((height, width), dtype=np.uint8)
    for person in people:
        x, y, w, h = person.corner_and_size()
        if w <= 0 or h <= 0:
            continue
        # A box may reach over the edge of the image.
        top, left = max(0, -y), max(0, -x)
        target = labels[y + top : y + h, x + left : x + w]
        drawn = person.labels[top : top + target.shape[0], left : left + target.shape[1]]
        # `target` is a view of the map: this paints into it.
        np.copyto(target, drawn, where=drawn > 0)
    return labels


def flip_labels(labels: np.ndarray) -> np.ndarray:
    """The part map of the mirrored image, (..., H, W), with left and right parts exchanged."""
    return FLIP_PERMUTATION[labels[..., ::-1]]
