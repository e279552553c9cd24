"""Bring photos and part maps of any size to the size of the result: crop, pad or stretch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from magicanimate.config import FITS, Fit
from magicanimate.errors import InputError
from magicanimate.media.map_resize import resize_map
from magicanimate.palette import BACKGROUND

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels; x1 and y1 are outside."""

_PHOTO_TOP_SHARE = 0.15
"""Of what a crop takes from a photo's height, this share is taken above: heads are in the upper part."""

_HEADROOM = 0.05
"""Space above a person who does not fit, as a share of the window."""

_BACKGROUND_DISTANCE = 12.0
"""RGB distance up to which a pixel counts as background.

In compressed real maps the background lies 4 to 6 away, and the back of a torso, the nearest part, 14 to 21.
"""

_SPECKS = 0.004
"""A row or column belongs to the person if at least this share of it (and two pixels) does."""

_BOX_STEP = 256
"""Frames are thinned to about this many rows and columns to find the person."""


def largest_window(size: tuple[int, int], *, width: int, height: int) -> tuple[int, int]:
    """(width, height) of the largest window of the aspect width:height within ``size`` (width, height)."""
    source_width, source_height = size
    if source_width * height >= source_height * width:
        return max(1, min(source_width, round(source_height * width / height))), source_height
    return source_width, max(1, min(source_height, round(source_width * height / width)))


def _largest_inside(size: tuple[int, int], *, width: int, height: int) -> tuple[int, int]:
    """(width, height) of a picture of ``size`` scaled to just fit into width x height."""
    if size[0] * height >= size[1] * width:
        return width, max(1, round(size[1] * width / size[0]))
    return max(1, round(size[0] * height / size[1])), height


def fit_photo(photo: np.ndarray, *, width: int, height: int, fit: Fit) -> np.ndarray:
    """Bring a photo to a size.

    - crop: the largest window of the aspect, in the middle sideways and nearer to the top than to the
      bottom, so that heads stay.
    - pad: the whole photo; the rest continues its edges, blurred. A plain background goes on without a seam
      (a blurred copy of the photo behind it shows one), and there are no streaks to be taken for texture.
    - stretch: the whole photo, whatever becomes of its aspect (as published).

    Args:
        photo: uint8 (H, W, 3).
        width, height: of the result.
        fit: one of ``FITS``.

    Returns:
        uint8 (height, width, 3).
    """
    _check_fit(fit)
    image = Image.fromarray(photo)
    if fit == "stretch":
        return np.array(_scaled(image, width, height))
    if fit == "pad":
        return _padded(image, width, height)
    window = largest_window(image.size, width=width, height=height)
    x0 = (image.width - window[0]) // 2
    y0 = round((image.height - window[1]) * _PHOTO_TOP_SHARE)
    return np.array(_scaled(image.crop((x0, y0, x0 + window[0], y0 + window[1])), width, height))


def _padded(image: Image.Image, width: int, height: int) -> np.ndarray:
    """The whole picture, its edges continued outwards and blurred there."""
    inside = _largest_inside(image.size, width=width, height=height)
    sharp = _scaled(image, *inside)
    if inside == (width, height):
        return np.array(sharp)
    left, top = (width - inside[0]) // 2, (height - inside[1]) // 2
    around = ((top, height - inside[1] - top), (left, width - inside[0] - left), (0, 0))
    canvas = Image.fromarray(np.pad(np.array(sharp), around, mode="edge"))
    canvas = canvas.filter(ImageFilter.GaussianBlur(max(width, height) / 32))
    canvas.paste(sharp, (left, top))
    return np.array(canvas)


def _scaled(image: Image.Image, width: int, height: int) -> Image.Image:
    """Bicubic, which averages when it makes smaller; the published scripts use it too."""
    if image.size == (width, height):
        return image
    return image.resize((width, height), Image.Resampling.BICUBIC)


@dataclass(frozen=True)
class MotionFit:
    """How each frame of a clip becomes a control frame: a window of the frame, scaled, placed on a canvas.

    Attributes:
        window: part of the frame that is used.
        place: where it goes on the canvas.
        width, height: of the canvas.
        keep_labels: scale by part labels, so that no colours between parts arise; otherwise by colours.
        background: RGB of the canvas around the frame.
    """

    window: Box
    place: Box
    width: int
    height: int
    keep_labels: bool
    background: tuple[int, int, int] = BACKGROUND

    def apply(self, frame: np.ndarray) -> np.ndarray:
        """Clip frame, uint8 (h, w, 3), to uint8 (height, width, 3); one that fits already stays as it is."""
        x0, y0, x1, y1 = self.window
        part = frame[y0:y1, x0:x1]
        left, top, right, bottom = self.place
        size = (right - left, bottom - top)
        if part.shape[1::-1] != size:
            if self.keep_labels:
                part = resize_map(part, width=size[0], height=size[1])
            else:
                part = np.array(_scaled(Image.fromarray(np.ascontiguousarray(part)), *size))
        if size == (self.width, self.height):
            return np.ascontiguousarray(part)
        canvas = np.empty((self.height, self.width, 3), dtype=np.uint8)
        canvas[:] = self.background
        canvas[top:bottom, left:right] = part
        return canvas


