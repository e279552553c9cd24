"""Where people are cut out: a mask for each frame, and the matte that says where exactly they end.

A mask is made of the part maps or read from a file. It has three levels: 255 is certainly a person and 0
certainly not; 128, around the part map, may be hair or clothes, which is decided by the generated frame. As a
file it is a clip like any other, a folder of png frames or a lossless video, so that any program can draw
one. Strokes of a brush change it for a range of frames.

Frames of the networks show about the plate around the people, so the difference from it tells where they end
(difference matting), within a band around their part map. The matte is smoothed along the frame's own edges
by a guided filter: He et al. 2010, "Guided Image Filtering".

Letters in shape comments: ``H W`` pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from magicanimate.errors import InputError
from magicanimate.media.fit import same_shape
from magicanimate.palette import nearest_labels

if TYPE_CHECKING:
    from magicanimate.config import AnimationRequest, Frames, MediaLimits
    from magicanimate.media.prepare import FrameStore, PreparedMedia

PERSON, MAYBE, NOBODY = 255, 128, 0
"""Levels of a mask."""

# Share of the longer side by which hair and clothes may exceed the part map, which shows bare bodies.
_BAND = 0.03

SMALLEST_DIFFERENCE = 25.0
"""Grey levels from the plate below which nothing counts as a person, whatever the networks' own error."""

_SHADOW = (0.6, 1.1)  # brightness, relative to the plate's, that a shadow or a reflection may have
_SHADOW_COUNTS = 0.25  # weight of a change of brightness alone in the difference from the plate
# A difference of this many times the networks' own error on the plate is certainly a person.
_SURE_FACTOR = 4.0
# The guided filter's epsilon, for colours of 0 to 1: edges weaker than its root are smoothed over.
_SMOOTHNESS = 1e-3
_MOST_CORRECTION = 24.0  # largest correction of a frame's colours, grey levels


class Masks:
    """The mask of each frame of a result, uint8 ``H W``, made on access.

    It is made of the part maps ``control``, uint8 ``H W 3`` each, or taken from the masks that are given,
    uint8 ``H W 3`` with three equal channels.
    """

    def __init__(self, control: Frames, given: Frames | None = None):
        self._control, self._given = control, given

    def __len__(self) -> int:
        return len(self._control)

    def __getitem__(self, number: int) -> np.ndarray:
        if self._given is not None:
            return self._given[number][..., 0]
        return mask_of(nearest_labels(self._control[number])[0])


@dataclass(frozen=True)
class Stroke:
    """One stroke of a brush; lengths are shares of the picture, so that they suit any size."""

    points: tuple[tuple[float, float], ...]  # where it goes, shares of width and height
    radius: float  # of the brush, as a share of the longer side
    adds: bool  # whether it adds to the people or takes away from them
    first: int  # frames that it changes, from 0, both included
    last: int

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Stroke:
        """From JSON with the names of the attributes.

        Raises:
            InputError: it is none.
        """
        try:
            points = tuple((float(x), float(y)) for x, y in given["points"])
            numbers = (float(given["radius"]), int(given["first"]), int(given["last"]))
            stroke = cls(points, numbers[0], bool(given["adds"]), *numbers[1:])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError("That is no stroke of a brush; draw it again.") from error
        flat = np.array([*np.ravel(points), stroke.radius])
        if not points or len(points) > 10_000 or not (np.abs(flat) <= 2).all() or stroke.radius <= 0:
            raise InputError("The stroke lies outside of the picture; draw it again.")
        return stroke

    def on(self, mask: np.ndarray) -> np.ndarray:
        """A mask, uint8 ``H W``, with the stroke on it, whatever its frame."""
        import cv2

        height, width = mask.shape
        # Strokes are kept as shares, since the page shows the picture at another size.
        places = np.rint(np.array(self.points) * (width - 1, height - 1)).astype(np.int32)
        radius = max(1, round(self.radius * max(width, height)))
        level = PERSON if self.adds else NOBODY
        painted = np.ascontiguousarray(mask)
        painted = cv2.polylines(painted.copy(), [places], False, level, 2 * radius)
        for end in places[[0, -1]]:  # a single point is a dot
            painted = cv2.circle(painted, end.tolist(), radius, level, -1)
        return painted


