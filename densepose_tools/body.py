"""The limbs in a part map: where their joints are, and how long and wide they are.

A body is a tree of limbs, of which each is connected to its parent by a joint.

Letters in shape comments: ``H W`` pixels. Points are x, y in pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

from magicanimate.errors import InputError


@dataclass(frozen=True)
class Limb:
    """A limb: its name, its part ids in DensePose's numbering, and its parent limb."""

    name: str
    labels: tuple[int, ...]
    parent: str | None


LIMBS = (
    Limb("torso", (1, 2), None),
    Limb("right thigh", (7, 9), "torso"),
    Limb("left thigh", (8, 10), "torso"),
    Limb("right shank", (11, 13), "right thigh"),
    Limb("left shank", (12, 14), "left thigh"),
    Limb("right foot", (6,), "right shank"),
    Limb("left foot", (5,), "left shank"),
    Limb("head", (23, 24), "torso"),
    Limb("right upper arm", (16, 18), "torso"),
    Limb("left upper arm", (15, 17), "torso"),
    Limb("right forearm", (20, 22), "right upper arm"),
    Limb("left forearm", (19, 21), "left upper arm"),
    Limb("right hand", (3,), "right forearm"),
    Limb("left hand", (4,), "left forearm"),
)
"""All limbs, parents first, in the order in which they are drawn: arms over the rest."""

_LEAST_PIXELS = 12

_BEHIND_ARMS = ("torso", "thigh")
_ARMS = (3, 4, *range(15, 23))

_SPECK_NEIGHBOURS = 3
"""A pixel with fewer neighbours of its limb is a speck, as compression leaves them, and is ignored."""

_LONG = 0.9
"""Quantile of a limb's lengths over the frames that counts as its length: in many it points at the camera."""

_REACHES = 4
"""Steps of two pixels by which one limb is grown to find the contact with another: detectors leave gaps."""

_SAMPLES = 60
"""About how many frames of a clip the build is measured in."""


@dataclass(frozen=True)
class Segment:
    """A limb in one image.

    Attributes:
        joint: the joint with the parent limb, float64 (2,).
        axis: unit vector from the joint along the limb, float64 (2,).
        length, width: size along and across the axis, pixels.
    """

    joint: np.ndarray
    axis: np.ndarray
    length: float
    width: float


@dataclass(frozen=True)
class Build:
    """The position and proportions of a body.

    Attributes:
        pelvis: the torso's joint in the first image that has one, float64 (2,).
        sizes: name of a limb -> its length and width in pixels; only limbs that were seen.
    """

    pelvis: np.ndarray
    sizes: dict[str, tuple[float, float]]


def segments(labels: np.ndarray) -> dict[str, Segment]:
    """Measure the limbs in a part map of one person, uint8 (H, W); limbs that are too small are left out."""
    masks = {limb.name: limb_labels(labels, limb) > 0 for limb in LIMBS}
    found = {}
    for limb in LIMBS:
        pixels = _points(masks[limb.name])
        if len(pixels) < _LEAST_PIXELS:
            continue
        if limb.parent is None:
            # The root has no parent: its joint is the pelvis, where the thighs begin.
            below = masks["right thigh"] | masks["left thigh"]
            joint = _contact(masks[limb.name], below)
            # No thighs in the picture: the middle of its lower edge.
            joint = np.array([pixels[:, 0].mean(), pixels[:, 1].max()]) if joint is None else joint
        else:
            joint = _contact(masks[limb.name], masks[limb.parent])
            if joint is None:
                continue
        along = pixels.mean(axis=0) - joint
        distance = float(np.hypot(*along))
        # A limb seen end-on has no direction; it is taken to point down.
        axis = along / distance if distance > 0.5 else np.array([0.0, 1.0])
        # A quantile, as single pixels far out would make it longer.
        length = max(1.0, float(np.quantile((pixels - joint) @ axis, 0.98)) + 0.5)
        found[limb.name] = Segment(joint, axis, length, len(pixels) / length)
    for side in ("right", "left"):
        arm, forearm = (found.get(f"{side} {name}") for name in ("upper arm", "forearm"))
        if arm is not None and forearm is not None:
            pixels = _points(masks[f"{side} upper arm"])
            found[f"{side} upper arm"] = _from_shoulder(pixels, forearm.joint)
    return found


