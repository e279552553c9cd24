"""Retargeting of part maps: gives the dancer a photo's person's position, size and proportions.

Every limb is stretched along and across its own axis, around its joint, and the joint moves with its parent
limb. The angles, which are the dance, stay the same.

Letters in shape comments: ``H W`` pixels. Points are x, y in pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from densepose_tools.body import LIMBS, Build, Limb, Segment, limb_labels, neighbours, segments
from magicanimate.errors import InputError

_TOLD_APART = 1.3
"""Largest factor by which a limb may grow or shrink relative to the whole body: more is due to the view."""

_SHAPES = ("head", "hand", "foot")
"""Limbs that look different from every side keep their aspect ratio; hands and feet scale with the body."""

_HOLE_NEIGHBOURS = 5


def retargeted(
    maps: Iterable[np.ndarray], dancer: Build, reference: Build, *, width: int, height: int
) -> Iterator[np.ndarray]:
    """Redraw the dancer's part maps with the reference's build and position.

    Args:
        maps: part maps of one person, uint8 (H, W).
        dancer: the build of this person.
        reference: the wanted build, in pixels of the result.
        width, height: size of the result.

    Yields:
        uint8 (height, width).
    """
    stretch = stretches(dancer, reference)
    overall = stretch["torso"][0]
    for labels in maps:
        drawn = np.zeros((height, width), dtype=np.uint8)
        found = segments(labels)
        carried: dict[str, Affine] = {}
        for limb in LIMBS:
            segment, above = found.get(limb.name), carried.get(limb.parent or "")
            if segment is None:
                if above is not None:  # too small to measure: it goes along with the limb above
                    carried[limb.name] = above
                    draw_limb(drawn, labels, limb, above)
                continue
            if limb.parent is None:
                # Steps of the whole body scale with its size.
                place = reference.pelvis + overall * (segment.joint - dancer.pelvis)
            elif above is None:
                continue
            else:
                place = above.apply(segment.joint)
            carried[limb.name] = Affine.around(segment, place, stretch[limb.name])
            draw_limb(drawn, labels, limb, carried[limb.name])
        yield without_pinholes(drawn)


def stretches(dancer: Build, reference: Build) -> dict[str, tuple[float, float]]:
    """The factors from a dancer's limbs to a reference's: name of a limb -> factors along and across it.

    Limbs that are not visible in both scale with the whole body.

    Raises:
        InputError: one of them has no torso.
    """
    both = [name for name in dancer.sizes if name in reference.sizes]
    ratios = np.array([np.divide(reference.sizes[name], dancer.sizes[name]) for name in both])
    if "torso" not in both:
        raise InputError("No torso is seen, so the build cannot be told; choose a picture of the whole body.")
    # The median limb stands for the whole body: single limbs may be hidden or foreshortened.
    usual = np.median(ratios, axis=0)
    ratios = np.clip(ratios, usual / _TOLD_APART, usual * _TOLD_APART)
    size = float(np.sqrt(usual.prod()))
    stretches = {}
    for limb in LIMBS:
        along, across = ratios[both.index(limb.name)] if limb.name in both else usual
        # One factor for both directions.
        if limb.name.endswith(_SHAPES):
            along = across = float(np.sqrt(along * across)) if limb.name == "head" else size
        stretches[limb.name] = (float(along), float(across))
    return stretches


@dataclass(frozen=True)
class Affine:
    """The affine map of a limb's points: q = place + matrix (p - joint)."""

    joint: np.ndarray
    place: np.ndarray
    matrix: np.ndarray

    @classmethod
    def around(
        cls,
        segment: Segment,
        place: np.ndarray,
        stretch: tuple[float, float],
        axis: np.ndarray | None = None,
    ) -> Affine:
        """The map that stretches a segment along and across its axis, and moves its joint to ``place``.

        With ``axis``, a unit vector, it also rotates the segment into that direction.
        """
        before, after = (
            # The rotation from the limb's own axes, along and across, to those of the image.
            np.stack([along, [-along[1], along[0]]], axis=1)
            for along in (segment.axis, segment.axis if axis is None else axis)
        )
        return cls(segment.joint, place, after @ np.diag(stretch) @ before.T)

    def apply(self, points: np.ndarray) -> np.ndarray:
        return self.place + (points - self.joint) @ self.matrix.T

    def undo(self, points: np.ndarray) -> np.ndarray:
        return self.joint + (points - self.place) @ np.linalg.inv(self.matrix).T


def draw_limb(drawn: np.ndarray, labels: np.ndarray, limb: Limb, affine: Affine) -> None:
    """Draw one limb of ``labels`` into ``drawn``, both uint8 (H, W), transformed by ``affine``."""
    single = limb_labels(labels, limb)
    mask = single > 0
    if not mask.any():
        return
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    (x0, x1), (y0, y1) = columns[[0, -1]] + (-0.5, 0.5), rows[[0, -1]] + (-0.5, 0.5)
    corners = affine.apply(np.array([(x0, y0), (x1, y0), (x0, y1), (x1, y1)]))
    # Only the limb's own bounding box is computed, clipped to the image.
    low = np.clip(np.floor(corners.min(axis=0)), 0, (drawn.shape[1], drawn.shape[0])).astype(int)
    high = np.clip(np.ceil(corners.max(axis=0)) + 1, 0, (drawn.shape[1], drawn.shape[0])).astype(int)
    if (high <= low).any():
        return
    y, x = np.mgrid[low[1] : high[1], low[0] : high[0]]
    # Backwards, from every target pixel to its source, so
    # that no gaps appear; nearest neighbour keeps labels.
    source = np.rint(affine.undo(np.stack([x, y], axis=-1).reshape(-1, 2))).astype(int)
    inside = ((source >= 0) & (source < (labels.shape[1], labels.shape[0]))).all(axis=1)
    source = np.clip(source, 0, (labels.shape[1] - 1, labels.shape[0] - 1))
    hit = (inside & mask[source[:, 1], source[:, 0]]).reshape(y.shape)
    found = single[source[:, 1], source[:, 0]].reshape(y.shape)
    target = drawn[low[1] : high[1], low[0] : high[0]]
    np.copyto(target, found, where=hit)


def without_pinholes(labels: np.ndarray) -> np.ndarray:
    """Fill gaps of a pixel or two at the joints of a part map, uint8 (H, W), with a neighbouring label."""
    height, width = labels.shape
    for _ in range(2):
        padded = np.pad(labels, 1)
        beside = np.zeros_like(labels)
        for dy, dx in product(range(3), repeat=2):
            np.maximum(beside, padded[dy : dy + height, dx : dx + width], out=beside)
        hole = (labels == 0) & (neighbours(labels > 0) >= _HOLE_NEIGHBOURS)
        labels = np.where(hole, beside, labels)
    return labels
