"""Agreement of part maps.

Letters in shape comments: ``F`` frames, ``H W`` pixels.
"""

from __future__ import annotations

import numpy as np


class PartCounts:
    """Counts pixels by true and found label, over as many maps as are added.

    Attributes:
        confusion: int64 (labels, labels), row truth, column found.
    """

    def __init__(self, num_labels: int):
        self.confusion = np.zeros((num_labels, num_labels), np.int64)

    def add(self, truth: np.ndarray, found: np.ndarray) -> None:
        """Add maps of labels, integers of one shape.

        Raises:
            ValueError: the shapes differ or a label is out of range.
        """
        if truth.shape != found.shape:
            raise ValueError(f"maps {truth.shape} and {found.shape} differ in shape")
        count = len(self.confusion)
        if max(truth.max(initial=0), found.max(initial=0)) >= count:
            raise ValueError(f"a label is not in 0..{count - 1}")
        pairs = truth.astype(np.int64).ravel() * count + found.ravel()
        self.confusion += np.bincount(pairs, minlength=count * count).reshape(count, count)

    def iou(self) -> np.ndarray:
        """Intersection over union of each label, float64; NaN where neither side has it."""
        both = np.diag(self.confusion)
        either = self.confusion.sum(0) + self.confusion.sum(1) - both
        return np.where(either > 0, both / np.maximum(either, 1), np.nan)

    def mean_iou(self, labels: np.ndarray | None = None) -> float:
        """Mean IoU over the labels that occur, or over those of ``labels`` (indices).

        Source: Everingham et al., "The PASCAL Visual Object Classes Challenge" (IJCV 2015), section 4.
        """
        values = self.iou() if labels is None else self.iou()[labels]
        return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")

    def accuracy(self) -> float:
        """Share of pixels whose label is right."""
        return float(np.diag(self.confusion).sum() / max(1, self.confusion.sum()))


def pose_agreement(driving: np.ndarray, found: np.ndarray, *, num_labels: int = 25) -> float:
    """Mean IoU over the body parts present in the driving maps, counted over the whole clip.

    A part that is only in ``found`` lowers the score through the pixels it takes from the others.

    Args:
        driving: labels of the motion signal, ``F H W``; 0 is background and does not count as a part.
        found: labels that a segmenter finds in the result, ``F H W``.
        num_labels: with background.

    Returns:
        0..1, NaN if the clip shows nobody.
    """
    counts = PartCounts(num_labels)
    counts.add(driving, found)
    present = np.flatnonzero(counts.confusion.sum(1))
    return counts.mean_iou(present[present > 0]) if (present > 0).any() else float("nan")
