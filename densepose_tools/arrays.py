"""Arrays out of npz and npy files that may come from anybody: headers are checked before unpacking.

The format of npz is that of numpy.lib.format: a zip of ``NAME.npy`` entries, each a header with type and
shape and then the numbers. An entry of a few bytes can unpack to gigabytes, a header can promise any shape.
"""

from __future__ import annotations

import io
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from magicanimate.errors import InputError
from magicanimate.files import Unreadable, require_ordinary

_MOST_ENTRIES = 2_000_000
_LONGEST_HEADER = 10_000
_BROKEN = (
    *(OSError, ValueError, KeyError, EOFError, TypeError, IndexError, OverflowError, SyntaxError),
    *(RuntimeError, NotImplementedError, MemoryError, RecursionError),
    *(tokenize.TokenError, zlib.error, zipfile.BadZipFile),
)
"""What zipfile and numpy raise on files that are damaged, encrypted or packed in another way."""


class ArrayFile:
    """An npz file opened for reading. Use it as a context."""

    def __init__(self, source: Path | bytes, *, path: Path | None = None):
        """Open it.

        Args:
            source: the file, or its content.
            path: what messages call it; ``source`` when ``None``.

        Raises:
            Unreadable: it is missing, no zip file, or holds too many entries.
        """
        self.path = path or Path(source if isinstance(source, Path) else "the data")
        if isinstance(source, Path):
            require_ordinary(source)
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(source) if isinstance(source, bytes) else source)
        except _BROKEN as error:
            raise Unreadable(self.path, "it is no npz file, or is cut off") from error
        entries = self._zip.infolist()
        self._entries = {entry.filename: entry for entry in entries}
        if len(entries) > _MOST_ENTRIES or len(self._entries) < len(entries):
            self._zip.close()
            raise Unreadable(self.path, "it has too many entries, or two of one name")
        self.names = frozenset(name.removesuffix(".npy") for name in self._entries)

    def read(
        self,
        name: str,
        *,
        kind: str,
        shape: tuple[int | None, ...],
        most: int = 2**20,
    ) -> np.ndarray:
        """One of the arrays.

        Args:
            name: of the array.
            kind: letters of `numpy.dtype.kind` that it may have, such as "iu" for whole numbers.
            shape: that it must have; ``None`` for a dimension of any length.
            most: bytes that it may have.

        Raises:
            Unreadable: it is missing, damaged, or another one than that.
        """
        try:
            entry = self._entries.get(f"{name}.npy")
            if entry is None:
                raise Unreadable(self.path, f"it has no array {name!r}")
            with self._zip.open(entry) as stream:
                found, fortran, dtype = _header(stream)
                fits = len(found) == len(shape) and all(
                    want is None or have == want for have, want in zip(found, shape, strict=True)
                )
                if dtype.kind not in kind or not fits:
                    raise Unreadable(self.path, f"its array {name!r} has the shape {found} of {dtype}")
                size = dtype.itemsize
                for side in found:
                    size *= side
                if size > most or size > entry.file_size:
                    raise Unreadable(self.path, f"its array {name!r} would have {size} bytes")
                data = stream.read(size + 1)  # to the end, where zipfile compares the checksum
            if len(data) != size:
                raise Unreadable(self.path, f"its array {name!r} has another length than it says")
            array = np.frombuffer(data, dtype).reshape(found, order="F" if fortran else "C")
            return array.copy() if fortran else array
        except InputError:
            raise
        except _BROKEN as error:
            raise Unreadable(self.path, f"its array {name!r} is damaged") from error

    def close(self) -> None:
        """Close the file."""
        self._zip.close()

    def __enter__(self) -> ArrayFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def map_array(path: Path) -> np.ndarray:
    """The array of an ``.npy`` file, read from the disk as it is used.

    Raises:
        Unreadable: the file is missing, cut off, or holds no plain numbers.
    """
    require_ordinary(path)
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except _BROKEN as error:
        raise Unreadable(path, "it is no npy file, or is cut off") from error


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and type that the header of an entry says."""
    version = np.lib.format.read_magic(stream)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"version {version}")
    return readers[version](stream, max_header_size=_LONGEST_HEADER)
