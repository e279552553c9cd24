"""What is behind the people of each frame: the driving video without its dancers, or another video.

Letters in shape comments: ``H W`` pixels, ``N`` samples of a clip.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from magicanimate.config import AnimationRequest
from magicanimate.errors import InputError, raise_if_stopped
from magicanimate.mask import PERSON, Masks, band_of, grown
from magicanimate.matte import lit_as

if TYPE_CHECKING:
    from magicanimate.media.prepare import PreparedMedia

_CLEARANCE = 0.045
"""Of the longer side: so far around its dancers' part map the driving video is not trusted as background."""

_SAMPLES = 60
"""Frames, spread over the driving video, whose median is the plate."""

_LEAST_SEEN = 3
"""Samples in which a pixel must be free of people to be known; others are filled in from around them."""

_ROWS = 64
"""Rows of the picture whose samples are sorted at once."""

_DANCERS_SHADOW = (0.75, 1.05)
"""Brightness, of the plate's, of what stays of the driving video close to a dancer, such as her shadow."""

_SAME_COLOUR = 8.0
"""Grey levels by which it may differ from the plate in colour; twice that is something else for sure."""


def driving_scene(media: PreparedMedia, masks: Masks, plate: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the driving video without its dancers, uint8 ``H W 3``: the plate is where they are.

    The plate follows the light of the moment. All else stays as it was filmed, also the shadows
    beside the dancers: whoever takes a dancer's place casts the same ones.
    """
    import cv2

    if media.driving is None:
        raise ValueError("the driving video was not kept")
    for number in range(media.num_frames):
        frame = media.driving[number].astype(np.float32)
        mask = masks[number]
        clearance = _clearance(mask)
        dancer = grown(mask == PERSON, clearance)
        behind = plate.astype(np.float32)
        if not dancer.all():
            behind = behind + np.median((frame - behind)[~dancer], axis=0)
        soft = cv2.GaussianBlur(grown(dancer, -clearance // 3).astype(np.float32), (0, 0), clearance / 6)
        soft = np.where(dancer, soft * _not_background(frame, behind, mask == PERSON), 0)[..., None]
        yield np.rint(soft * behind + (1 - soft) * frame).clip(0, 255).astype(np.uint8)


def _not_background(frame: np.ndarray, plate: np.ndarray, body: np.ndarray) -> np.ndarray:
    """How much of each pixel is something other than the plate in full light or in a light shadow.

    Args:
        frame, plate: float32 ``H W 3``, grey levels.
        body: the dancers' part map, bool ``H W``.

    Returns:
        0..1, float32 ``H W``; 1 on the body and close to it.
    """
    import cv2

    edge = max(1, band_of(frame) // 4)
    lit = lit_as(frame, plate, within=_DANCERS_SHADOW)
    difference = cv2.blur(np.abs(frame - lit).max(-1), (3, 3))
    other = (difference / _SAME_COLOUR - 1).clip(0, 1)
    other = np.where(grown(body, edge), 1, other).astype(np.float32)
    # Grown, since a pixel at the rim of clothes may by chance have the plate's colour.
    other = cv2.dilate(other, np.ones((2 * edge + 1, 2 * edge + 1), np.uint8))
    return cv2.GaussianBlur(other, (0, 0), 0.8 * edge)


def video_scene(
    path: Path, request: AnimationRequest, media: PreparedMedia
) -> Generator[np.ndarray, None, None]:
    """Yield another video's frames at the result's rate and size, uint8 ``H W 3``, over and over."""
    from magicanimate.media.fit import fit_photo
    from magicanimate.media.motion import open_motion

    clip = open_motion(path, fps=media.fps, limits=request.limits)
    height, width = media.photo.shape[:2]
    while True:
        seen = False
        with closing(clip.frames()) as frames:
            for frame in frames:
                seen = True
                yield fit_photo(frame, width=width, height=height, fit="crop")
        if not seen:
            raise InputError(f"The background {path} has no frame that can be decoded; export it again.")


def clean_plate(
    media: PreparedMedia, masks: Masks, should_stop: Callable[[], bool] | None = None
) -> np.ndarray:
    """The driving video's background, uint8 ``H W 3``: the median over time of what is free of people.

    What no frame shows is filled in from around it (Telea 2004, "An Image Inpainting Technique Based on the
    Fast Marching Method").
    """
    import cv2

    if media.driving is None:
        raise ValueError("the driving video was not kept")
    count = media.num_frames
    numbers = np.unique(np.linspace(0, count - 1, min(count, _SAMPLES)).round().astype(int))
    frames, hidden = [], []
    for number in numbers.tolist():
        raise_if_stopped(should_stop, "while looking for the background")
        mask = masks[number]
        hidden.append(grown(mask == PERSON, _clearance(mask)))
        frames.append(media.driving[number])
    pixels, covered = np.stack(frames), np.stack(hidden)  # N H W 3, N H W
    seen = (~covered).sum(0)
    plate: np.ndarray = np.empty(pixels.shape[1:], np.uint8)
    for row in range(0, len(plate), _ROWS):
        rows = slice(row, row + _ROWS)
        values = np.where(covered[:, rows, :, None], np.int16(999), pixels[:, rows])  # hidden ones sort last
        middle = ((seen[rows] - 1).clip(min=0) // 2)[None, ..., None]
        ordered = np.sort(values, axis=0)
        plate[rows] = np.take_along_axis(ordered, np.broadcast_to(middle, (1, *ordered.shape[1:])), 0)[
            0
        ].clip(0, 255)
    unknown = seen < min(_LEAST_SEEN, len(numbers))
    if unknown.all():
        raise InputError(
            "The people cover the whole driving video, so nothing of its background is seen; choose another "
            "background."
        )
    if unknown.any():
        plate = cv2.inpaint(plate, unknown.astype(np.uint8), 5, cv2.INPAINT_TELEA)
    return plate


def _clearance(mask: np.ndarray) -> int:
    return max(2, round(_CLEARANCE * max(mask.shape)))
