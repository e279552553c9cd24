"""The engine "mini": the small part segmenter in the place of DensePose, for the offline demo.

It labels whole pictures, so it knows one figure a picture, no scores and no coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from densepose_tools.people import Person
from densepose_tools.segmenter import LEAST_CERTAINTY, PartSegmenter
from magicanimate.device import pick_device

_SMALLEST_SHARE = 0.002
"""Of the picture; fewer pixels of body are noise."""


class MiniExtractor:
    """See ``densepose_tools.engine.Extractor``."""

    name = "mini"
    batch = 8

    def __init__(self, segmenter: PartSegmenter):
        self.segmenter = segmenter

    @classmethod
    def load(cls, folder: Path, *, device: str | None) -> MiniExtractor:
        """Load the part segmenter.

        Raises:
            InputError: the folder does not hold one.
        """
        segmenter = PartSegmenter.load(folder)
        segmenter.network.to(pick_device(device, "float32").name)
        return cls(segmenter)

    def people(self, frames: Sequence[np.ndarray]) -> list[list[Person]]:
        """See ``Extractor``."""
        found = zip(*self.segmenter.segment(np.stack(frames)), strict=True)
        return [_as_person(labels) if certainty >= LEAST_CERTAINTY else [] for labels, certainty in found]


def _as_person(labels: np.ndarray) -> list[Person]:
    """The figure of a part map, uint8 (H, W), in the box around it."""
    rows, columns = np.nonzero(labels)
    if len(rows) < _SMALLEST_SHARE * labels.size:
        return []
    top, left = int(rows.min()), int(columns.min())
    height, width = int(rows.max()) + 1 - top, int(columns.max()) + 1 - left
    box = (float(left), float(top), float(width), float(height))
    return [Person(box, 1.0, labels[top : top + height, left : left + width])]
