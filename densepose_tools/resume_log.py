"""Keeps the people found in a clip on disk, frame by frame, so that a killed run can be resumed.

The file begins with a line of JSON that identifies the job. Then there is a record per frame: the number of
its bytes, their CRC-32, and the bytes, which are an ``.npz`` of the frame's people. A truncated record counts
as none.
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
    """A list of frames on disk that can be appended to. Use it as a context.

    Attributes:
        path: the file.
        resumed: number of frames of an earlier run.
    """

    def __init__(self, path: Path, belongs_to: Mapping[str, Any]):
        """Open a log, or start a new one.

        Args:
            path: the file; the log of another job is overwritten.
            belongs_to: identifies the job, JSON-ready.

        Raises:
            InputError: another process is using it, the file is something else, or it cannot be written.
        """
        self.path = path
        title = {"program": PROGRAM, **belongs_to}
        # Sorted, since the line is compared byte by byte.
        title = (json.dumps(title, sort_keys=True, default=str) + "\n").encode()
        self._starts: list[int] = []
        # Two runs of the same command would append to the same file.
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
        # Up to the first incomplete record, which the next one will overwrite.
        while (size := _record_size(self._file, self._end)) is not None:
            self._starts.append(self._end)
            self._end += size
        # Counted once: what this run appends does not belong to it.
        self.resumed = len(self._starts)

    def _opened(self, title: bytes) -> BinaryIO:
        """Open the file and make sure that it begins with this title."""
        is_new = not self.path.exists()
        if not is_new:
            require_ordinary(self.path)
        # Unbuffered, so that a record is with the operating system when append returns.
        file = self.path.open("w+b" if is_new else "r+b", buffering=0)
        try:
            begins = file.read(_LONGEST_TITLE).partition(b"\n")
            if b"".join(begins[:2]) == title:
                return file
            # A file of that name which this program did not write is not touched.
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
        """Append a frame, which survives if the process is killed.

        Raises:
            InputError: it cannot be written.
        """
        body = _packed(people)
        try:
            self._file.seek(self._end)
            # Also cuts off an incomplete record of the earlier run.
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
        """Close the file, which is kept."""
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
    """Size of the record at a position, ``None`` unless it is complete."""
    file.seek(start)
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    size, checksum = _HEAD.unpack(head)
    body = file.read(size)
    return _HEAD.size + size if len(body) == size and zlib.crc32(body) == checksum else None


def _packed(people: list[Person]) -> bytes:
    arrays = {
        # In full precision: a resumed run has to draw exactly what an uninterrupted one draws.
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
    """Write to an unbuffered file, whose ``write`` may write less than it is given."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