def mask_of(parts: np.ndarray) -> np.ndarray:
    """The mask of a part map, uint8 ``H W``: bodies for sure, and a band around them."""
    body = parts > 0
    return np.where(body, PERSON, np.where(grown(body, band_of(parts)), MAYBE, NOBODY)).astype(np.uint8)


def band_of(frame: np.ndarray) -> int:
    """Pixels around a part map in which people may reach beyond it."""
    return max(2, round(_BAND * max(frame.shape[:2])))


def grown(mask: np.ndarray, by: int) -> np.ndarray:
    """A mask, bool ``H W``, with so many pixels more around it; fewer where ``by`` is negative."""
    import cv2

    if by == 0 or not mask.any():
        return mask
    reach = 2 * abs(by) + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    change = cv2.dilate if by > 0 else cv2.erode
    return change(mask.astype(np.uint8), disc).astype(bool)


def shown(picture: np.ndarray, mask: np.ndarray, grow: int, feather: float = 0.0) -> np.ndarray:
    """A mask over a picture, uint8 ``H W 3``.

    Red is cut out for sure, softened as the cut will be; the yellow line bounds the band in
    which hair and clothes are found.
    """
    import cv2

    sure: np.ndarray = grown(mask == PERSON, grow).astype(np.float32)
    reach = grown(mask > NOBODY, grow)
    if feather:
        sure = cv2.GaussianBlur(sure, (0, 0), feather)
    red = np.array((254, 0, 0), np.float32)
    drawn = np.rint(picture + 0.5 * sure[..., None] * (red - picture)).astype(np.uint8)
    drawn[reach & ~grown(reach, -1)] = (255, 220, 0)
    return drawn


@contextmanager
def masks_of(request: AnimationRequest, media: PreparedMedia) -> Iterator[Masks]:
    """Where people are cut out of each frame: as the part maps say, or the request's own mask."""
    if request.mask is None:
        yield Masks(media.control)
        return
    width, height = request.size
    size = {"count": media.num_frames, "width": width, "height": height}
    with read_masks(request.mask, limits=request.limits, **size) as given:
        yield Masks(media.control, given)


def read_masks(
    path: Path, *, count: int, width: int, height: int, limits: MediaLimits | None = None
) -> FrameStore:
    """Masks of a folder of frames or a video at the size of a result, uint8 ``H W 3`` on disk.

    Greys may be a little off, as after compression; another size of the same shape is scaled.

    Raises:
        InputError: it cannot be read, or is of another clip.
    """
    import cv2

    from magicanimate.config import MediaLimits
    from magicanimate.media.motion import open_motion
    from magicanimate.media.prepare import FrameStore

    clip = open_motion(path, limits=limits or MediaLimits())
    store = FrameStore(width, height)
    try:
        with closing(clip.frames()) as frames:
            for frame in frames:
                small = cv2.resize(frame[..., 1], (width, height), interpolation=cv2.INTER_NEAREST)
                # Compression and painting programs do not keep the three levels exactly.
                levels = np.array((NOBODY, MAYBE, PERSON), np.uint8)[(small > 63) * 1 + (small > 191)]
                store.append(np.repeat(levels[..., None], 3, -1))
                # One frame too many is enough to refuse the mask; the rest need not be read.
                if len(store) > count:
                    break
        if not same_shape((clip.width, clip.height), (width, height)) or len(store) != count:
            found = max(len(store), clip.num_frames_estimate or 0)
            raise InputError(
                f"The mask {path} has {found} frames of {clip.width}x{clip.height} and the result {count} of "
                f"{width}x{height}; save one with the same settings (--save-mask)."
            )
    except BaseException:
        store.close()
        raise
    return store


