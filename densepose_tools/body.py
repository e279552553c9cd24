"""The limbs of a body in a part map, and how long and wide they are.

A body is a tree of limbs that hang on one another by joints.

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
    """A limb: its name, its labels in DensePose's numbering, and the limb on which it hangs."""

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
"""In the order in which they are drawn, arms over the rest."""

_LEAST_PIXELS = 12

_BEHIND_ARMS = ("torso", "thigh")
_ARMS = (3, 4, *range(15, 23))

_SPECK_NEIGHBOURS = 3
"""A pixel with fewer neighbours of its limb is a speck, such as compression leaves, and is left out."""

_LONG = 0.9
"""A limb is as long as it is in this share of frames at most: in the others it points at the camera."""

_REACHES = 4
"""Steps of two pixels in which a limb is looked for around another: detectors leave gaps."""

_SAMPLES = 60


@dataclass(frozen=True)
class Segment:
    """A limb in one picture.

    Attributes:
        joint: where it hangs on the limb above, float64 (2,).
        axis: unit vector from there along it, float64 (2,).
        length, width: pixels along and across.
    """

    joint: np.ndarray
    axis: np.ndarray
    length: float
    width: float


@dataclass(frozen=True)
class Build:
    """The build of a body.

    Attributes:
        pelvis: where it stands, float64 (2,): the torso's joint in the first picture that has one.
        sizes: name of limb -> length and width in pixels, of those that were seen.
    """

    pelvis: np.ndarray
    sizes: dict[str, tuple[float, float]]


def segments(labels: np.ndarray) -> dict[str, Segment]:
    """The limbs of a part map of one person, uint8 (H, W), that are large enough to measure."""
    masks = {limb.name: alone(labels, limb) > 0 for limb in LIMBS}
    found = {}
    for limb in LIMBS:
        pixels = _points(masks[limb.name])
        if len(pixels) < _LEAST_PIXELS:
            continue
        if limb.parent is None:
            below = masks["right thigh"] | masks["left thigh"]
            joint = _contact(masks[limb.name], below)
            joint = np.array([pixels[:, 0].mean(), pixels[:, 1].max()]) if joint is None else joint
        else:
            joint = _contact(masks[limb.name], masks[limb.parent])
            if joint is None:
                continue
        along = pixels.mean(axis=0) - joint
        distance = float(np.hypot(*along))
        axis = along / distance if distance > 0.5 else np.array([0.0, 1.0])
        length = max(1.0, float(np.quantile((pixels - joint) @ axis, 0.98)) + 0.5)
        found[limb.name] = Segment(joint, axis, length, len(pixels) / length)
    for side in ("right", "left"):
        arm, forearm = (found.get(f"{side} {name}") for name in ("upper arm", "forearm"))
        if arm is not None and forearm is not None:
            pixels = _points(masks[f"{side} upper arm"])
            found[f"{side} upper arm"] = _from_shoulder(pixels, forearm.joint)
    return found


def _from_shoulder(pixels: np.ndarray, elbow: np.ndarray) -> Segment:
    """An upper arm from its shoulder, the end away from the elbow, float64 (n, 2).

    Where an arm hangs along the torso the middle of what touches the torso is halfway down the arm, and the
    arm would seem to lead sideways from there.
    """
    distance = np.hypot(*(pixels - elbow).T)
    shoulder = pixels[distance >= np.quantile(distance, 0.9)].mean(axis=0)
    length = max(1.0, float(np.hypot(*(elbow - shoulder))))
    axis = (elbow - shoulder) / length if length > 1.0 else np.array([0.0, 1.0])
    return Segment(shoulder, axis, length, len(pixels) / length)


def measure_build(maps: Iterable[np.ndarray]) -> Build:
    """The build of the person in part maps, uint8 (H, W); left and right limbs count as alike.

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
    """The sampling interval, in frames, that suffices to measure the build in a clip of ``count`` frames."""
    return max(1, count // _SAMPLES)


def alone(labels: np.ndarray, limb: Limb) -> np.ndarray:
    """A limb by itself, uint8 (H, W): without specks, and whole where an arm passes in front of it."""
    mask = np.isin(labels, limb.labels)
    mask &= neighbours(mask) >= _SPECK_NEIGHBOURS
    single = np.where(mask, labels, 0)
    if not limb.name.endswith(_BEHIND_ARMS):
        return single
    arms = np.isin(labels, _ARMS)
    for axis in (0, 1):
        seen = np.moveaxis(mask, axis, 0)
        before = np.maximum.accumulate(seen, axis=0)
        behind = np.maximum.accumulate(seen[::-1], axis=0)[::-1]
        index = np.maximum.accumulate(np.where(seen, np.arange(len(seen))[:, None], 0), axis=0)
        nearest = np.take_along_axis(np.moveaxis(labels, axis, 0), index, axis=0)
        hidden = before & behind & np.moveaxis(arms, axis, 0)
        target = np.moveaxis(single, axis, 0)
        np.copyto(target, nearest, where=hidden & (target == 0))
    return single


def neighbours(mask: np.ndarray) -> np.ndarray:
    """How many of the eight pixels around each of a mask (H, W) are set."""
    padded = np.pad(mask.astype(np.uint8), 1)
    height, width = mask.shape
    around = (padded[dy : dy + height, dx : dx + width] for dy, dx in product(range(3), repeat=2))
    return sum(around) - mask


def either_side(pairs: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Limbs as they are in ``Build.sizes``, left and right, which are alike there, under one name."""
    return {_either(name): pair for name, pair in pairs.items()}


def _either(name: str) -> str:
    return name.removeprefix("left ").removeprefix("right ")


def _points(mask: np.ndarray) -> np.ndarray:
    """Pixels of a mask as x, y, float64 (n, 2)."""
    rows, columns = np.nonzero(mask)
    return np.stack([columns, rows], axis=1).astype(np.float64)


def _contact(mask: np.ndarray, other: np.ndarray) -> np.ndarray | None:
    """Middle of the pixels of a mask that lie beside another, ``None`` if the two are far apart."""
    near = other
    for _ in range(_REACHES):
        near = _grown(near)
        touching = _points(mask & near)
        if len(touching):
            return touching.mean(axis=0)
    return None


def _grown(mask: np.ndarray) -> np.ndarray:
    """A mask and the two pixels around it."""
    for axis in (0, 1):
        grown = mask.copy()
        for shift in (1, 2):
            start, end = ([slice(None)] * 2 for _ in range(2))
            start[axis], end[axis] = slice(shift, None), slice(None, -shift)
            grown[tuple(start)] |= mask[tuple(end)]
            grown[tuple(end)] |= mask[tuple(start)]
        mask = grown
    return mask
