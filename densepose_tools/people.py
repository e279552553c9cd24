"""People as an extractor finds them, and how they are drawn as a part map.

Letters in shape comments: ``H W`` pixels of the picture, ``h w`` pixels of a person's box.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from magicanimate.palette import FLIP_PERMUTATION


@dataclass(frozen=True, eq=False)
class Person:
    """One person in one picture.

    Attributes:
        box: x, y, width, height in pixels of the picture, as the network says.
        score: how sure it is, 0..1.
        labels: part of every pixel of the box, uint8 (h, w), 0 (nothing) to 24; h and w are those of ``box``
            cut off to whole pixels.
        coordinates: DensePose's u and v on that part, uint8 (2, h, w), or ``None`` if the extractor has none.
    """

    box: tuple[float, float, float, float]
    score: float
    labels: np.ndarray
    coordinates: np.ndarray | None = None

    def corner_and_size(self) -> tuple[int, int, int, int]:
        """Whole x, y, width, height: where ``labels`` lies."""
        x, y, width, height = (int(number) for number in self.box)
        return x, y, width, height

    def area(self) -> int:
        """Pixels of the body."""
        return int((self.labels > 0).sum())


def part_map(people: Iterable[Person], *, width: int, height: int) -> np.ndarray:
    """Labels of a picture, uint8 (H, W).

    People are painted in the order given, so later ones, which usually are the less sure, cover earlier
    ones; that is how DensePose's viewer draws them and what the released ControlNet was trained on. Where a
    person has label 0 what is below stays. A box of less than one pixel draws nothing.
    """
    labels = np.zeros((height, width), dtype=np.uint8)
    for person in people:
        x, y, w, h = person.corner_and_size()
        if w <= 0 or h <= 0:
            continue
        top, left = max(0, -y), max(0, -x)
        target = labels[y + top : y + h, x + left : x + w]
        drawn = person.labels[top : top + target.shape[0], left : left + target.shape[1]]
        np.copyto(target, drawn, where=drawn > 0)
    return labels


def flip_labels(labels: np.ndarray) -> np.ndarray:
    """The part map of the mirrored picture: (..., H, W), left and right parts change places."""
    return FLIP_PERMUTATION[labels[..., ::-1]]
