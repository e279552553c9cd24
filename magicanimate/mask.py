"""Where people are cut out: a mask for each frame, made of the part maps or read from a file.

A mask has three levels: 255 is certainly a person and 0 certainly not; 128, around the part map, may be hair
or clothes, which is decided by the generated frame. As a file it is a clip like any other, a folder of png
frames or a lossless video, so that any program can draw one. Strokes of a brush change it for a range of
frames.

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
    from magicanimate.config import AnimationRequest, MediaLimits
    from magicanimate.media.prepare import FrameStore, PreparedMedia
    from magicanimate.pipeline import Frames

PERSON, MAYBE, NOBODY = 255, 128, 0
"""Levels of a mask."""

# Share of the longer side by which hair and clothes may exceed the part map, which shows bare bodies.
_BAND = 0.03


class Masks:
    """The mask of each frame of a result, uint8 ``H W``, made on access.

    Args:
        control: part maps, uint8 ``H W 3`` each.
        given: masks that are used in place of theirs, uint8 ``H W 3`` with three equal channels.
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
    """One stroke of a brush; lengths are shares of the picture, so that they suit any size.

    Attributes:
        points: where it goes, shares of width and height.
        radius: of the brush, as a share of the longer side.
        adds: whether it adds to the people or takes away from them.
        first, last: frames that it changes, from 0, both included.
    """

    points: tuple[tuple[float, float], ...]
    radius: float
    adds: bool
    first: int
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
    """Masks of a file at the size of a result, uint8 ``H W 3`` on disk.

    Args:
        path: folder of frames or video; greys may be a little off, as after compression.
        count, width, height: of the result; another size of the same shape is scaled.
        limits: on the file.

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
    """Write masks, uint8 ``H W`` each, as a lossless .mp4 or a folder of png frames.

    Args:
        path: the file or, without a suffix, the folder.
        masks: one for each frame.
        size: width and height, pixels.
        rate: frames a second.

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