def write_masks(path: Path, masks: Iterable[np.ndarray], *, size: tuple[int, int], rate: Fraction) -> None:
    """Write masks, uint8 ``H W`` each, as a lossless .mp4 or, without a suffix, a folder of png frames.

    Raises:
        InputError: it cannot be written.
    """
    from magicanimate.media.writer import VideoWriter

    width, height = size
    with VideoWriter(path, width=width, height=height, fps=rate, lossless=True) as out:
        for mask in masks:
            out.write(np.repeat(mask[..., None], 3, -1))


def painted(masks: Iterable[np.ndarray], stroke: Stroke) -> Iterator[np.ndarray]:
    """Yield the masks of a clip, uint8 ``H W``, with the stroke on those of its range."""
    for number, mask in enumerate(masks):
        yield stroke.on(mask) if stroke.first <= number <= stroke.last else mask


def cut_out(
    frame: np.ndarray, plate: np.ndarray, mask: np.ndarray, *, grow: int = 0, feather: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """The matte of one frame, as the networks made it, and the people's own colours.

    Args:
        frame, plate: the picture and what is behind the people, uint8 ``H W 3``.
        mask: of the people in it, uint8 ``H W``.
        grow: pixels by which they are cut out wider, or narrower below 0.
        feather: softness of the edge, pixels (standard deviation).

    Returns:
        Alpha 0..1, float32 ``H W``, and colours, float32 ``H W 3``, from which the plate is taken out.
    """
    import cv2

    band = band_of(frame)
    body = grown(mask == PERSON, grow)
    near = grown(mask > NOBODY, grow)
    far = grown(near, band)
    frame, plate = frame.astype(np.float32), plate.astype(np.float32)
    elsewhere = ~far
    error = np.zeros(3, np.float32)
    if elsewhere.any():  # the networks' own colours differ a little from the plate's
        error = np.median((frame - plate)[elsewhere], axis=0)
        frame = frame - error.clip(-_MOST_CORRECTION, _MOST_CORRECTION)
    difference = cv2.blur(_difference(frame, plate), (3, 3))
    # Networks miss the plate a little everywhere; only what exceeds that is a person.
    usual = np.percentile(difference[elsewhere], 90) if elsewhere.any() else 0.0
    low = max(SMALLEST_DIFFERENCE, float(usual))
    person = ((difference - low) / ((_SURE_FACTOR - 1) * low)).clip(0, 1)
    core = grown(body, -max(1, band // 3))
    # The part map is sure of the inside of a body, the difference from the plate of its outline.
    likely = np.where(core, 1, np.where(body, np.maximum(person, 0.5), np.where(near, person, 0)))
    alpha = guided_filter(frame / 255, likely.astype(np.float32), max(1, band // 2), _SMOOTHNESS).clip(0, 1)
    alpha = np.where(far, np.where(core, 1, alpha), 0).astype(np.float32)
    if feather:
        alpha = cv2.GaussianBlur(alpha, (0, 0), feather)
    # frame = alpha * people + (1 - alpha) * plate, solved for the people where alpha says enough of them.
    people = (frame - (1 - alpha[..., None]) * plate) / np.maximum(alpha, 0.25)[..., None]
    weight = np.where(alpha > 0.9, 1, 0).astype(np.float32)
    spread = cv2.GaussianBlur(weight, (0, 0), band) + 1e-4
    # Where alpha is small its quotient is noise, so colours come from the inside of the person.
    inner = cv2.GaussianBlur(frame * weight[..., None], (0, 0), band) / spread[..., None]
    trust = (alpha / 0.5).clip(0, 1)[..., None]
    return alpha, (trust * people.clip(0, 255) + (1 - trust) * inner).clip(0, 255)


def _difference(frame: np.ndarray, plate: np.ndarray) -> np.ndarray:
    """How much a frame differs from the plate, grey levels, float32 ``H W``, shadows counting less.

    Networks darken what is close to people. Taken for people, that becomes a dark rim; but it has the colour
    of the plate, only darker, so a change of brightness alone within `_SHADOW` is no person yet (the idea of
    shadow detection in Cucchiara et al. 2003, "Detecting Moving Objects, Ghosts, and Shadows").
    """
    lit = lit_as(frame, plate, within=_SHADOW)
    return np.abs(frame - lit).max(-1) + _SHADOW_COUNTS * np.abs(plate - lit).max(-1)


def lit_as(frame: np.ndarray, plate: np.ndarray, *, within: tuple[float, float]) -> np.ndarray:
    """The plate with the brightness that each pixel has in a frame, at least and at most ``within`` times its
    own; all float32 ``H W 3``, grey levels.
    """
    bright = _products(frame, plate) / np.maximum(_products(plate, plate), 1)
    return bright.clip(*within)[..., None] * plate


def guided_filter(guide: np.ndarray, values: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """Smooth ``values``, float32 ``H W``, but for the edges of ``guide``, float32 ``H W 3`` of 0..1.

    In every window of ``2 radius + 1`` pixels the result is a linear function of the guide's colours
    (He et al. 2010, equations 19 to 21).
    """
    import cv2

    def mean(array: np.ndarray) -> np.ndarray:
        flat = np.ascontiguousarray(array.reshape(*array.shape[:2], -1), np.float32)
        size = (2 * radius + 1, 2 * radius + 1)
        planes = [cv2.boxFilter(flat[..., i], -1, size) for i in range(flat.shape[-1])]
        return np.stack(planes, -1).reshape(array.shape)

    colour, value = mean(guide), mean(values)
    together = mean(guide * values[..., None]) - colour * value[..., None]  # H W 3
    spread = mean(guide[..., :, None] * guide[..., None, :]) - colour[..., :, None] * colour[..., None, :]
    slope = _solved(spread + epsilon * np.eye(3, dtype=np.float32), together)
    offset = value - _products(slope, colour)
    return _products(mean(slope), guide) + mean(offset)


def _solved(matrices: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Solve ``matrices @ x = values`` for each pixel, ``H W 3 3`` and ``H W 3`` -> ``H W 3``.

    By Cramer's rule, as LAPACK takes many times as long for so many systems of three equations.
    """
    first, second, third = np.moveaxis(matrices, -2, 0)  # rows
    cofactors = np.stack([np.cross(second, third), np.cross(third, first), np.cross(first, second)], -2)
    determinant = _products(first, cofactors[..., 0, :])
    return np.einsum("hwi,hwic->hwc", values, cofactors) / determinant[..., None]


def _products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Scalar products of the colours of two pictures, ``H W 3`` -> ``H W``; sums over short axes are slow."""
    return np.einsum("hwc,hwc->hw", a, b)


def photo_matte(photo: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Alpha of the people in the photo, float32 ``H W``; nothing is known of what is behind them."""
    band = band_of(photo)
    body = parts > 0
    alpha = guided_filter(photo.astype(np.float32) / 255, body.astype(np.float32), band, _SMOOTHNESS)
    # The filter blurs outwards as well; this makes the edge as narrow as hair.
    alpha = ((alpha - 0.2) / 0.6).clip(0, 1)
    core = grown(body, -max(1, band // 3))
    return np.where(core, 1, np.where(grown(body, band), alpha, 0)).astype(np.float32)


def with_own_edges(photo: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The photo, float32 ``H W 3``, in which the people's colours go on beyond their edge."""
    import cv2

    band = band_of(photo)
    photo = photo.astype(np.float32)
    sure = (alpha > 0.95).astype(np.float32)
    spread = cv2.GaussianBlur(sure, (0, 0), band / 2) + 1e-4
    inner = cv2.GaussianBlur(photo * sure[..., None], (0, 0), band / 2) / spread[..., None]
    trust = ((alpha - 0.5) / 0.45).clip(0, 1)[..., None]
    return trust * photo + (1 - trust) * inner
