"""A rough first guess of the frames: the photo, each segment of its body moved to where the pose has it.

A small network that begins with noise has to draw every pixel of clothes and faces anew from the tokens that
it attends to. Begun with the photo's own pixels, roughly in place, it only has to mend what is turned, bent,
hidden or missing. That latents of a picture take the place of the noise is how one-step image translation
begins: Parmar et al. 2024, "One-Step Image Translation with Text-to-Image Models". None of this is the
paper's. A checkpoint has to be trained for it, as its ``first_latents`` say; the sampling loop does not know.

Letters in shape comments: ``H W`` pixels, ``S`` segments and the background, which is number 0.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from magicanimate.palette import FLIP_PERMUTATION, MEETING_PARTS, nearest_labels

if TYPE_CHECKING:
    from magicanimate.config import Frames

# Parts that move as one: torso, hands, feet, thighs, shins, upper arms, forearms, head; front with back.
_SEGMENTS: tuple[tuple[int, ...], ...] = (
    *((1, 2), (3,), (4,), (5,), (6,), (7, 9), (8, 10), (11, 13), (12, 14)),
    *((15, 17), (16, 18), (19, 21), (20, 22), (23, 24)),
)
_COUNT = len(_SEGMENTS) + 1
_SEGMENT_OF = np.zeros(25, np.int64)
for _number, _parts in enumerate(_SEGMENTS, 1):
    _SEGMENT_OF[list(_parts)] = _number
# The same segment on the other side of the body; torso and head are their own.
_TWIN = np.array([0, *(_SEGMENT_OF[FLIP_PERMUTATION[parts[0]]] for parts in _SEGMENTS)])
# Whether two segments meet at a joint. Thighs touch each other, but that is none.
_JOINTS = np.zeros((_COUNT, _COUNT), bool)
for _one, _other in (_SEGMENT_OF[list(pair)] for pair in MEETING_PARTS):
    _JOINTS[_one, _other] = _JOINTS[_other, _one] = _one != _other and _TWIN[_one] != _other

_FEWEST = 12  # pixels of a segment, or of where two meet, below which they say nothing
_REACH = 0.012  # share of the longer side by which two segments may be apart and still meet
_THREAD = 0.004  # half the width of a thread between two parts, as a share of the longer side
_BAND = 0.02  # share of the longer side by which hair and clothes exceed the part map
_FAR_LOOK = 4.0  # sigma of the blur in which frames are compared, pixels of a frame of 256
_ALIKE = 50.0  # RGB distance up to which two blurred pixels look alike
# Shares of a segment that the photo shows from the same side: up to the first it counts as turned away, and
# from the second on as not turned.
_TURNED = (0.35, 0.8)
_BORDER = 0.008  # share of the longer side by which outlines of a photo's segments are off
_LEAST_CORE = 0.3  # share of a segment that must be left without its border
_SMALLEST_PERSON = 0.15  # share of the largest person's pixels; smaller pieces of a part map are nobody
_CLOSE = 0.08  # share of the longer side: so close to a person, a piece without a torso belongs to them
_TORSO = (1, 2)
_STRETCH = 2.5  # a segment is not stretched by more than this beyond its change of scale


@dataclass(frozen=True)
class _Body:
    """Where the segments of a part map are; points are (x, y) in pixels."""

    labels: np.ndarray  # uint8 ``H W``
    segments: np.ndarray  # of each pixel, int64 ``H W``
    count: np.ndarray  # pixels of each segment, ``S``
    centre: np.ndarray  # ``S 2``
    spread: np.ndarray  # covariance of its pixels, ``S 2 2``
    joints: np.ndarray  # where two segments meet, ``S S 2``; NaN where they do not

    @classmethod
    def of(cls, labels: np.ndarray) -> _Body:
        """The body in a part map, uint8 ``H W``."""
        segments = _SEGMENT_OF[labels]
        y, x = (axis.ravel().astype(float) for axis in np.indices(labels.shape))
        count = _sums(segments, np.ones_like(x), _COUNT)
        some = np.maximum(count, 1)
        centre = np.stack([_sums(segments, axis, _COUNT) / some for axis in (x, y)], 1)
        products = [_sums(segments, p, _COUNT) / some for p in (x * x, x * y, y * y)]
        xx, xy, yy = (
            p - centre[:, i] * centre[:, j]
            for p, (i, j) in zip(products, ((0, 0), (0, 1), (1, 1)), strict=True)
        )
        # A pixel has a size, too; so that no segment is thinner than nothing.
        spread = np.stack([xx + 0.5, xy, xy, yy + 0.5], 1).reshape(-1, 2, 2)
        return cls(labels, segments, count, centre, spread, _meetings(segments))


def _cleaned(labels: np.ndarray) -> np.ndarray:
    """A part map without threads between its parts.

    Where the colours of two parts are mixed, in a video or a smaller picture, they are those of a third one.
    """
    import cv2

    side = 2 * round(_THREAD * max(labels.shape)) + 1
    kernel, kept = np.ones((side, side), np.uint8), np.zeros_like(labels)
    for part in np.unique(labels[labels > 0]):
        kept[cv2.morphologyEx((labels == part).astype(np.uint8), cv2.MORPH_OPEN, kernel) > 0] = part
    lost = (labels > 0) & (kept == 0)
    if kept.any() and lost.any():
        column, row = _nearest_within(kept > 0)[lost].astype(int).T
        kept[lost] = kept[row, column]
    return kept


def _sums(of: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Sum of the values of each number in ``of``."""
    return np.bincount(of.ravel(), values.ravel(), count)


