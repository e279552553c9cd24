"""How the frames of a part map are read once it is known how they are drawn.

Everything is judged frame by frame: a frame that shows nothing of the map, such as a black one, shows nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageFilter

from magicanimate.media.colour_maps import FAR, NEAR, colour_distance, nearest_colours
from magicanimate.palette import BACKGROUND, PALETTE, nearest_labels

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels; x1 and y1 are outside."""

_EMPTY = 0.0005
"""Of the pixels of a frame; fewer that differ from its one colour are specks."""

WHOLE = (0.0, 0.0, 1.0, 1.0)
"""The box of a map without bars."""

_SMOOTHING = 2  # pixels to each side over which dithering is averaged
_LOOK = 200  # rows and columns of a frame by which it is told whether it shows anything of the map
_LEAST_OF_FRAME = 0.5  # of a frame's pixels must be in the map's colours, else the frame is none of it

Reading = Literal["colours", "smoothed", "grey", "red", "blue"]
"""Whether labels are read by colour, by colour after taking out dithering, or as numbers in a channel."""


@dataclass(frozen=True, eq=False)
class MapColours:
    """How the frames of a part map are read.

    Attributes:
        name: for people, such as "jet with red and blue swapped, over black"; empty if they are usual.
        table: RGB of background and parts, uint8 (25, 3).
        usual: whether they are those that the ControlNet knows.
        reading: how a pixel is turned into its label.
        step: for numbers in a channel, the difference from one label to the next.
        box: shares of width and height, 0..1, inside which the map lies; the rest are bars.
        captions: whether something white or black is written over it.
    """

    name: str
    table: np.ndarray
    usual: bool
    reading: Reading = "colours"
    step: float = 1.0
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    captions: bool = False

    @property
    def is_clean(self) -> bool:
        """Whether nothing but the map is in the picture, in the usual colours."""
        return self.usual and self.reading == "colours" and self.box == WHOLE and not self.captions

    def labels(self, frame: np.ndarray) -> np.ndarray:
        """Labels of a frame: RGB uint8 (H, W, 3) -> uint8 (H, W).

        Where compression has mixed two colours the label is that of the nearest pixels that are clear.
        """
        labels = np.zeros(frame.shape[:2], dtype=np.uint8)
        x0, y0, x1, y1 = self._inner(frame)
        part = frame[y0:y1, x0:x1]
        if self.reading in ("colours", "smoothed"):
            if self.reading == "smoothed":
                part = smoothed(part)
            found, distance = nearest_labels(part) if self.usual else nearest_colours(part, self.table)
            if (distance <= FAR).mean() >= _LEAST_OF_FRAME:
                labels[y0:y1, x0:x1] = _cleared(found, distance)
        else:
            labels[y0:y1, x0:x1] = numbers_in(part, self.reading, self.step)
        return labels

    def cleaned(self, frame: np.ndarray) -> np.ndarray:
        """A frame of a map in the usual colours without what is not part of the map, uint8 (H, W, 3).

        Pixels of the map stay as they are unless captions or dithering lie over them.
        """
        if self.captions or self.reading == "smoothed":
            return PALETTE[self.labels(frame)]
        x0, y0, x1, y1 = self._inner(frame)
        part = frame[y0:y1, x0:x1]
        cleaned = np.empty_like(frame)
        cleaned[:] = BACKGROUND
        step = max(1, min(part.shape[:2]) // _LOOK)
        if (nearest_labels(part[::step, ::step])[1] <= FAR).mean() < _LEAST_OF_FRAME:
            return cleaned
        if part.shape == frame.shape:
            return frame
        cleaned[y0:y1, x0:x1] = part
        return cleaned

    def _inner(self, frame: np.ndarray) -> Box:
        """The box in pixels, without the pixels that compression has mixed with the bars."""
        height, width = frame.shape[:2]
        left, top, right, bottom = self.box
        x0, y0 = (int(np.ceil(left * width)) + 2) * (left > 0), (int(np.ceil(top * height)) + 2) * (top > 0)
        x1 = width if right >= 1 else max(x0 + 1, int(right * width) - 2)
        y1 = height if bottom >= 1 else max(y0 + 1, int(bottom * height) - 2)
        return x0, y0, x1, y1


def is_blank(frame: np.ndarray) -> bool:
    """Whether a frame, uint8 (h, w, 3), is of one colour but for specks."""
    colour = np.median(frame.reshape(-1, 3), axis=0)
    return bool((colour_distance(frame, colour) > NEAR).mean() <= _EMPTY)


def smoothed(frame: np.ndarray) -> np.ndarray:
    """A frame with dithering averaged away, uint8 (h, w, 3)."""
    return np.asarray(Image.fromarray(np.ascontiguousarray(frame)).filter(ImageFilter.BoxBlur(_SMOOTHING)))


def channel_of(frame: np.ndarray, reading: Reading) -> np.ndarray:
    """The channel that holds label numbers, float32 (h, w)."""
    if reading == "grey":
        return frame.mean(axis=-1, dtype=np.float32)
    return frame[..., 2 if reading == "blue" else 0].astype(np.float32)


def numbers_in(frame: np.ndarray, reading: Reading, step: float) -> np.ndarray:
    """Labels of a frame whose channel holds their numbers times ``step``, uint8 (h, w)."""
    return np.rint(channel_of(frame, reading) / step).clip(0, 24).astype(np.uint8)


def _cleared(labels: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Labels (h, w) with those that are unclear taken from the nearest clear pixels; else background."""
    unclear = distance > FAR
    for _ in range(4):
        if not unclear.any():
            break
        for axis, shift in ((0, 1), (0, -1), (1, 1), (1, -1)):
            other, other_unclear = np.roll(labels, shift, axis), np.roll(unclear, shift, axis)
            take = unclear & ~other_unclear
            labels[take] = other[take]
            unclear = unclear & ~take
    labels[unclear & (distance > 2 * FAR)] = 0
    return labels