def _from_shoulder(pixels: np.ndarray, elbow: np.ndarray) -> Segment:
    """An upper arm, from its pixels (n, 2), that begins at the end away from the elbow.

    The contact with the torso does not do as a joint: where an arm hangs along the torso its middle is
    halfway down the arm, which would seem to lead sideways from there.
    """
    distance = np.hypot(*(pixels - elbow).T)
    shoulder = pixels[distance >= np.quantile(distance, 0.9)].mean(axis=0)
    length = max(1.0, float(np.hypot(*(elbow - shoulder))))
    axis = (elbow - shoulder) / length if length > 1.0 else np.array([0.0, 1.0])
    return Segment(shoulder, axis, length, len(pixels) / length)


def measure_build(maps: Iterable[np.ndarray]) -> Build:
    """Measure the build of the person in part maps, uint8 (H, W); left and right limbs are taken to be equal.

    Raises:
        InputError: no map shows a torso.
    """
    seen: dict[str, list[tuple[float, float]]] = {}
    pelvis = None
    for labels in maps:
        found = segments(labels)
        if pelvis is None and "torso" in found:
            pelvis = found["torso"].joint
        for name, segment in found.items():
            seen.setdefault(_either(name), []).append((segment.length, segment.width))
    if pelvis is None:
        raise InputError("No torso is seen, so the build cannot be told; choose a picture of the whole body.")
    # The length is a quantile, see _LONG; the width, which no view shortens, a median.
    sizes = {
        name: (
            float(np.quantile([length for length, _ in pairs], _LONG)),
            float(np.median([w for _, w in pairs])),
        )
        for name, pairs in seen.items()
    }
    return Build(
        pelvis, {limb.name: sizes[_either(limb.name)] for limb in LIMBS if _either(limb.name) in sizes}
    )


def sample_step(count: int) -> int:
    """Interval, in frames, at which a clip of ``count`` frames has to be sampled to measure the build."""
    return max(1, count // _SAMPLES)


def limb_labels(labels: np.ndarray, limb: Limb) -> np.ndarray:
    """Only a limb's labels, uint8 (H, W), without specks and completed where an arm hides it."""
    mask = np.isin(labels, limb.labels)
    mask &= neighbours(mask) >= _SPECK_NEIGHBOURS
    # Labels, not the mask: a limb has two of them, such as its front and back.
    single = np.where(mask, labels, 0)
    if not limb.name.endswith(_BEHIND_ARMS):
        return single
    arms = np.isin(labels, _ARMS)
    for axis in (0, 1):
        # Along rows and columns: an arm's pixel between two pixels of the limb hides the limb.
        seen = np.moveaxis(mask, axis, 0)
        before = np.maximum.accumulate(seen, axis=0)
        behind = np.maximum.accumulate(seen[::-1], axis=0)[::-1]
        # The last pixel of the limb before the arm gives the label.
        index = np.maximum.accumulate(np.where(seen, np.arange(len(seen))[:, None], 0), axis=0)
        nearest = np.take_along_axis(np.moveaxis(labels, axis, 0), index, axis=0)
        hidden = before & behind & np.moveaxis(arms, axis, 0)
        target = np.moveaxis(single, axis, 0)
        np.copyto(target, nearest, where=hidden & (target == 0))
    return single


def neighbours(mask: np.ndarray) -> np.ndarray:
    """For every pixel of a mask (H, W), how many of its eight neighbours are set."""
    # Nine shifted views: cheaper than a convolution, and no package for it.
    padded = np.pad(mask.astype(np.uint8), 1)
    height, width = mask.shape
    around = (padded[dy : dy + height, dx : dx + width] for dy, dx in product(range(3), repeat=2))
    return sum(around) - mask


def either_side(pairs: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Merge left and right limbs, which are equal in `Build.sizes`, under one name."""
    return {_either(name): pair for name, pair in pairs.items()}


def _either(name: str) -> str:
    return name.removeprefix("left ").removeprefix("right ")


def _points(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask as x and y, float64 (n, 2)."""
    rows, columns = np.nonzero(mask)
    return np.stack([columns, rows], axis=1).astype(np.float64)


def _contact(mask: np.ndarray, other: np.ndarray) -> np.ndarray | None:
    """The middle of those pixels of a mask that touch another mask, ``None`` if the two are far apart."""
    near = other
    for _ in range(_REACHES):
        near = _grown(near)
        touching = _points(mask & near)
        if len(touching):
            return touching.mean(axis=0)
    return None


def _grown(mask: np.ndarray) -> np.ndarray:
    """A mask, grown by two pixels."""
    for axis in (0, 1):
        grown = mask.copy()
        for shift in (1, 2):
            start, end = ([slice(None)] * 2 for _ in range(2))
            start[axis], end[axis] = slice(shift, None), slice(None, -shift)
            grown[tuple(start)] |= mask[tuple(end)]
            grown[tuple(end)] |= mask[tuple(start)]
        mask = grown
    return mask
