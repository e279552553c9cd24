"""Single images with their control images as training data.

Letters in shape comments: ``H W`` pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from magicanimate.config import MediaLimits
from magicanimate.errors import InputError
from magicanimate.media.photo import load_photo
from magicanimate.palette import BACKGROUND
from training.config import Framing
from training.data.cropping import SquareCrop, person_of, same_aspect
from training.data.folders import IMAGE_SUFFIXES, POINTS_SUFFIX, Entry, find_entries
from training.data.sources import Frames

log = logging.getLogger(__name__)

_LIMITS = MediaLimits()


def decode_picture(data: bytes | Path, *, name: str, what: str) -> np.ndarray:
    """Decode an image file, or its bytes, to upright RGB, uint8 (h, w, 3).

    Args:
        data: the file, or its content.
        name: what a message calls the file.
        what: what a message calls its content, such as "picture" or "part map".

    Raises:
        InputError: it is no image or is damaged.
    """
    return load_photo(data, limits=_LIMITS, what=what, name=name, alpha_over=BACKGROUND)


def square_image(
    pixels: np.ndarray, drawn: Mapping[str, np.ndarray], *, size: int, name: str, framing: Framing
) -> Frames:
    """Crop an image and its control images, uint8 (h, w, 3), to the same square.

    Raises:
        InputError: a control image has another aspect ratio than the image, or is no part map.
    """
    person = None
    for signal, drawing in drawn.items():
        if not same_aspect(pixels.shape[1::-1], drawing.shape[1::-1]):
            raise InputError(
                f"The {signal} of {name} has {drawing.shape[1]}x{drawing.shape[0]} pixels and the picture "
                f"{pixels.shape[1]}x{pixels.shape[0]}; make it anew with one aspect."
            )
        # The first signal that shows the person decides where the crop is.
        person = person or person_of(signal, [drawing], f"The {signal} of {name}")
    # The same crop for the image and all its control images.
    crop = SquareCrop(size, person if framing == "person" else None)
    fitted = {
        # Part maps are scaled without mixing colours, drawings like images.
        s: (crop.part_map if s == "densepose" else crop.picture)(drawing)
        for s, drawing in drawn.items()
    }
    return Frames(crop.picture(pixels)[None], {signal: drawing[None] for signal, drawing in fitted.items()})


class ImageFolder:
    """An `ImageSet` of files ``NAME.jpg`` with ``NAME.densepose.png`` and/or ``NAME.keypoints.png``.

    See `training.data.folders` for the layouts. Images that lack a signal are left out and reported; the
    others are decoded when they are read.

    Attributes:
        left_out: a sentence for every image that is not used.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        size: int,
        signals: Sequence[str] = ("densepose",),
        framing: Framing = "person",
    ):
        """Open a folder.

        Args:
            folder: the data folder.
            size: side of the square images, pixels.
            signals: control signals to read: "densepose", "keypoints" or both.
            framing: which square is cut out of an image: around the person, or the centre.

        Raises:
            InputError: the folder holds no picture with its signals.
        """
        self.folder, self.size, self.signals = Path(folder), size, tuple(signals)
        self.framing = framing
        entries = find_entries(self.folder, suffixes=IMAGE_SUFFIXES, main="images")
        # Only by names here; whether a file can be read shows when it is.
        self._entries = [entry for entry in entries if not entry.missing(self.signals)]
        self.left_out = [
            f"The picture {entry.pixels} has no {' and no '.join(missing)} file."
            for entry in entries
            if (missing := entry.missing(self.signals))
        ]
        for sentence in self.left_out:
            log.warning("left out: %s", sentence)
        if not self._entries:
            reason = self.left_out[0] if self.left_out else "it holds no pictures."
            raise InputError(f"No picture of {self.folder} can be used for training: {reason}")

    def __len__(self) -> int:
        return len(self._entries)

    def read(self, image: int) -> Frames:
        entry = self._entries[image]
        pixels = decode_picture(entry.pixels, name=str(entry.pixels), what="picture")
        height, width = pixels.shape[:2]
        drawn = {signal: _signal(entry, signal, width=width, height=height) for signal in self.signals}
        return square_image(pixels, drawn, size=self.size, framing=self.framing, name=str(entry.pixels))


def _signal(entry: Entry, signal: str, *, width: int, height: int) -> np.ndarray:
    """A control image of an entry, uint8 (h, w, 3); recorded points are drawn at the size of the image."""
    path = entry.signals[signal]
    if path.suffix.lower() != POINTS_SUFFIX:
        return decode_picture(path, name=str(path), what=f"{signal} picture")
    from densepose_tools.keypoints import draw_keypoints, read_keypoints

    recorded = read_keypoints(path)
    # Points are in pixels of the image they were found in, which may have had another size.
    scale = np.float32([width / recorded.width, height / recorded.height, 1])
    return draw_keypoints(recorded.points[0] * scale, width=width, height=height)
