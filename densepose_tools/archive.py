"""What an extractor found in a clip, as a file from which the motion video can be drawn again.

An archive is a plain ``.npz``: ``size`` (width, height), ``rate`` (frames a second, as a fraction),
``num_frames``, ``settings`` (JSON), and over all ``P`` people of all frames, frame by frame, surest first:
``frame`` int32 (P,), ``boxes`` float32 (P, 4) of x, y, width, height, ``scores`` float32 (P,), and for person
p ``labels_p``, ``u_p`` and ``v_p``, uint8 of the box's whole pixels (the last two not from every engine).
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from densepose_tools.people import Person
from magicanimate.errors import InputError

_BROKEN = (OSError, ValueError, KeyError, EOFError, TypeError, zlib.error, zipfile.BadZipFile)


@dataclass(frozen=True)
class ClipInfo:
    """The clip that an archive speaks of.

    Attributes:
        width, height: pixels.
        rate: frames a second.
        num_frames: its length.
        settings: how it was made, JSON-ready.
    """

    width: int
    height: int
    rate: Fraction
    num_frames: int
    settings: Mapping[str, Any]


def write_archive(path: Path, frames: Iterable[list[Person]], info: ClipInfo) -> None:
    """Write an archive, frame by frame, complete or not at all.

    Args:
        path: the ``.npz``.
        frames: ``info.num_frames`` lists of people.
        info: of the clip.

    Raises:
        InputError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    frame_of: list[int] = []
    boxes: list[tuple[float, ...]] = []
    scores: list[float] = []
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=4) as file:
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
        os.replace(partial, path)
    except OSError as error:
        raise InputError(
            f"The archive {path} cannot be written ({error.strerror}); free some room or choose "
            "another place."
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _add(file: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    with file.open(f"{name}.npy", "w") as entry:
        np.lib.format.write_array(entry, array, allow_pickle=False)


def is_archive(path: Path) -> bool:
    """Whether a file was written by ``write_archive``."""
    try:
        with Archive(path):
            return True
    except InputError:
        return False


class Archive:
    """An archive opened for reading: a sequence of frames, read when asked for. Use it as a context.

    Attributes:
        info: of the clip.
    """

    def __init__(self, path: Path):
        """Open it.

        Raises:
            InputError: it is missing, damaged or something else.
        """
        self.path = path
        try:
            self._file = zipfile.ZipFile(path)
        except _BROKEN as error:
            raise self._unusable() from error
        try:
            self._names = frozenset(self._file.namelist())
            width, height = self._read("size").tolist()
            numerator, denominator = self._read("rate").tolist()
            num_frames = int(self._read("num_frames"))
            settings = json.loads(str(self._read("settings")))
            self.info = ClipInfo(width, height, Fraction(numerator, denominator), num_frames, settings)
            self._starts = np.searchsorted(self._read("frame"), np.arange(num_frames + 1)).tolist()
            self._boxes, self._scores = self._read("boxes"), self._read("scores")
        except _BROKEN as error:
            self._file.close()
            raise self._unusable() from error

    def _read(self, name: str) -> np.ndarray:
        # Not np.load: it looks names up in a list, and a long clip has tens of thousands.
        with self._file.open(f"{name}.npy") as entry:
            return np.lib.format.read_array(entry, allow_pickle=False)

    def __len__(self) -> int:
        return self.info.num_frames

    def __getitem__(self, frame: int) -> list[Person]:
        """People of a frame.

        Raises:
            InputError: the file is damaged.
        """
        return [self._person(p) for p in range(self._starts[frame], self._starts[frame + 1])]

    def __iter__(self) -> Iterator[list[Person]]:
        return (self[frame] for frame in range(len(self)))

    def _person(self, p: int) -> Person:
        try:
            labels, coordinates = self._read(f"labels_{p}"), None
            if f"u_{p}.npy" in self._names:
                coordinates = np.stack([self._read(f"u_{p}"), self._read(f"v_{p}")])
        except _BROKEN as error:
            raise self._unusable() from error
        return Person(tuple(self._boxes[p].tolist()), float(self._scores[p]), labels, coordinates)

    def _unusable(self) -> InputError:
        return InputError(
            f"The archive {self.path} cannot be read or was not written by this program; extract the clip "
            "again."
        )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
