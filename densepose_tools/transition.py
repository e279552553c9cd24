"""Transitions between two poses: part maps that lead from a photo's own pose to the beginning of a dance.

The limbs rotate about their joints in the shorter direction and change length and width evenly; each joint
moves with its parent limb.

Letters in shape comments: ``H W`` pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from densepose_tools.body import LIMBS, Segment, segments
from densepose_tools.photo_people import count_people
from densepose_tools.retarget import Affine, draw_limb, without_pinholes
from densepose_tools.segmenter import parts_in_photo
from magicanimate.config import AnimationRequest
from magicanimate.errors import InputError
from magicanimate.palette import colourise, nearest_labels

if TYPE_CHECKING:
    from magicanimate.media.prepare import PreparedMedia

_LEAST_OF_LARGEST = 0.2
"""Smallest size of a piece of a limb relative to its largest one; smaller ones are specks."""


def led_from_photo(request: AnimationRequest, media: PreparedMedia) -> PreparedMedia:
    """Insert the request's number of frames before the motion, leading to it from the photo's own pose.

    Raises:
        InputError: see `transition`, or the motion is drawn keypoints, too.
    """
    from magicanimate.media.prepare import with_lead_in

    if media.keypoints is not None:
        raise InputError(
            "Keypoints cannot be led from the photo's pose to the clip's; leave --start-from-photo out."
        )
    poses = parts_in_photo(media.photo), nearest_labels(media.control[0])[0]
    return with_lead_in(media, map(colourise, transition(*poses, request.start_from_photo)))


def transition(first: np.ndarray, last: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """Yield ``count`` part maps, uint8 ``H W``, beginning with ``first`` and ending just before ``last``.

    The movement starts and ends slowly. In its first half the limbs of the first map are drawn, then those of
    the last.

    Args:
        first, last: part maps of one person, of the same size, uint8 ``H W``.
        count: number of maps, 1 or more.

    Raises:
        InputError: one of the maps shows no torso, or several people.
    """
    found = []
    # Specks would be measured as limbs.
    first, last = _without_specks(first), _without_specks(last)
    for what, labels in (("photo", first), ("first frame of the motion clip", last)):
        limbs = segments(labels)
        if "torso" not in limbs:
            raise InputError(
                f"No torso is recognised in the {what}, so its pose cannot be led from the photo's to the "
                "clip's; leave --start-from-photo out."
            )
        if count_people(labels) > 1:
            raise InputError(
                f"There are several people in the {what}, and only one can be led from the photo's pose to "
                "the clip's; leave --start-from-photo out."
            )
        found.append(limbs)
    for number in range(count):
        share = number / count
        # Smoothstep: the dance takes over without a jerk.
        share = share * share * (3 - 2 * share)
        yield _between(first if share < 0.5 else last, *found, share)


def _without_specks(labels: np.ndarray) -> np.ndarray:
    """Keep only the large pieces of each limb: compression leaves specks at the borders of parts."""
    import cv2

    kept = np.zeros_like(labels)
    for limb in LIMBS:
        mask = np.isin(labels, limb.labels).astype(np.uint8)
        count, pieces, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
        areas = stats[1:count, cv2.CC_STAT_AREA]
        if len(areas):
            large = 1 + np.flatnonzero(areas >= _LEAST_OF_LARGEST * areas.max())
            np.copyto(kept, labels, where=np.isin(pieces, large))
    return kept


def _between(
    source: np.ndarray, before: dict[str, Segment], after: dict[str, Segment], share: float
) -> np.ndarray:
    """The limbs of ``source`` in a pose between ``before`` and ``after``, at ``share`` of the way."""
    own = before if share < 0.5 else after
    drawn = np.zeros_like(source)
    carried: dict[str, Affine] = {}
    for limb in LIMBS:
        above = carried.get(limb.parent or "")
        if limb.name not in before or limb.name not in after:
            if above is None:
                continue
            affine = above  # it goes along with the limb above
        else:
            one, other, mine = before[limb.name], after[limb.name], own[limb.name]
            # From the drawn limb's own size to the size in between.
            stretch = (
                _ratio(one.length, other.length, share) / mine.length,
                _ratio(one.width, other.width, share) / mine.width,
            )
            if limb.parent is None:
                # Only the root moves freely; every other joint is carried along.
                place = (1 - share) * one.joint + share * other.joint
            elif above is not None:
                place = above.apply(mine.joint)
            else:
                continue
            affine = Affine.around(mine, place, stretch, _turned(one.axis, other.axis, share))
        carried[limb.name] = affine
        draw_limb(drawn, source, limb, affine)
    return without_pinholes(drawn)


def _ratio(one: float, other: float, share: float) -> float:
    """Interpolate geometrically between two sizes, so that they change by equal factors."""
    return float(one ** (1 - share) * other**share)


def _turned(one: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """Interpolate between two directions, the shorter way round."""
    start = np.arctan2(one[1], one[0])
    # Wrapped to -pi..pi, the shorter of the two ways.
    turn = (np.arctan2(other[1], other[0]) - start + np.pi) % (2 * np.pi) - np.pi
    return np.array([np.cos(start + share * turn), np.sin(start + share * turn)])
