"""Bring photos and part maps of any size to the size of the result: crop, pad or stretch.

Part maps are scaled without inventing parts. A colour between two parts is, on the viridis map, often the
colour of a third: half torso and half head gives the colour of a leg. DensePose draws labels at the size of
the picture and never blends, so a map of another size is made as it would have drawn it: each new pixel takes
the part that covers most of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import cast

import numpy as np
from PIL import Image, ImageFilter

from magicanimate.config import FITS, Fit
from magicanimate.errors import InputError
from magicanimate.palette import BACKGROUND, PALETTE, nearest_labels

# RGB distance at which a pixel has lost its vote; the blurred edges of compressed maps lie beyond 32.
_UNSURE_DISTANCE = 96.0

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels; x1 and y1 are outside."""

# Share of a photo's cropped height that is cut off above: heads are in the upper part.
_PHOTO_TOP_SHARE = 0.15
_HEADROOM = 0.05  # space above a person who does not fit, as a share of the window
_SLIVER = 1.02  # a box this much wider than the window still counts as held: edges of boxes are not exact
_MAY_MISS = 0.02  # share of the frames with people in which the window need not hold them
_MARGIN = 0.05  # share of the window that it leaves free around people while it moves, where it can
_CALM = 8.0  # frames over which the path of a moving window is smoothed (standard deviation)
# RGB distance up to which a pixel counts as background. In compressed real maps background pixels are 4 to 6
# away from its colour, and the back of a torso, the nearest part, 14 to 21.
_BACKGROUND_DISTANCE = 12.0
_SPECKS = 0.004  # a row or column belongs to the person if at least this share of it (and two pixels) does
_SHAPES_DIFFER = 0.01  # aspects of two pictures that differ by more, as a share, are of different shapes
_BOX_STEP = 256  # frames are thinned to about this many rows and columns to find the person


def resize_map(frame: np.ndarray, *, width: int, height: int) -> np.ndarray:
    """Scale a part map, uint8 (h, w, 3), by vote of its labels, weighted by how near pixels are to them.

    The result, uint8 (height, width, 3), has palette colours only.
    """
    labels, distance = nearest_labels(frame)
    weight = (255.0 * (1.0 - distance / _UNSURE_DISTANCE)).clip(1, 255).astype(np.uint8)
    result = np.zeros((height, width), dtype=np.uint8)
    # Only where parts are is there anything to vote on.
    left, right = _span(labels.max(axis=0) > 0, width)
    top, bottom = _span(labels.max(axis=1) > 0, height)
    if right > left and bottom > top:
        across, down = frame.shape[1] / width, frame.shape[0] / height
        box = (left * across, top * down, right * across, bottom * down)
        result[top:bottom, left:right] = _vote(labels, weight, (right - left, bottom - top), box)
    return PALETTE[result]


def _span(used: np.ndarray, size: int) -> tuple[int, int]:
    """The part of 0..size that the used positions cover when scaled to ``size``, and two more at each end."""
    found = np.flatnonzero(used)
    if len(found) == 0:
        return 0, 0
    scale = size / len(used)
    return max(0, int(found[0] * scale) - 2), min(size, int((found[-1] + 1) * scale) + 3)


def _vote(
    labels: np.ndarray, weight: np.ndarray, size: tuple[int, int], box: tuple[float, float, float, float]
) -> np.ndarray:
    """The label with most weight at every new pixel of a box, uint8 (height, width).

    Labels and weights are uint8 (h, w), ``size`` is (width, height) of the result, and ``box`` what is scaled
    of the map: left, top, right, bottom in its pixels.
    """
    enlarges = size[0] > box[2] - box[0] or size[1] > box[3] - box[1]
    best = np.zeros(size[::-1], dtype=np.uint8)
    winner = np.zeros(size[::-1], dtype=np.uint8)
    for label in np.flatnonzero(np.bincount(labels.ravel(), minlength=len(PALETTE))):
        ballot = Image.fromarray(np.where(labels == label, weight, np.uint8(0)))
        if enlarges:
            # The blurred edges of a compressed map pass through other parts' colours, one pixel wide.
            ballot = ballot.filter(ImageFilter.BoxBlur(1))
        # Bilinear averages over the new pixel when it makes smaller and gives smooth outlines when larger.
        share = np.asarray(ballot.resize(size, Image.Resampling.BILINEAR, box=box))
        better = share > best
        np.copyto(best, share, where=better)
        winner[better] = label
    return winner


