"""Metrics by body part: whether part maps agree, and whether the parts kept their colours.

Letters in shape comments: ``F`` frames, ``H W`` pixels, ``P`` labels.
"""

from __future__ import annotations

import numpy as np

_RGB_TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
_WHITE = _RGB_TO_XYZ.sum(1)  # D65, as RGB (1, 1, 1) gives it
MIN_PIXELS = 8
NUM_LABELS = 25  # DensePose's parts and the background


def srgb_to_lab(rgb: np.ndarray) -> np.ndarray:
    """sRGB, uint8 ``... 3`` -> CIELAB, float64 ``... 3`` (L in 0..100, a, b), with the white point D65.

    Sources: IEC 61966-2-1 (transfer curve, matrix) and CIE 15 (L*a*b*).
    """
    codes = np.arange(256) / 255
    # A table of all 256 codes, indexed by the image.
    linear = np.where(codes <= 0.04045, codes / 12.92, ((codes + 0.055) / 1.055) ** 2.4)[rgb]
    ratio = linear @ _RGB_TO_XYZ.T / _WHITE
    small = (6 / 29) ** 3
    f = np.where(ratio > small, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def delta_e(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """CIEDE2000 difference of CIELAB colours ``... 3`` -> ``...``; about 1 is just visible.

    Source: Sharma, Wu, Dalal, "The CIEDE2000 Color-Difference Formula" (Color Research and Application 2005),
    equations 2 to 22, with all parametric factors 1.
    """
    (l1, a1, b1), (l2, a2, b2) = (np.moveaxis(np.asarray(c, np.float64), -1, 0) for c in (first, second))
    # Equations 2 to 7: a* is stretched for greys, then chroma and hue follow.
    chroma = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    stretch = 1.5 - 0.5 * np.sqrt(chroma**7 / (chroma**7 + 25.0**7))
    a1, a2 = a1 * stretch, a2 * stretch
    c1, c2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = (np.degrees(np.arctan2(b, a)) % 360 for a, b in ((a1, b1), (a2, b2)))

    grey = c1 * c2 == 0
    # Equations 8 to 11; a grey has no hue.
    turn = np.where(grey, 0, (h2 - h1 + 180) % 360 - 180)
    d_light, d_chroma = l2 - l1, c2 - c1
    d_hue = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn) / 2)

    # Equations 12 to 14: means, of the hue the one on the shorter way round.
    light, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    hue = np.where(grey, h1 + h2, (h1 + h2) / 2 + np.where(np.abs(h1 - h2) > 180, 180, 0)) % 360
    # Equations 15 to 22, each of them where it is needed.
    t = (
        1
        - 0.17 * np.cos(np.radians(hue - 30))
        + 0.24 * np.cos(np.radians(2 * hue))
        + 0.32 * np.cos(np.radians(3 * hue + 6))
        - 0.20 * np.cos(np.radians(4 * hue - 63))
    )
    s_light = 1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2)
    s_chroma, s_hue = 1 + 0.045 * chroma, 1 + 0.015 * chroma * t
    rotation = 2 * np.sqrt(chroma**7 / (chroma**7 + 25.0**7))
    rotation = -rotation * np.sin(np.radians(60 * np.exp(-(((hue - 275) / 25) ** 2))))
    light, chroma, hue = d_light / s_light, d_chroma / s_chroma, d_hue / s_hue
    return np.sqrt(np.maximum(light**2 + chroma**2 + hue**2 + rotation * chroma * hue, 0))


def part_colours(video: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Mean CIELAB colour of each part in each frame, float64 ``F P 3``; NaN for background and tiny parts.

    Args:
        video: uint8 ``F H W 3``.
        parts: part ids, ``F H W``.
    """
    colours = np.full((len(video), NUM_LABELS, 3), np.nan)
    for f, (frame, labels) in enumerate(zip(video, parts, strict=True)):
        lab = srgb_to_lab(frame)
        for part in np.unique(labels[labels > 0]):
            pixels = lab[labels == part]
            if len(pixels) >= MIN_PIXELS:
                colours[f, part] = pixels.mean(0)
    return colours


def identity_difference(truth: np.ndarray, result: np.ndarray) -> float:
    """Mean CIEDE2000 difference of the colours of the parts that both show; smaller is better.

    Args:
        truth: `part_colours` of the truth, ``F P 3``, or of the photo, ``1 P 3``, for all frames.
        result: `part_colours` of the result, ``F P 3``.

    Returns:
        The mean over parts of each part's mean over frames; NaN if they have no part in common.
    """
    differences = delta_e(np.broadcast_to(truth, result.shape), result)  # F P
    seen = np.isfinite(differences)
    counts = seen.sum(0)
    means = np.where(seen, differences, 0).sum(0)[counts > 0] / counts[counts > 0]
    return float(means.mean()) if means.size else float("nan")


class PartCounts:
    """A confusion matrix of labels, accumulated over any number of maps.

    Attributes:
        confusion: numbers of pixels, int64 (labels, labels); the row is the true label, the column the found
            one.
    """

    def __init__(self, num_labels: int):
        self.confusion = np.zeros((num_labels, num_labels), np.int64)

    def add(self, truth: np.ndarray, found: np.ndarray) -> None:
        """Count the pixels of two maps of labels, integers of the same shape.

        Raises:
            ValueError: the shapes differ or a label is out of range.
        """
        if truth.shape != found.shape:
            raise ValueError(f"maps {truth.shape} and {found.shape} differ in shape")
        count = len(self.confusion)
        if max(truth.max(initial=0), found.max(initial=0)) >= count:
            raise ValueError(f"a label is not in 0..{count - 1}")
        # One number per pair of labels, so that a single bincount makes the whole matrix.
        pairs = truth.astype(np.int64).ravel() * count + found.ravel()
        self.confusion += np.bincount(pairs, minlength=count * count).reshape(count, count)

    def iou(self) -> np.ndarray:
        """Intersection over union of each label, float64; NaN for labels that neither side has."""
        both = np.diag(self.confusion)
        either = self.confusion.sum(0) + self.confusion.sum(1) - both
        return np.where(either > 0, both / np.maximum(either, 1), np.nan)

    def mean_iou(self, labels: np.ndarray | None = None) -> float:
        """Mean IoU over the labels that occur, or over the given ones.

        Source: Everingham et al., "The PASCAL Visual Object Classes Challenge" (IJCV 2015), section 4.
        """
        values = self.iou() if labels is None else self.iou()[labels]
        return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")

    def accuracy(self) -> float:
        """The share of pixels with the right label."""
        return float(np.diag(self.confusion).sum() / max(1, self.confusion.sum()))


def pose_agreement(driving: np.ndarray, found: np.ndarray) -> float:
    """Mean IoU of the driving part maps' body parts over the clip: does the result follow the pose?

    A part that is only in ``found`` lowers the value through the pixels it takes from the others.

    Args:
        driving: part ids of the driving signal, ``F H W``; 0 is background, which is no part.
        found: part ids that a segmenter finds in the result, ``F H W``.

    Returns:
        0..1, NaN if the clip shows nobody.
    """
    counts = PartCounts(NUM_LABELS)
    counts.add(driving, found)
    present = np.flatnonzero(counts.confusion.sum(1))
    return counts.mean_iou(present[present > 0]) if (present > 0).any() else float("nan")