def _meetings(segments: np.ndarray) -> np.ndarray:
    """Where two segments meet, ``S S 2``; NaN where they do not."""
    total = np.zeros((_COUNT * _COUNT, 3))
    reach = max(1, round(_REACH * max(segments.shape)))
    for axis in (0, 1):
        length = segments.shape[axis]
        here = segments.take(range(length - reach), axis)
        there = segments.take(range(reach, length), axis)
        place = np.argwhere(_JOINTS[here, there])
        code = here[tuple(place.T)] * _COUNT + there[tuple(place.T)]
        middle = place[:, ::-1] + reach / 2 * np.eye(2)[1 - axis]
        total += np.stack([np.bincount(code, w, _COUNT * _COUNT) for w in (*middle.T, np.ones(len(code)))], 1)
    sums = total.reshape(_COUNT, _COUNT, 3)
    sums = sums + sums.transpose(1, 0, 2)  # in whatever order they lie
    return sums[..., :2] / np.where(sums[..., 2:] >= _FEWEST, sums[..., 2:], np.nan)


@dataclass(frozen=True)
class Warped:
    """A photo in another pose."""

    frame: np.ndarray  # uint8 ``H W 3``
    trust: np.ndarray  # how surely the photo shows what the pose has there, 0 to 1, ``H W``


def people_apart(parts: np.ndarray) -> list[np.ndarray]:
    """The part map of each person, from left to right, with heads and limbs that seem cut off close by."""
    import cv2

    # Closes the thin gaps that compression leaves between parts of one body.
    body = cv2.dilate((parts > 0).astype(np.uint8), np.ones((3, 3), np.uint8))
    count, pieces, boxes, centres = cv2.connectedComponentsWithStats(body)
    areas = boxes[:, cv2.CC_STAT_AREA]
    # A hand or a head alone is no dancer, but a part of one whose rest is hidden.
    with_torso = set(np.unique(pieces[np.isin(parts, _TORSO)]).tolist()) or set(range(1, count))
    people = [
        i for i in range(1, count) if i in with_torso and areas[i] >= _SMALLEST_PERSON * areas[1:].max()
    ]
    people.sort(key=lambda i: centres[i][0])
    owner = np.arange(count)
    far = {i: cv2.distanceTransform((pieces != i).astype(np.uint8), cv2.DIST_L2, 3) for i in people}
    for piece in set(range(1, count)) - set(people):
        near, nearest = min((far[i][pieces == piece].min(), i) for i in people)
        owner[piece] = nearest if near <= _CLOSE * max(parts.shape) else 0
    owners = owner[pieces]
    return [np.where(owners == i, parts, 0).astype(parts.dtype) for i in people]


