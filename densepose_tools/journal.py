"""People of a clip, kept frame by frame while it is worked on, so that a killed run goes on where it was.

The file is a line of JSON that says what it belongs to, then a record per frame: number and CRC-32 of its
bytes, and the bytes, an ``.npz`` of the frame's people. A record that was cut off is as good as none.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from densepose_tools.people import Person
from magicanimate.errors import InputError

_HEAD = struct.Struct("<II")


class FrameJournal:
    """A growing list of frames on disk. Use it as a context.

    Attributes:
        path: the file.
        resumed: frames that were there already.
    """

    def __init__(self, path: Path, belongs_to: Mapping[str, Any]):
        """Open or begin it.

        Args:
            path: the file; one that belongs to something else is begun anew.
            belongs_to: what tells one job from another, JSON-ready.

        Raises:
            InputError: it cannot be written.
        """
        self.path = path
        title = (json.dumps(dict(belongs_to), sort_keys=True, default=str) + "\n").encode()
        self._starts: list[int] = []
        try:
            self._file = path.open("r+b" if path.exists() else "w+b")
            if self._file.readline() != title:
                self._file.seek(0)
                self._file.truncate()
                self._file.write(title)
                self._file.flush()
        except OSError as error:
            raise self._failed(error) from error
        self._end = len(title)
        while (size := _record_size(self._file, self._end)) is not None:
            self._starts.append(self._end)
            self._end += size
        self.resumed = len(self._starts)

    def __len__(self) -> int:
        return len(self._starts)

    def append(self, people: list[Person]) -> None:
        """Add a frame; it survives the end of this process.

        Raises:
            InputError: it cannot be written.
        """
        body = _packed(people)
        try:
            self._file.seek(self._end)
            self._file.truncate()
            self._file.write(_HEAD.pack(len(body), zlib.crc32(body)) + body)
            self._file.flush()
        except OSError as error:
            raise self._failed(error) from error
        self._starts.append(self._end)
        self._end += _HEAD.size + len(body)

    def __getitem__(self, frame: int) -> list[Person]:
        self._file.seek(self._starts[frame])
        size, _ = _HEAD.unpack(self._file.read(_HEAD.size))
        return _unpacked(self._file.read(size))

    def __iter__(self) -> Iterator[list[Person]]:
        return (self[frame] for frame in range(len(self)))

    def delete(self) -> None:
        """Close and remove the file."""
        self.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file; it stays."""
        self._file.close()

    def __enter__(self) -> FrameJournal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _failed(self, error: OSError) -> InputError:
        return InputError(
            f"{self.path} cannot be written ({error.strerror}); free some room or choose another place."
        )


def _record_size(file: BinaryIO, start: int) -> int | None:
    """Bytes of the record that begins there, ``None`` unless it is whole."""
    file.seek(start)
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    size, checksum = _HEAD.unpack(head)
    body = file.read(size)
    return _HEAD.size + size if len(body) == size and zlib.crc32(body) == checksum else None


def _packed(people: list[Person]) -> bytes:
    arrays = {
        "boxes": np.array([person.box for person in people], dtype=np.float64).reshape(-1, 4),
        "scores": np.array([person.score for person in people], dtype=np.float64),
    }
    for k, person in enumerate(people):
        arrays[f"labels_{k}"] = person.labels
        if person.coordinates is not None:
            arrays[f"coordinates_{k}"] = person.coordinates
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _unpacked(body: bytes) -> list[Person]:
    with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
        return [
            Person(
                tuple(box),
                score,
                arrays[f"labels_{k}"],
                arrays.get(f"coordinates_{k}"),
            )
            for k, (box, score) in enumerate(
                zip(arrays["boxes"].tolist(), arrays["scores"].tolist(), strict=True)
            )
        ]
