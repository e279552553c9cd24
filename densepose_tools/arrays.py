"""Reads arrays from npz and npy files that may come from anybody; headers are checked before unpacking.

An npz file (numpy.lib.format) is a zip of ``NAME.npy`` entries, each a header with dtype and shape followed
by the numbers. A few bytes of such a file can unpack to gigabytes, and a header can promise any shape.
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
"""What zipfile and numpy raise for files that are damaged, encrypted or compressed in an unsupported way."""


class ArrayFile:
    """An npz file opened for reading. Use it as a context."""

    def __init__(self, source: Path | bytes):
        """Open it.

        Args:
            source: the file, or its content.

        Raises:
            Unreadable: it is missing, no zip file, or holds too many entries.
        """
        self.path = source if isinstance(source, Path) else Path("the data")
        if isinstance(source, Path):
            require_ordinary(source)
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(source) if isinstance(source, bytes) else source)
        except _BROKEN as error:
            raise Unreadable(self.path, "it is no npz file, or is cut off") from error
        entries = self._zip.infolist()
        self._entries = {entry.filename: entry for entry in entries}
        # Of two entries with one name, different readers would see different ones.
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
        """Read one array.

        Args:
            name: its name.
            kind: allowed letters of `numpy.dtype.kind`, such as "iu" for integers.
            shape: required shape; ``None`` stands for a dimension of any length.
            most: maximum size in bytes.

        Raises:
            Unreadable: it is missing, damaged, or does not meet these conditions.
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
                # Before reading: the entry's own size is known from the zip's directory.
                if size > most or size > entry.file_size:
                    raise Unreadable(self.path, f"its array {name!r} would have {size} bytes")
                # One byte more than wanted, to reach the end of
                # the entry, where zipfile compares the checksum.
                data = stream.read(size + 1)
            if len(data) != size:
                raise Unreadable(self.path, f"its array {name!r} has another length than it says")
            array = np.frombuffer(data, dtype).reshape(found, order="F" if fortran else "C")
            # Arrays from a buffer in C order are used as they are; they are read-only.
            return array.copy() if fortran else array
        except InputError:
            # Unreadable is one; everything below would call it merely damaged.
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
    """Memory-map the array of an ``.npy`` file.

    Raises:
        Unreadable: the file is missing, cut off, or holds no plain numbers.
    """
    require_ordinary(path)
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except _BROKEN as error:
        raise Unreadable(path, "it is no npy file, or is cut off") from error


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, Fortran order and dtype from the header of an entry."""
    version = np.lib.format.read_magic(stream)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"version {version}")
    # numpy evaluates the header as a Python literal, which takes long for long ones.
    return readers[version](stream, max_header_size=_LONGEST_HEADER)
