"""Who is in the photo, and how the dancer of a clip differs: what a small network can tell in an instant.

The bundled part segmenter looks at the photo. It learned from drawn people, so what is said here is a guess.

Letters in shape comments: ``H W`` pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from densepose_tools.photo_people import measures, thinned
from magicanimate.media.motion import open_motion
from magicanimate.palette import nearest_labels
from magicanimate.webui.texts import tr

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

    @property
    def builds_differ(self) -> bool:
        """Whether the dancer's size or build is so different that the result will look like somebody else."""
        sizes, breadths = (value or 1.0 for value in (self.size, self.breadth))
        return max(sizes, 1 / sizes) >= _SIZE_MISMATCH or max(breadths, 1 / breadths) >= _BREADTH_MISMATCH

    def sentence_on_builds(self) -> str:
        """How the dancer's build differs; empty if it does not."""
        size = breadth = ""
        percent = 0
        if self.size is not None and max(self.size, 1 / self.size) >= _SIZE_MISMATCH:
            percent = round(100 * abs(1 / self.size - 1))
            size = "about {percent} % smaller" if self.size > 1 else "about {percent} % larger"
        if self.breadth is not None and max(self.breadth, 1 / self.breadth) >= _BREADTH_MISMATCH:
            breadth = "narrower" if self.breadth > 1 else "broader"
        how = " and ".join(filter(None, (size, breadth)))
        return tr(f"The dancer is {how} than your person.", percent=percent) if how else ""

    def sentence_on_unseen(self) -> str:
        """Which parts of the body will be made up; empty if none."""
        if not self.unseen:
            return ""
        names = ", ".join(map(tr, self.unseen))
        return tr("The dance shows what your photo does not: {parts}. They will be made up.", parts=names)


def is_cut_off(maps: Sequence[np.ndarray]) -> bool:
    """Whether the dancer reaches the lower edge of the picture in most part maps, uint8 (H, W) each.

    Fitted to a smaller person, such a dancer would hang in the air without legs.
    """
    return bool(maps) and np.median([bool(labels[-1].any()) for labels in maps]) >= 0.5


def some_maps(clip: Path, most: int = 8) -> list[np.ndarray]:
    """About ``most`` frames of a motion clip, evenly spread, as part maps, uint8 (H, W) each.

    Raises:
        InputError: it cannot be read.
    """
    opened = open_motion(clip)
    every = max(1, (opened.num_frames_estimate or most) // most)
    return [thinned(nearest_labels(frame)[0]) for frame in islice(opened.frames(), 0, None, every)]


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
