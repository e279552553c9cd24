"""Lead from one pose to another: part maps between two, so that a dance can begin at a photo's own pose.

The limbs turn about their joints by the shorter way and change length and width evenly; each joint goes where
the limb above has carried it.

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
"""Of a limb's largest piece in pixels; smaller pieces are specks."""


def led_from_photo(request: AnimationRequest, media: PreparedMedia) -> PreparedMedia:
    """The media with the request's number of frames before the motion, led to it from the photo's own pose.

    Raises:
        InputError: see `transition`, or the motion is drawn keypoints, too.
    """
    from magicanimate.media.prepare import led_in

    if media.keypoints is not None:
        raise InputError(
            "Keypoints cannot be led from the photo's pose to the clip's; leave --start-from-photo out."
        )
    poses = parts_in_photo(media.photo), nearest_labels(media.control[0])[0]
    return led_in(media, map(colourise, transition(*poses, request.start_from_photo)))


def transition(first: np.ndarray, last: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """Yield ``count`` part maps, uint8 ``H W``, from ``first`` up to before ``last``.

    The movement begins and ends slowly. Up to its middle the first map's limbs are drawn, then the last's.

    Args:
        first, last: of one person, of one size, uint8 ``H W``.
        count: 1 or more.

    Raises:
        InputError: one of them shows no torso, or several people.
    """
    found = []
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
        share = share * share * (3 - 2 * share)
        yield _between(first if share < 0.5 else last, *found, share)


def _without_specks(labels: np.ndarray) -> np.ndarray:
    """A part map with only the large pieces of each limb; compression leaves others at borders of parts."""
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
    """One map: the limbs of ``source`` in the pose ``share`` of the way from ``before`` to ``after``."""
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
            stretch = (
                _ratio(one.length, other.length, share) / mine.length,
                _ratio(one.width, other.width, share) / mine.width,
            )
            if limb.parent is None:
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
    """Between two sizes, by equal factors."""
    return float(one ** (1 - share) * other**share)


def _turned(one: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """Between two directions, by the shorter way round."""
    start = np.arctan2(one[1], one[0])
    turn = (np.arctan2(other[1], other[0]) - start + np.pi) % (2 * np.pi) - np.pi
    return np.array([np.cos(start + share * turn), np.sin(start + share * turn)])
