"""The people found in a clip, kept frame by frame on disk, so that a killed run goes on where it was.

The file is a line of JSON that says what it belongs to, then a record per frame: number and CRC-32 of its
bytes, and the bytes, an ``.npz`` of the frame's people. A record that was cut off is as good as none.
"""

from __future__ import annotations

import contextlib
import io
import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout

from densepose_tools.arrays import ArrayFile
from densepose_tools.people import Person
from magicanimate.errors import InputError
from magicanimate.files import parse_json, require_ordinary
from magicanimate.media.outputs import PROGRAM, is_ours

_HEAD = struct.Struct("<II")
_LONGEST_TITLE = 2**20
_LARGEST_MAP = 2**28


class ResumeLog:
    """A growing list of frames on disk. Use it as a context.

    Attributes:
        path: the file.
        resumed: frames that were there already.
    """

    def __init__(self, path: Path, belongs_to: Mapping[str, Any]):
        """Open or begin it.

        Args:
            path: the file; one that belongs to another job is begun anew.
            belongs_to: what tells one job from another, JSON-ready.

        Raises:
            InputError: another process is at it, something else has its name, or it cannot be written.
        """
        self.path = path
        title = {"program": PROGRAM, **belongs_to}
        title = (json.dumps(title, sort_keys=True, default=str) + "\n").encode()
        self._starts: list[int] = []
        self._lock = FileLock(path.with_name(f"{path.name}.lock"))
        try:
            self._lock.acquire(timeout=0)
            try:
                self._file = self._opened(title)
            except BaseException:
                self._unlock()
                raise
        except Timeout as error:
            raise InputError(
                f"Another run is at work on {path}; wait until it has ended, or choose another output."
            ) from error
        except OSError as error:
            raise self._failed(error) from error
        self._end = len(title)
        while (size := _record_size(self._file, self._end)) is not None:
            self._starts.append(self._end)
            self._end += size
        self.resumed = len(self._starts)

    def _opened(self, title: bytes) -> BinaryIO:
        """The file, which begins with this title now."""
        is_new = not self.path.exists()
        if not is_new:
            require_ordinary(self.path)
        file = self.path.open("w+b" if is_new else "r+b", buffering=0)
        try:
            begins = file.read(_LONGEST_TITLE).partition(b"\n")
            if b"".join(begins[:2]) == title:
                return file
            if any(begins) and not _is_title(begins[0]):
                raise InputError(
                    f"{self.path} is in the way and was not made by this program; move it, or choose another "
                    "output."
                )
            file.seek(0)
            file.truncate()
            _write_all(file, title)
        except BaseException:
            file.close()
            raise
        return file

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
            _write_all(self._file, _HEAD.pack(len(body), zlib.crc32(body)) + body)
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
        self._file.close()
        self.path.unlink(missing_ok=True)
        self._unlock()

    def close(self) -> None:
        """Close the file; it stays."""
        self._file.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock.is_locked:
            with contextlib.suppress(OSError):  # where an open file cannot be removed it stays
                Path(self._lock.lock_file).unlink(missing_ok=True)
            self._lock.release()

    def __enter__(self) -> ResumeLog:
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
    with ArrayFile(body) as arrays:
        boxes = arrays.read("boxes", kind="f", shape=(None, 4)).tolist()
        scores = arrays.read("scores", kind="f", shape=(len(boxes),)).tolist()
        return [
            Person(
                tuple(box),
                score,
                arrays.read(f"labels_{k}", kind="u", shape=(None, None), most=_LARGEST_MAP),
                arrays.read(f"coordinates_{k}", kind="u", shape=(2, None, None), most=_LARGEST_MAP)
                if f"coordinates_{k}" in arrays.names
                else None,
            )
            for k, (box, score) in enumerate(zip(boxes, scores, strict=True))
        ]


def _is_title(line: bytes) -> bool:
    try:
        return is_ours(parse_json(line))
    except ValueError:
        return False


def _write_all(file: BinaryIO, data: bytes) -> None:
    """Write to a file without a buffer, whose ``write`` may take a part only."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
