"""Clips of figures in negative colours, and an extractor that finds them, so that every result is known."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from densepose_tools.extraction import extract
from densepose_tools.output import Output
from densepose_tools.people import Person
from magicanimate.media.motion import open_motion
from magicanimate.palette import colourise, nearest_labels
from tests.media_files import part_labels, write_output

SETTINGS = {"engine": "test", "min_score": 0.5}


class NegativeReader:
    """An extractor for clips of ``negatives``; counts what it is given and can be slow."""

    name = "test"

    def __init__(self, *, batch: int = 3, seconds: float = 0.0):
        self.batch, self.seconds = batch, seconds
        self.seen = 0

    def people(self, frames):
        time.sleep(self.seconds)
        self.seen += len(frames)
        return [self._people(frame) for frame in frames]

    def _people(self, frame):
        labels, distance = nearest_labels(255 - frame)
        labels[distance > 60] = 0
        rows, columns = np.nonzero(labels)
        if len(rows) < 20:
            return []
        top, left, bottom, right = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
        found = labels[top:bottom, left:right]
        box = (left + 0.25, top + 0.25, right - left + 0.5, bottom - top + 0.5)
        coordinates = np.stack([found, 255 - found])
        return [Person(tuple(float(number) for number in box), 0.75, found, coordinates)]


def figures(count: int, *, width: int = 64, height: int = 64, empty=()) -> list[np.ndarray]:
    """Part maps, labels uint8 (height, width), of a swaying figure that is away in some frames."""
    return [
        np.zeros((height, width), dtype=np.uint8)
        if k in empty
        else part_labels(width=width, height=height, shift=round(12 * np.sin(k / 2)))
        for k in range(count)
    ]


def negative_clip(path: Path, labels, **options) -> Path:
    """A clip of negatives, saved without loss."""
    return write_output(path, [255 - colourise(frame) for frame in labels], lossless=True, **options)


def frames_of(path: Path) -> list[np.ndarray]:
    return list(open_motion(path).frames())


def run(clip: Path, out: Path, *, reader=None, settings=SETTINGS, **options):
    output = Output(out, options.pop("archive", out.with_suffix(".npz")), **options.pop("output", {}))
    return extract(open_motion(clip), reader or NegativeReader(), output, settings=settings, **options)
