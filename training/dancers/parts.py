"""The 24 DensePose parts on the body mesh, and how to make exact part ids look like a detector's.

A part is one half of a region (below): its front or back, or the left or right half of the head. The regions
come from the skinning weights, the halves from smoothed normals in the rest pose. Ids and names are those of
DensePose's charts; 0 is background.
"""

import cv2
import numpy as np

SIDES = ("L", "R")
# region -> (part id where the side test is negative, where it is positive)
_PARTS = {
    "torso": (1, 2),  # back, front
    "head": (24, 23),  # left half, right half
    "hand.R": (3, 3),
    "hand.L": (4, 4),
    "foot.L": (5, 5),
    "foot.R": (6, 6),
    "upper_leg.R": (7, 9),  # legs: back, front
    "upper_leg.L": (8, 10),
    "lower_leg.R": (11, 13),
    "lower_leg.L": (12, 14),
    "upper_arm.L": (17, 15),  # arms: back/outer, front/inner
    "upper_arm.R": (18, 16),
    "lower_arm.L": (21, 19),
    "lower_arm.R": (22, 20),
}
REGIONS = tuple(_PARTS)
PART_TABLE = np.array(list(_PARTS.values()), np.uint8)
"""(14, 2) uint8: part id of each region for a negative and a positive side test."""

_BONE_PREFIXES = {
    "upperleg": "upper_leg",
    "lowerleg": "lower_leg",
    "foot": "foot",
    "toe": "foot",
    "upperarm": "upper_arm",
    "lowerarm": "lower_arm",
    "wrist": "hand",
    "finger": "hand",
    "metacarpal": "hand",
}
# How far the arm's front/inner half is turned from "towards
# the body" (0) to "forward" (1); measured on real clips.
_ARM_FORWARD = {"upper_arm": 0.5, "lower_arm": 0.12}


def region_of_bone(name: str) -> str:
    """The region that a bone such as `lowerarm01.L` belongs to."""
    for prefix, region in _BONE_PREFIXES.items():
        if name.startswith(prefix):
            return f"{region}.{name[-1]}"
    return "head" if name.startswith(("neck", "head", "eye", "jaw", "tongue")) else "torso"


def smooth(values: np.ndarray, faces: np.ndarray, iterations: int) -> np.ndarray:
    """Laplacian smoothing of per-vertex values (V, C) along the edges of faces (F, 3)."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    edges = np.concatenate([edges, edges[:, ::-1]])
    count = np.maximum(np.bincount(edges[:, 0], minlength=len(values)), 1)
    for _ in range(iterations):
        sums = [np.bincount(edges[:, 0], column[edges[:, 1]], minlength=len(values)) for column in values.T]
        # Half of the way to the neighbours' mean, which cannot oscillate.
        values = 0.5 * values + 0.5 * np.stack(sums, 1) / count[:, None]
    return values


def region_sides(rest: np.ndarray, normals: np.ndarray, joints: dict[str, np.ndarray]) -> np.ndarray:
    """For each region which half a vertex is in, by the sign, float32 (V, 14).

    Args:
        rest: vertices in the rest pose, (V, 3).
        normals: their smoothed normals, (V, 3).
        joints: bone name -> position, (3,).
    """
    sides = np.repeat(-normals[:, 1:2], len(REGIONS), 1)
    sides[:, REGIONS.index("head")] = -rest[:, 0]
    for s in SIDES:
        for region, start, end in (
            ("upper_arm", f"upperarm01.{s}", f"lowerarm01.{s}"),
            ("lower_arm", f"lowerarm01.{s}", f"wrist.{s}"),
        ):
            axis = joints[end] - joints[start]
            axis = axis / np.linalg.norm(axis)
            forward, inward = np.array([0, -1.0, 0]), np.array([-1.0 if s == "L" else 1.0, 0, 0])
            # Only the components across the arm matter for which half of it a point is on.
            forward, inward = (d - (d @ axis) * axis for d in (forward, inward))
            k = _ARM_FORWARD[region]
            direction = k * forward / np.linalg.norm(forward) + np.sqrt(1 - k * k) * inward / np.linalg.norm(
                inward
            )
            sides[:, REGIONS.index(f"{region}.{s}")] = normals @ direction
    return sides.astype(np.float32)


def wobble(rng: np.random.Generator, size: int, amplitude: float) -> tuple[np.ndarray, np.ndarray]:
    """A smooth random displacement as `cv2.remap` maps, float32 (size, size) each; amplitude in pixels."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    shift = rng.normal(0, amplitude, (18, 18, 2)).astype(np.float32)
    # Cubic, from a coarse grid, so that neighbouring pixels move alike.
    shift = cv2.resize(shift, (size, size), interpolation=cv2.INTER_CUBIC)
    return x + shift[..., 0], y + shift[..., 1]


def soften(ids: np.ndarray, sigma: float, displacement: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Make exact part ids, uint8 (H, W), look detected: displaced, rounded, slightly grown.

    The mask of each id is blurred by `sigma` pixels, and the strongest wins; the background counts a little
    less.
    """
    ids = cv2.remap(ids, *displacement, interpolation=cv2.INTER_NEAREST)
    best, out = np.zeros(ids.shape, np.float32), np.zeros_like(ids)
    for part in np.unique(ids):
        strength = cv2.GaussianBlur((ids == part).astype(np.float32), (0, 0), sigma)
        if part == 0:
            strength *= 0.8
        wins = strength > best
        out[wins], best[wins] = part, strength[wins]
    return out