def _people(labels: np.ndarray, count: int) -> list[np.ndarray]:
    """The part map of each person in a pose, from left to right, if somebody is in the photo.

    Where fewer than its ``count`` people are apart, since they touch, each torso takes the pixels around it.
    """
    import cv2

    people = people_apart(labels) if count else []
    if len(people) >= count:
        return people
    torsos = np.isin(labels, _TORSO)
    _, pieces, boxes, centres = cv2.connectedComponentsWithStats(torsos.astype(np.uint8))
    areas = boxes[:, cv2.CC_STAT_AREA]
    large = [i for i in range(1, len(areas)) if areas[i] >= _SMALLEST_PERSON * areas[1:].max()]
    if len(large) != count:
        return people
    large.sort(key=lambda i: centres[i][0])
    column, row = np.moveaxis(_nearest_within(np.isin(pieces, large)).astype(int), -1, 0)
    return [np.where(pieces[row, column] == i, labels, 0).astype(labels.dtype) for i in large]


class PhotoWarp:
    """Moves the segments of one photo to the places of a pose.

    With several people in both, they are paired from left to right.

    Args:
        photo: uint8 ``H W 3``.
        labels: its part ids, uint8, of any size with the photo's shape; as a segmenter finds them.
    """

    def __init__(self, photo: np.ndarray, labels: np.ndarray):
        import cv2

        height, width = photo.shape[:2]
        labels = _cleaned(cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST))
        self._photo = photo
        self._people = [_Person(_Body.of(each)) for each in people_apart(labels)]
        # What the people hide gets the colours around them; a margin goes with them, as hair and clothes do.
        margin = 2 * round(_BAND * max(height, width)) + 1
        hidden = cv2.dilate((labels > 0).astype(np.uint8), np.ones((margin, margin), np.uint8)) > 0
        self._behind = filled_smoothly(photo.astype(np.float32), hidden).round().astype(np.uint8)
        # The colour of what the photo does not show of anyone.
        self._unseen = photo[labels > 0].mean(0).astype(np.uint8) if self._people else photo[0, 0]

    def __call__(self, labels: np.ndarray) -> Warped:
        """The photo's people in the pose of a part map, uint8 ``H W``."""
        import cv2

        frame, trust = self._behind.copy(), np.zeros(labels.shape, np.float32)
        poses = _people(_cleaned(labels), len(self._people))
        # With as many people, or one for all, it is known who is who; else some are merged or hidden.
        known = len(self._people) in (1, len(poses))
        for number, each in enumerate(poses):
            pose, person = _Body.of(each), self._people[number % len(self._people)]
            y, x = np.nonzero(pose.segments)
            places, found, same = person.places(pose, y, x)
            maps = np.zeros((2, *labels.shape), np.float32)
            maps[:, y, x] = places.T
            drawn = cv2.remap(
                self._photo, maps[0], maps[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
            )
            frame[y, x] = np.where(found[:, None], drawn[y, x], self._unseen)
            if known:
                trust += _trust(pose, y, x, same)
        return Warped(frame, trust)


class _Person:
    """One of the photo's people, of whom pixels are taken."""

    def __init__(self, body: _Body):
        self.body = body
        seen = [s for s in range(1, _COUNT) if body.count[s] >= _FEWEST]
        cores = {s: _core(body.segments == s) for s in seen}
        self._core = sum((s * core for s, core in cores.items()), np.zeros_like(body.segments))
        self._nearest = {s: _nearest_within(core) for s, core in cores.items()}

    def places(self, pose: _Body, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where the photo shows what a pose has at the pixels ``y``, ``x``, ``N`` each.

        Returns:
            Places (x, y) in the photo, ``N 2``; whether it shows that segment at all, bool ``N``; and whether
            it shows the same part of it there, from the same side, bool ``N``.
        """
        photo, sources, matrices = self.body, *self._moves(pose)
        segment = pose.segments[y, x]
        source = sources[segment]
        place = np.stack([x, y], 1) - pose.centre[segment]
        place = np.einsum("nij,nj->ni", matrices[segment], place) + photo.centre[source]
        # Places outside of the segment take its nearest pixel, so that nothing else comes along.
        limit = np.array(photo.labels.shape[::-1]) - 1
        column, row = place.round().astype(int).clip(0, limit).T
        lost = (self._core[row, column] != source) & (source > 0)
        for each in np.unique(source[lost]):
            those = lost & (source == each)
            place[those] = self._nearest[each][row[those], column[those]]
        column, row = place.round().astype(int).clip(0, limit).T
        labels = pose.labels[y, x]
        wanted = np.where(source == segment, labels, FLIP_PERMUTATION[labels])
        return place, source > 0, (source > 0) & (photo.labels[row, column] == wanted)

    def _moves(self, pose: _Body) -> tuple[np.ndarray, np.ndarray]:
        """Of each segment of a pose its source in the photo, 0 for none, ``S``, and its matrix, ``S 2 2``."""
        sources, matrices = np.zeros(_COUNT, np.int64), np.zeros((_COUNT, 2, 2))
        for segment in range(1, _COUNT):
            found = [s for s in (segment, _TWIN[segment]) if s in self._nearest]
            if pose.count[segment] and found:
                sources[segment] = found[0]
                matrices[segment] = self._matrix(pose, segment, found[0])
        return sources, matrices

    def _matrix(self, pose: _Body, segment: Any, source: Any) -> np.ndarray:
        """How a segment of the pose is to be turned and stretched to lie on its source in the photo, ``2 2``.

        The joints that both have say how it is turned, and the spread of its pixels how it is stretched: the
        symmetric map that takes one normal distribution to the other is the optimal transport between them.
        """
        photo = self.body
        arms = pose.joints[segment] - pose.centre[segment]
        partners = np.arange(_COUNT) if source == segment else _TWIN
        source_arms = photo.joints[source][partners] - photo.centre[source]
        both = np.isfinite(arms[:, 0]) & np.isfinite(source_arms[:, 0])
        one, other = (v[both] @ [1, 1j] for v in (arms, source_arms))
        angle = np.angle(np.vdot(one, other)) if both.any() else 0.0
        cos, sin = np.cos(angle), np.sin(angle)
        turn = np.array([[cos, -sin], [sin, cos]])
        turned = _root(turn @ pose.spread[segment] @ turn.T)
        inverse = np.linalg.inv(turned)
        stretch = inverse @ _root(turned @ photo.spread[source] @ turned) @ inverse
        values, vectors = np.linalg.eigh(stretch)
        scale = np.sqrt(values.prod())
        return vectors * values.clip(scale / _STRETCH, scale * _STRETCH) @ vectors.T @ turn


def _root(matrix: np.ndarray) -> np.ndarray:
    """Square root of a symmetric positive matrix, ``2 2``."""
    values, vectors = np.linalg.eigh(matrix)
    return vectors * np.sqrt(values.clip(1e-6)) @ vectors.T


def _trust(pose: _Body, y: np.ndarray, x: np.ndarray, same: np.ndarray) -> np.ndarray:
    """How surely the photo shows what the pose has, 0 to 1, ``H W``, from where it does, bool ``N``."""
    import cv2

    there = np.zeros(pose.labels.shape, np.uint8)
    there[y, x] = same
    # A segment of which the photo hides much is turned, so that the rest of it is not right either.
    share = _sums(pose.segments, there.astype(float), _COUNT) / np.maximum(pose.count, 1)
    facing = ((share - _TURNED[0]) / (_TURNED[1] - _TURNED[0])).clip(0, 1)
    facing[0] = 0
    # Between two halves of a head, or where two parts meet, it is no matter by how much the line is off.
    side = 2 * round(_REACH * max(there.shape)) + 1
    closed = cv2.morphologyEx(there, cv2.MORPH_CLOSE, np.ones((side, side), np.uint8))
    return (closed * facing[pose.segments]).astype(np.float32)


def _core(mask: np.ndarray) -> np.ndarray:
    """A mask, bool ``H W``, without its border, where segmenters are wrong and colours are mixed."""
    import cv2

    for share in (_BORDER, _THREAD):
        side = 2 * round(share * max(mask.shape)) + 1
        core = cv2.erode(mask.astype(np.uint8), np.ones((side, side), np.uint8)) > 0
        if core.sum() > _LEAST_CORE * mask.sum():
            return core
    return mask


def _nearest_within(mask: np.ndarray) -> np.ndarray:
    """The place (x, y) of each pixel's nearest pixel in a mask, bool ``H W`` -> float32 ``H W 2``."""
    import cv2

    outside = (~mask).astype(np.uint8)
    _, cells = cv2.distanceTransformWithLabels(outside, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    y, x = np.nonzero(mask)
    places = np.zeros((cells.max() + 1, 2), np.float32)
    places[cells[y, x]] = np.stack([x, y], 1)
    return places[cells]


def filled_smoothly(picture: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """A picture, float32 ``H W 3``, whose ``hidden`` pixels, bool ``H W``, have the colours around them.

    The farther they are from what is known, the more of it is averaged. Inpainting would prolong every edge
    that ends at a person into a stripe as long as the person is wide.

    Source: the pyramid of Gortler et al. 1996, "The Lumigraph", section 3.4.2 (pull-push).
    """
    return _pulled_and_pushed(picture, (~hidden).astype(np.float32))


def _pulled_and_pushed(picture: np.ndarray, known: np.ndarray) -> np.ndarray:
    """A picture ``H W 3`` filled where it is not ``known``, ``H W`` from 0 to 1, from its own halves."""
    import cv2

    height, width = known.shape
    if min(height, width) < 2:
        return np.broadcast_to(
            (picture * known[..., None]).sum((0, 1)) / max(known.sum(), 1e-6), picture.shape
        )
    seen = cv2.pyrDown(known)
    half = cv2.pyrDown(picture * known[..., None]) / np.maximum(seen, 1e-6)[..., None]
    # A pixel of the half is trusted when a quarter of it is known.
    coarse = _pulled_and_pushed(half, (4 * seen).clip(0, 1))
    return known[..., None] * picture + (1 - known[..., None]) * cv2.pyrUp(coarse, dstsize=(width, height))


class WarpedPhoto:
    """The warped photo for each frame of a clip, uint8 ``H W 3``, made on access.

    Args:
        photo, labels: as in `PhotoWarp`.
        control: DensePose frames of the photo's size.
    """

    def __init__(self, photo: np.ndarray, labels: np.ndarray, control: Frames):
        self._warp, self._control = PhotoWarp(photo, labels), control

    def __len__(self) -> int:
        return len(self._control)

    def __getitem__(self, number: Any) -> np.ndarray:
        return self.warped(number).frame

    def warped(self, number: int) -> Warped:
        """A frame, and where it can be trusted."""
        return self._warp(nearest_labels(self._control[number])[0])


def with_photo_detail(frames: Iterable[np.ndarray], warped: WarpedPhoto) -> Generator[np.ndarray]:
    """Yield generated frames, uint8 ``H W 3``, with the photo's own pixels where both agree.

    The networks say what is where, but blur it; the warped photo is sharp, but wrong where the body has
    turned. Where the two look alike from a little farther away, and the photo shows the part from this side,
    its pixels are taken.
    """
    import cv2

    for number, frame in enumerate(frames):
        made, photo = frame.astype(np.float32), warped.warped(number)
        moved = photo.frame.astype(np.float32)
        sigma = _FAR_LOOK * max(frame.shape) / 256
        smooth = [cv2.GaussianBlur(each, (0, 0), sigma) for each in (made, moved)]
        apart = np.square(smooth[0] - smooth[1]).sum(-1) / _ALIKE**2
        trust = cv2.GaussianBlur(photo.trust.astype(np.float32), (0, 0), sigma / 3)[..., None]
        yield (made + trust * np.exp(-apart)[..., None] * (moved - made)).round().astype(np.uint8)
