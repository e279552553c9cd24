"""Who is in the photo, and how the dancer of a clip differs: what a small network can tell in an instant.

The bundled part segmenter looks at the photo. It learned from drawn people, so what is said here is a guess.

Letters in shape comments: ``H W`` pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from densepose_tools.photo_people import measures

_LEGS = {"thighs": (7, 8, 9, 10), "lower legs": (11, 12, 13, 14), "feet": (5, 6)}

_SMALLEST_PART = 0.003
"""Of the picture; fewer pixels of a part are noise."""

_SIZE_MISMATCH, _BREADTH_MISMATCH = 1.25, 1.4
"""From these ratios on it is said: on pairs that suit each other the guesses scatter by 1.1 and 1.25."""


@dataclass(frozen=True)
class Comparison:
    """How a dancer differs from the person in a photo, both in the picture of the result.

    Attributes:
        size: the photo's person by the dancer; 2 is twice as large.
        breadth: the same of the shoulders' width by the head's size.
        unseen: parts of the legs that the clip shows and the photo does not.
    """

    size: float | None
    breadth: float | None
    unseen: tuple[str, ...]

    def sentences(self) -> list[str]:
        """What is worth saying, if anything."""
        said, differs = [], []
        if self.size is not None and max(self.size, 1 / self.size) >= _SIZE_MISMATCH:
            larger = self.size > 1
            differs.append(f"larger ({self.size:.1f}:1)" if larger else f"smaller (1:{1 / self.size:.1f})")
        if self.breadth is not None and max(self.breadth, 1 / self.breadth) >= _BREADTH_MISMATCH:
            differs.append("broader" if self.breadth > 1 else "narrower")
        if differs:
            said.append(
                f"The person in the photo seems {' and '.join(differs)} than the dancer, whose build the "
                "result takes; the DensePose tab can retarget the clip to the photo."
            )
        if self.unseen:
            names = " and ".join(filter(None, (", ".join(self.unseen[:-1]), self.unseen[-1])))
            said.append(
                f"The clip shows {names}, which the photo does not seem to show: they will be made up."
            )
        return said


def compare(photo: np.ndarray, maps: Sequence[np.ndarray]) -> Comparison:
    """Compare one person with one dancer.

    Args:
        photo: part map of the photo, uint8 (H, W).
        maps: some of the clip's, uint8 (H, W) each.
    """
    size = breadth = None
    person, dancers = measures(photo), [found for found in map(measures, maps) if found is not None]
    if person is not None and dancers:
        # Relative to the picture, since the maps may be of another size.
        dancer = np.median(
            [found / labels.shape[0] for found, labels in zip(dancers, maps, strict=False)], axis=0
        )
        head, shoulders = person / photo.shape[0] / dancer
        size, breadth = float(np.sqrt(head * shoulders)), float(shoulders / head)
    unseen = tuple(
        name
        for name, labels in _LEGS.items()
        if np.median([_share(found, labels) for found in maps]) >= 2 * _SMALLEST_PART
        and _share(photo, labels) < _SMALLEST_PART / 2
    )
    return Comparison(size, breadth, unseen)


def _share(labels: np.ndarray, wanted: tuple[int, ...]) -> float:
    return float(np.isin(labels, wanted).mean())
