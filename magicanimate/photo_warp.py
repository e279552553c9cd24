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
_ALIKE = 40.0  # RGB distance up to which two blurred pixels look alike
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
        labels = _cleaned(labels)
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
    trust: np.ndarray  # whether the photo shows the very part that the pose has there, bool ``H W``


class PhotoWarp:
    """Moves the segments of one photo to the places of a pose.

    Args:
        photo: uint8 ``H W 3``.
        labels: its part ids, uint8, of any size with the photo's shape; as a segmenter finds them.
    """

    def __init__(self, photo: np.ndarray, labels: np.ndarray):
        import cv2

        height, width = photo.shape[:2]
        labels = cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST)
        self._photo, self._body = photo, _Body.of(labels)
        # What the people hide gets the colours around them; a margin goes with them, as hair and clothes do.
        margin = 2 * round(_BAND * max(height, width)) + 1
        people = (labels > 0).astype(np.uint8)
        hidden = cv2.dilate(people, np.ones((margin, margin), np.uint8)) > 0
        self._behind = filled_smoothly(photo.astype(np.float32), hidden).round().astype(np.uint8)
        # The colour of what the photo does not show of anyone.
        self._unseen = photo[labels > 0].mean(0).astype(np.uint8) if people.any() else None
        seen = np.flatnonzero(self._body.count >= _FEWEST)
        self._nearest = {s: _nearest_within(_core(self._body.segments == s)) for s in seen if s}

    def __call__(self, labels: np.ndarray) -> Warped:
        """The photo's people in the pose of a part map, uint8 ``H W``."""
        import cv2

        pose, photo, frame = _Body.of(labels), self._body, self._behind.copy()
        sources, matrices = self._moves(pose)
        trust = np.zeros(frame.shape[:2], bool)
        y, x = np.nonzero(pose.segments)
        segment = pose.segments[y, x]
        source = sources[segment]
        if self._unseen is not None:
            frame[y[source == 0], x[source == 0]] = self._unseen
        y, x, segment, source = (each[source > 0] for each in (y, x, segment, source))
        place = np.stack([x, y], 1) - pose.centre[segment]
        place = np.einsum("nij,nj->ni", matrices[segment], place) + photo.centre[source]
        # Places outside of the segment take its nearest pixel, so that no background comes along.
        limit = np.array([frame.shape[1], frame.shape[0]]) - 1
        column, row = place.round().astype(int).clip(0, limit).T
        lost = photo.segments[row, column] != source
        for each in np.unique(source[lost]):
            those = lost & (source == each)
            place[those] = self._nearest[each][row[those], column[those]]
        column, row = place.round().astype(int).clip(0, limit).T
        wanted = np.where(source == segment, labels[y, x], FLIP_PERMUTATION[labels[y, x]])
        trust[y, x] = photo.labels[row, column] == wanted
        # Between two halves of a head, or where two parts meet, it is no matter by how much the line is off.
        side = 2 * round(_REACH * max(trust.shape)) + 1
        closed = cv2.morphologyEx(trust.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((side, side), np.uint8))
        trust = (closed > 0) & (sources[pose.segments] > 0)
        places = np.zeros((2, *trust.shape), np.float32)
        places[:, y, x] = place.T
        drawn = cv2.remap(
            self._photo, places[0], places[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        frame[y, x] = drawn[y, x]
        return Warped(frame, trust)

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
        photo = self._body
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


def _core(mask: np.ndarray) -> np.ndarray:
    """A mask, bool ``H W``, without its outermost pixels, which are half of what is behind."""
    import cv2

    core = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return core if core.any() else mask


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
    turned. Where the two look alike from a little farther away, the photo's pixels are taken, and elsewhere
    only their finest detail; nothing of parts that the photo does not show from this side.
    """
    import cv2

    for number, frame in enumerate(frames):
        made, photo = frame.astype(np.float32), warped.warped(number)
        moved = photo.frame.astype(np.float32)
        sigma = _FAR_LOOK * max(frame.shape) / 256
        smooth = [cv2.GaussianBlur(each, (0, 0), sigma) for each in (made, moved)]
        apart = np.square(smooth[0] - smooth[1]).sum(-1) / _ALIKE**2
        trust = cv2.GaussianBlur(photo.trust.astype(np.float32), (0, 0), sigma / 3)[..., None]
        alike = np.exp(-apart)[..., None]
        detail = alike * (moved - made) + (1 - alike) * (moved - smooth[1])
        yield (made + trust * detail).clip(0, 255).round().astype(np.uint8)
