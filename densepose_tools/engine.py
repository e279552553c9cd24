"""The interface of all engines that find people and their body parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from densepose_tools.people import Person
from magicanimate.errors import InputError

PUBLISHED_MIN_SCORE = 0.05
"""What the tool that made the published motion clips leaves in; it draws much that is nobody."""


@dataclass(frozen=True)
class Selection:
    """Which of the people found an extractor reports.

    Attributes:
        min_score: people less sure than this are left out, 0.05..1; ``PUBLISHED_MIN_SCORE`` is as published.
        max_people: the surest so many of a picture are kept, 1..100.
        margin: sides of a box that cut off the body move out by this share of the box, 0..0.5. As published,
            boxes stay as they are found: 0.
    """

    min_score: float = 0.5
    max_people: int = 100
    margin: float = 0.0

    def __post_init__(self) -> None:
        if not PUBLISHED_MIN_SCORE <= self.min_score < 1:
            raise InputError(
                f"The score threshold is {self.min_score}; give a number from {PUBLISHED_MIN_SCORE} (as "
                "published) to below 1."
            )
        if not 1 <= self.max_people <= 100:
            raise InputError(f"The most people are {self.max_people}; give a number from 1 to 100.")
        if not 0 <= self.margin <= 0.5:
            raise InputError(f"The margin is {self.margin}; give a share of the box from 0 to 0.5.")


class Extractor(Protocol):
    """Finds people and their parts in pictures.

    Attributes:
        name: "detectron2", "torch" or "mini".
        batch: how many pictures to give at once.
    """

    name: str
    batch: int

    def people(self, frames: Sequence[np.ndarray]) -> list[list[Person]]:
        """People of each picture, surest first; pictures are RGB uint8 (H, W, 3), all of one size."""