def largest_window(size: tuple[int, int], *, width: int, height: int) -> tuple[int, int]:
    """(width, height) of the largest window of the aspect width:height within ``size`` (width, height)."""
    source_width, source_height = size
    if source_width * height >= source_height * width:
        return max(1, min(source_width, round(source_height * width / height))), source_height
    return source_width, max(1, min(source_height, round(source_width * height / width)))


def same_shape(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes, (width, height), have the same aspect but for what rounding to whole pixels does."""
    across, down = one[0] * other[1], one[1] * other[0]
    # Relative to a product of both sizes, so that it does not matter how much larger one of them is.
    return abs(across - down) <= _SHAPES_DIFFER * across


def smooth_over_time(values: np.ndarray, sigma: float) -> np.ndarray:
    """Smooth one value for each frame, float (F,), by a Gaussian of ``sigma`` frames; the ends are held."""
    reach = int(3 * sigma)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.convolve(np.pad(values, reach, mode="edge"), weights / weights.sum(), mode="valid")


def _largest_inside(size: tuple[int, int], *, width: int, height: int) -> tuple[int, int]:
    """(width, height) of a picture of ``size`` scaled to just fit into width x height."""
    if size[0] * height >= size[1] * width:
        return width, max(1, round(size[1] * width / size[0]))
    return max(1, round(size[0] * height / size[1])), height


def fit_photo(
    photo: np.ndarray, *, width: int, height: int, fit: Fit, person: Box | None = None
) -> np.ndarray:
    """Bring a photo, uint8 (H, W, 3), to a size, uint8 (height, width, 3).

    - crop: the largest window of the aspect, with the person in its middle as far as the photo allows;
      without a known person in the middle sideways and nearer to the top than to the bottom, so that heads
      stay.
    - pad: the whole photo; the rest continues its edges, blurred. A plain background goes on without a seam
      (a blurred copy of the photo behind it shows one), and there are no streaks to be taken for texture.
    - auto: crop, but pad if the window cannot hold the person.
    - stretch: the whole photo, whatever becomes of its aspect (as published).
    """
    _check_fit(fit)
    image = Image.fromarray(photo)
    if fit == "stretch":
        return np.array(_scaled(image, width, height))
    window = largest_window(image.size, width=width, height=height)
    if fit == "pad" or (fit == "auto" and person is not None and not holds(window, person)):
        return _padded(image, width, height)
    if person is None:
        x0 = (image.width - window[0]) // 2
        y0 = round((image.height - window[1]) * _PHOTO_TOP_SHARE)
    else:
        x0, y0 = _window_on(person, window, image.size)
    return np.array(_scaled(image.crop((x0, y0, x0 + window[0], y0 + window[1])), width, height))


def holds(window: tuple[int, int], box: Box) -> bool:
    """Whether a window of that width and height holds a box, a sliver aside."""
    return box[2] - box[0] <= _SLIVER * window[0] and box[3] - box[1] <= _SLIVER * window[1]


def _window_on(box: Box, window: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Corner of a window with a box in its middle; of somebody too tall the head's end is kept."""
    x0 = _clamp((box[0] + box[2] - window[0]) // 2, size[0] - window[0])
    top = (box[1] + box[3] - window[1]) // 2
    if box[3] - box[1] > window[1]:
        # Nobody recognises a person without a head, so the feet are cut off instead.
        top = box[1] - round(_HEADROOM * window[1])
    return x0, _clamp(top, size[1] - window[1])


def _padded(image: Image.Image, width: int, height: int) -> np.ndarray:
    """The whole picture, its edges continued outwards and blurred there."""
    inside = _largest_inside(image.size, width=width, height=height)
    sharp = _scaled(image, *inside)
    if inside == (width, height):
        return np.array(sharp)
    left, top = (width - inside[0]) // 2, (height - inside[1]) // 2
    around = ((top, height - inside[1] - top), (left, width - inside[0] - left), (0, 0))
    canvas = Image.fromarray(np.pad(np.array(sharp), around, mode="edge"))
    # Continued edges alone would be streaks, which networks take for texture.
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
    """How each frame of a clip becomes a control frame: a window of the frame, scaled, placed on a canvas."""

    window: Box  # part of the frame that is used
    place: Box  # where it goes on the canvas
    width: int  # of the canvas, pixels
    height: int
    keep_labels: bool  # scale by part labels, so that no colours between parts arise; otherwise by colours
    background: tuple[int, int, int] = BACKGROUND  # RGB of the canvas around the frame
    # Corner of the window (x0, y0) in every frame, if it moves.
    path: tuple[tuple[int, int], ...] | None = None
    loses_people: bool = False  # whether somebody is outside the window in some frames

    def apply(self, frame: np.ndarray, number: int = 0) -> np.ndarray:
        """Clip frame, uint8 (h, w, 3), to uint8 (height, width, 3); one that fits already stays as it is.

        ``number`` is the frame's in the clip, from 0.
        """
        x0, y0, x1, y1 = self.window
        if self.path:
            left, top = self.path[min(number, len(self.path) - 1)]
            x0, y0, x1, y1 = left, top, left + x1 - x0, top + y1 - y0
        part = frame[y0:y1, x0:x1]
        left, top, right, bottom = self.place
        size = (right - left, bottom - top)
        if part.shape[1::-1] != size:
            if self.keep_labels:
                part = resize_map(part, width=size[0], height=size[1])
            else:
                # Pillow needs contiguous memory, which a window of a frame does not have.
                part = np.array(_scaled(Image.fromarray(np.ascontiguousarray(part)), *size))
        if size == (self.width, self.height):
            return np.ascontiguousarray(part)
        canvas = np.empty((self.height, self.width, 3), dtype=np.uint8)
        canvas[:] = self.background
        canvas[top:bottom, left:right] = part
        return canvas


def plan_motion_fit(
    clip_size: tuple[int, int],
    people: Box | None | Sequence[Box | None],
    *,
    width: int,
    height: int,
    fit: Fit,
    keep_labels: bool = True,
) -> MotionFit:
    """Choose the window of a clip that is animated.

    - crop: the largest window of the aspect, with the people in its middle as far as the frame allows. If it
      cannot hold the people of all frames at once it moves with them, no more than it must. Of a person
      taller than the window the head's end is kept, with a little room above.
    - pad: the whole frame, the rest filled with the background colour of part maps.
    - auto: crop, but pad if the window cannot hold the people even so.
    - stretch: the whole frame scaled by colours, whatever becomes of its aspect (as published).

    Args:
        clip_size: (width, height) of the clip.
        people: where the people are, in all frames together or in each; ``None`` where nobody is. A window
            for nobody at all is in the middle.
        width, height: of the result.
        fit: one of ``FITS``.
        keep_labels: see ``MotionFit``; false for clips that are not part maps. "stretch" never does.
    """
    _check_fit(fit)
    whole = (0, 0, *clip_size)
    canvas = (0, 0, width, height)
    if fit == "stretch":
        return MotionFit(whole, canvas, width, height, keep_labels=False)
    # A single box is a tuple of four integers; anything else is a box for each frame.
    single = people is None or (len(people) > 0 and isinstance(people[0], int))
    boxes = cast("list[Box | None]", [people] if single else list(people or ()))
    seen = [box for box in boxes if box is not None]
    window = largest_window(clip_size, width=width, height=height)
    # A few wrong boxes, such as specks of the map, must not decide over the whole clip.
    missed = sum(not holds(window, box) for box in seen)
    loses_people = missed > _MAY_MISS * len(seen)
    if fit == "pad" or (fit == "auto" and loses_people):
        inside = _largest_inside(clip_size, width=width, height=height)
        left, top = (width - inside[0]) // 2, (height - inside[1]) // 2
        place = (left, top, left + inside[0], top + inside[1])
        return MotionFit(whole, place, width, height, keep_labels)
    union = reduce(merge_boxes, seen) if seen else None
    x0, y0 = (clip_size[0] - window[0]) // 2, (clip_size[1] - window[1]) // 2
    if union is not None:
        x0, y0 = _window_on(union, window, clip_size)
    path = None
    # A moving window shows a camera movement that is not in the clip, so it is the last resort.
    if union is not None and len(boxes) > 1 and not holds(window, union):
        path = _path(boxes, window, clip_size)
        x0, y0 = path[0]
    box = (x0, y0, x0 + window[0], y0 + window[1])
    return MotionFit(
        box, canvas, width, height, keep_labels, path=path, loses_people=loses_people and window != clip_size
    )


def _path(
    boxes: Sequence[Box | None], window: tuple[int, int], size: tuple[int, int]
) -> tuple[tuple[int, int], ...]:
    """A moving window's corner in every frame: it holds the people and moves no more than it must."""
    axes = []
    seen = np.array([number for number, box in enumerate(boxes) if box is not None])
    found = [box for box in boxes if box is not None]
    # Where nobody is the window waits for, or stays with, the people nearest in time.
    nearest = [found[int(np.abs(seen - number).argmin())] for number in range(len(boxes))]
    for axis in (0, 1):
        ends = np.array([_held(box, window, size, axis) for box in nearest])
        position = float(ends[0].mean())
        # Each position is the one before it, moved only as far as the people force it to.
        lazy = np.array([position := float(np.clip(position, low, high)) for low, high in ends])
        calm = smooth_over_time(lazy, _CALM)
        # Smoothing may leave the positions that hold the people, so it is clipped to them again.
        axes.append(np.rint(np.clip(calm, ends[:, 0], ends[:, 1])).astype(int).tolist())
    return tuple(zip(*axes, strict=True))


def _held(box: Box, window: tuple[int, int], size: tuple[int, int], axis: int) -> tuple[int, int]:
    """Lowest and highest position of a window along an axis at which it holds a box."""
    room = size[axis] - window[axis]
    low, high = _clamp(box[axis + 2] - window[axis], room), _clamp(box[axis], room)
    if low > high:
        low = high = _window_on(box, window, size)[axis]
    # A little space around, where there is some.
    margin = min(_MARGIN * window[axis], (high - low) / 2)
    return round(low + margin), round(high - margin)


def person_box(frames: Iterable[np.ndarray]) -> Box | None:
    """The box around all that is not background in some frame, uint8 (h, w, 3); ``None`` if nothing is.

    Compression leaves specks; a row or column counts only if several of its pixels are not background.
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
    box = mask_box((difference * difference).sum(axis=-1) > _BACKGROUND_DISTANCE**2)
    if box is None:
        return None
    return box[0] * step, box[1] * step, min(width, box[2] * step), min(height, box[3] * step)


DARK = 48
"""Brightest channel of what is background in a drawing on black that a codec has been over, 0..255."""


def drawing_box(drawing: np.ndarray) -> Box | None:
    """The box around what is drawn on black, uint8 (h, w, 3); ``None`` if nothing is."""
    return mask_box(drawing.max(axis=-1) > DARK)


def mask_box(mask: np.ndarray) -> Box | None:
    """The box around what is true in a mask, bool (h, w), but for specks; ``None`` if nothing is."""
    columns = np.flatnonzero(mask.sum(axis=0) >= max(2, _SPECKS * mask.shape[0]))
    rows = np.flatnonzero(mask.sum(axis=1) >= max(2, _SPECKS * mask.shape[1]))
    if len(columns) == 0 or len(rows) == 0:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _clamp(value: int, highest: int) -> int:
    return max(0, min(value, highest))


def _check_fit(fit: str) -> None:
    if fit not in FITS:
        raise InputError(f"The fit {fit!r} is unknown; choose from {', '.join(FITS)}.")
