"""Archives of the people found in a clip, from which the motion video can be drawn again without the network.

An archive is a plain ``.npz``. For the clip it has ``size`` (width, height), ``rate`` (frames per second as a
fraction), ``num_frames`` and ``settings`` (JSON). For all ``P`` people of all frames, ordered by frame and
then by score, it has ``frame`` int32 (P,), ``boxes`` float32 (P, 4) of x, y, width, height, and ``scores``
float32 (P,). For person number p it has ``labels_p``, ``u_p`` and ``v_p``, uint8 arrays of the box's size in
whole pixels (not all engines give the last two).
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from densepose_tools.arrays import ArrayFile
from densepose_tools.people import Person
from magicanimate.config import MediaLimits
from magicanimate.errors import InputError
from magicanimate.files import Unreadable, parse_json, whole_file
from magicanimate.palette import PALETTE

_LARGEST_RATE = 10_000
"""Largest plausible frame rate, frames per second."""


@dataclass(frozen=True)
class ClipInfo:
    """The clip that an archive was made from.

    Attributes:
        width, height: size in pixels.
        rate: frames per second.
        num_frames: number of frames.
        settings: the settings of the extraction, JSON-ready.
    """

    width: int
    height: int
    rate: Fraction
    num_frames: int
    settings: Mapping[str, Any]


def write_archive(path: Path, frames: Iterable[list[Person]], info: ClipInfo) -> None:
    """Write an archive frame by frame; the file appears when it is complete.

    Args:
        path: the ``.npz``.
        frames: ``info.num_frames`` lists of people.
        info: of the clip.

    Raises:
        InputError: it cannot be written.
    """
    # Small, so kept in memory until the end; the maps are written as they come.
    frame_of: list[int] = []
    boxes: list[tuple[float, ...]] = []
    scores: list[float] = []
    try:
        with (
            whole_file(path) as partial,
            # By zipfile rather than numpy.savez, which would need all arrays in memory at once.
            zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=4) as file,
        ):
            for number, people in enumerate(frames):
                for person in people:
                    _add(file, f"labels_{len(boxes)}", person.labels)
                    if person.coordinates is not None:
                        _add(file, f"u_{len(boxes)}", person.coordinates[0])
                        _add(file, f"v_{len(boxes)}", person.coordinates[1])
                    frame_of.append(number)
                    boxes.append(person.box)
                    scores.append(person.score)
            _add(file, "frame", np.array(frame_of, dtype=np.int32))
            _add(file, "boxes", np.array(boxes, dtype=np.float32).reshape(-1, 4))
            _add(file, "scores", np.array(scores, dtype=np.float32))
            _add(file, "size", np.array([info.width, info.height]))
            _add(file, "rate", np.array([info.rate.numerator, info.rate.denominator]))
            _add(file, "num_frames", np.array(info.num_frames))
            _add(file, "settings", np.array(json.dumps(dict(info.settings), default=str)))
    except OSError as error:
        raise InputError(
            f"The archive {path} cannot be written ({error.strerror}); free some room or choose "
            "another place."
        ) from error


def _add(file: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    with file.open(f"{name}.npy", "w") as entry:
        np.lib.format.write_array(entry, array, allow_pickle=False)


def is_archive(path: Path) -> bool:
    """Whether a file is an archive written by `write_archive`."""
    try:
        with Archive(path):
            return True
    except InputError:
        return False


class Archive:
    """An archive opened for reading, as a sequence of frames that are read on demand. Use it as a context.

    Attributes:
        info: the clip's description.
    """

    def __init__(self, path: Path):
        """Open an archive and check everything but the maps.

        Raises:
            InputError: it is missing, damaged or something else.
        """
        self.path = path
        try:
            self._file = ArrayFile(path)
        except Unreadable as error:
            raise self._unusable(error.reason) from error
        try:
            self.info = self._read_info()
            self._read_people()
        except InputError as error:
            self._file.close()
            raise self._unusable(getattr(error, "reason", "it is damaged")) from error

    def _read_info(self) -> ClipInfo:
        # Bounds as for videos: the file may come from anybody, and the video will be as large as it says.
        limits = MediaLimits()
        width, height = self._file.read("size", kind="iu", shape=(2,)).tolist()
        numerator, denominator = self._file.read("rate", kind="iu", shape=(2,)).tolist()
        num_frames = int(self._file.read("num_frames", kind="iu", shape=()))
        if width < 1 or height < 1 or width * height > limits.max_pixels:
            raise Unreadable(self.path, f"its frames have {width}x{height} pixels")
        if numerator < 1 or denominator < 1 or numerator > _LARGEST_RATE * denominator:
            raise Unreadable(self.path, f"its rate is {numerator}/{denominator}")
        if not 0 <= num_frames <= limits.max_frames:
            raise Unreadable(self.path, f"it has {num_frames} frames")
        text = str(self._file.read("settings", kind="U", shape=()))
        try:
            settings = parse_json(text)
        except ValueError as error:
            raise Unreadable(self.path, "its settings are damaged") from error
        if not isinstance(settings, dict):
            raise Unreadable(self.path, "its settings are damaged")
        return ClipInfo(width, height, Fraction(numerator, denominator), num_frames, settings)

    def _read_people(self) -> None:
        most = 2**28
        owners = self._file.read("frame", kind="iu", shape=(None,), most=most)
        people, frames = len(owners), self.info.num_frames
        self._boxes = self._file.read("boxes", kind="f", shape=(people, 4), most=most)
        self._scores = self._file.read("scores", kind="f", shape=(people,), most=most)
        in_order = people == 0 or (owners[0] >= 0 and owners[-1] < frames and (np.diff(owners) >= 0).all())
        if not in_order:
            raise Unreadable(self.path, "its people are of frames that it does not have")
        # A box may reach over the edge of the picture, but not far.
        # Otherwise a damaged file could ask for arrays of any size.
        within = np.abs(self._boxes) <= 4 * max(self.info.width, self.info.height)
        if not (within.all() and np.isfinite(self._scores).all()):
            raise Unreadable(self.path, "its boxes are not possible")
        # People are sorted by frame, so those of a frame are a range.
        self._starts = np.searchsorted(owners, np.arange(frames + 1)).tolist()

    def __len__(self) -> int:
        return self.info.num_frames

    def __getitem__(self, frame: int) -> list[Person]:
        """The people in a frame.

        Raises:
            InputError: the file is damaged.
        """
        return [self._person(p) for p in range(self._starts[frame], self._starts[frame + 1])]

    def __iter__(self) -> Iterator[list[Person]]:
        return (self[frame] for frame in range(len(self)))

    def _person(self, p: int) -> Person:
        box = tuple(self._boxes[p].tolist())
        # Boxes of less than a pixel have maps of a pixel or none, which are never drawn.
        shape = tuple(int(side) if side >= 1 else None for side in (box[3], box[2]))
        try:
            labels, coordinates = self._read_map(f"labels_{p}", shape), None
            # Such a label would be an index beyond the palette when it is drawn.
            if labels.max(initial=0) >= len(PALETTE):
                raise Unreadable(self.path, "it has parts that no body has")
            if f"u_{p}" in self._file.names:
                coordinates = np.stack([self._read_map(f"{axis}_{p}", labels.shape) for axis in "uv"])
        except Unreadable as error:
            raise self._unusable(error.reason) from error
        return Person(box, float(self._scores[p]), labels, coordinates)

    def _read_map(self, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
        # A box may be larger than the picture, but not arbitrarily (checked above).
        most = 16 * self.info.width * self.info.height
        labels = self._file.read(name, kind="u", shape=shape, most=max(most, 4096))
        if labels.dtype != np.uint8:
            raise Unreadable(self.path, f"its array {name!r} is of {labels.dtype}")
        return labels

    def _unusable(self, reason: str) -> InputError:
        return InputError(
            f"The archive {self.path} cannot be read or was not written by this program ({reason}); extract "
            "the clip again."
        )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