def plan_motion_fit(
    clip_size: tuple[int, int],
    person_box: Box | None,
    *,
    width: int,
    height: int,
    fit: Fit,
    keep_labels: bool = True,
) -> MotionFit:
    """Choose the window of a clip that is animated; it is the same for all frames, so nothing jumps.

    - crop: the largest window of the aspect, with the person in its middle as far as the frame allows. Of a
      person taller than the window the head's end is kept, with a little room above.
    - pad: the whole frame, the rest filled with the background colour of part maps.
    - stretch: the whole frame scaled by colours, whatever becomes of its aspect (as published).

    Args:
        clip_size: (width, height) of the clip.
        person_box: from ``person_box``; ``None`` puts the window in the middle.
        width, height: of the result.
        fit: one of ``FITS``.
        keep_labels: see ``MotionFit``; false for clips that are not part maps. "stretch" never does.
    """
    _check_fit(fit)
    whole = (0, 0, *clip_size)
    canvas = (0, 0, width, height)
    if fit == "stretch":
        return MotionFit(whole, canvas, width, height, keep_labels=False)
    if fit == "pad":
        inside = _largest_inside(clip_size, width=width, height=height)
        left, top = (width - inside[0]) // 2, (height - inside[1]) // 2
        place = (left, top, left + inside[0], top + inside[1])
        return MotionFit(whole, place, width, height, keep_labels)
    window = largest_window(clip_size, width=width, height=height)
    box = person_box or whole
    x0 = _clamp((box[0] + box[2] - window[0]) // 2, clip_size[0] - window[0])
    if person_box is not None and box[3] - box[1] > window[1]:
        y0 = _clamp(box[1] - round(_HEADROOM * window[1]), clip_size[1] - window[1])
    else:
        y0 = _clamp((box[1] + box[3] - window[1]) // 2, clip_size[1] - window[1])
    return MotionFit((x0, y0, x0 + window[0], y0 + window[1]), canvas, width, height, keep_labels)


def person_box(frames: Iterable[np.ndarray]) -> Box | None:
    """The box around everything that is not background in any of the frames.

    Compression leaves specks; a row or column counts only if several of its pixels are not background.

    Args:
        frames: uint8 (h, w, 3), all of one size.

    Returns:
        x0, y0, x1, y1 in pixels of the frames, or ``None`` if all is background.
    """
    union: Box | None = None
    for frame in frames:
        box = frame_box(frame)
        if box is not None:
            union = box if union is None else merge_boxes(union, box)
    return union


def merge_boxes(first: Box, second: Box) -> Box:
    """The smallest box around two."""
    return (
        min(first[0], second[0]),
        min(first[1], second[1]),
        max(first[2], second[2]),
        max(first[3], second[3]),
    )


def frame_box(frame: np.ndarray) -> Box | None:
    """``person_box`` of one frame, uint8 (h, w, 3)."""
    height, width = frame.shape[:2]
    step = max(1, min(height, width) // _BOX_STEP)
    difference = frame[::step, ::step].astype(np.int32) - np.array(BACKGROUND, dtype=np.int32)
    person = (difference * difference).sum(axis=-1) > _BACKGROUND_DISTANCE**2
    columns = np.flatnonzero(person.sum(axis=0) >= max(2, _SPECKS * person.shape[0]))
    rows = np.flatnonzero(person.sum(axis=1) >= max(2, _SPECKS * person.shape[1]))
    if len(columns) == 0 or len(rows) == 0:
        return None
    return (
        int(columns[0]) * step,
        int(rows[0]) * step,
        min(width, (int(columns[-1]) + 1) * step),
        min(height, (int(rows[-1]) + 1) * step),
    )


def _clamp(value: int, highest: int) -> int:
    return max(0, min(value, highest))


def _check_fit(fit: str) -> None:
    if fit not in FITS:
        raise InputError(f"The fit {fit!r} is unknown; choose from {', '.join(FITS)}.")
