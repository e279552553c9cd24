"""Single pictures with their driving signals as training data.

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
    """A picture file, or its bytes, as upright RGB uint8 (h, w, 3).

    Args:
        data: the file or what it holds.
        name: of the file, for the message.
        what: "picture", or what it shows.

    Raises:
        InputError: it is not a picture or is damaged.
    """
    return load_photo(data, limits=_LIMITS, what=what, name=name, alpha_over=BACKGROUND)


def square_image(
    pixels: np.ndarray, drawn: Mapping[str, np.ndarray], *, size: int, name: str, framing: Framing
) -> Frames:
    """Picture and driving signals, uint8 (h, w, 3), brought to one square.

    Raises:
        InputError: a signal has another aspect than the picture, or is no part map.
    """
    person = None
    for signal, drawing in drawn.items():
        if not same_aspect(pixels.shape[1::-1], drawing.shape[1::-1]):
            raise InputError(
                f"The {signal} of {name} has {drawing.shape[1]}x{drawing.shape[0]} pixels and the picture "
                f"{pixels.shape[1]}x{pixels.shape[0]}; make it anew with one aspect."
            )
        person = person or person_of(signal, [drawing], f"The {signal} of {name}")
    crop = SquareCrop(size, person if framing == "person" else None)
    fitted = {
        s: (crop.part_map if s == "densepose" else crop.picture)(drawing) for s, drawing in drawn.items()
    }
    return Frames(crop.picture(pixels)[None], {signal: drawing[None] for signal, drawing in fitted.items()})


class ImageFolder:
    """``NAME.jpg`` (png, webp) with ``NAME.densepose.png`` and/or ``NAME.keypoints.png``, or folders of each.

    An ``ImageSet``. Pictures that lack a signal are left out and reported; they are decoded when asked for.

    Attributes:
        left_out: a sentence for every picture that is not used.
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
            folder: see ``training.data.folders``; the folder of the pictures themselves is "images".
            size: side of the square pictures, pixels.
            signals: "densepose", "keypoints" or both.
        framing: the square that is cut out of a picture: around the person, or the centre.

        Raises:
            InputError: the folder holds no picture with its signals.
        """
        self.folder, self.size, self.signals = Path(folder), size, tuple(signals)
        self.framing = framing
        entries = find_entries(self.folder, suffixes=IMAGE_SUFFIXES, main="images")
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
    """A driving signal as a drawing, uint8 (h, w, 3); points are drawn at the size of the picture."""
    path = entry.signals[signal]
    if path.suffix.lower() != POINTS_SUFFIX:
        return decode_picture(path, name=str(path), what=f"{signal} picture")
    from densepose_tools.keypoints import draw_keypoints, read_keypoints

    recorded = read_keypoints(path)
    scale = np.float32([width / recorded.width, height / recorded.height, 1])
    return draw_keypoints(recorded.points[0] * scale, width=width, height=height)
