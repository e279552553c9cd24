"""Frames on disk, so that memory does not grow with the clip."""

from __future__ import annotations

import operator
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np


class FrameStore:
    """A growing list of frames of one size, kept raw in a temporary file.

    The file has no name of its own where the system allows it, so it is gone when the store is closed,
    garbage-collected, or the process ends. Threads may share a store.
    """

    def __init__(self, width: int, height: int, *, folder: Path | None = None) -> None:
        """Open an empty store.

        Args:
            width, height: of every frame, pixels.
            folder: where the file lives; the system's temporary folder when ``None``.
        """
        if width < 1 or height < 1:
            raise ValueError(f"frames must have at least one pixel, not {width}x{height}")
        self.width = width
        self.height = height
        self._count = 0
        self._frame_bytes = width * height * 3
        self._lock = threading.Lock()
        self._file = tempfile.TemporaryFile(prefix="magicanimate-", dir=folder)  # noqa: SIM115 (closed in close)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(frames, height, width, 3)."""
        return (self._count, self.height, self.width, 3)

    def __len__(self) -> int:
        return self._count

    def append(self, frame: np.ndarray) -> None:
        """Add uint8 (height, width, 3) at the end.

        Raises:
            ValueError: another shape or type, or the store is closed.
        """
        if frame.shape != (self.height, self.width, 3) or frame.dtype != np.uint8:
            raise ValueError(
                f"expected uint8 {(self.height, self.width, 3)}, not {frame.dtype} {tuple(frame.shape)}"
            )
        with self._lock:
            self._file.seek(self._count * self._frame_bytes)
            self._file.write(np.ascontiguousarray(frame).data)
            self._count += 1

    def __getitem__(self, index: int | slice | Sequence[int] | np.ndarray) -> np.ndarray:
        """Copies of frames: (H, W, 3) for an integer, (N, H, W, 3) for a slice or a list of integers."""
        if isinstance(index, slice):
            return self._read_all(range(*index.indices(self._count)))
        if isinstance(index, (list, tuple, range, np.ndarray)):
            return self._read_all([self._position(item) for item in index])
        return self._read_all([self._position(index)])[0]

    def _position(self, index: int) -> int:
        """A checked index from the front."""
        position = operator.index(index)
        if position < 0:
            position += self._count
        if not 0 <= position < self._count:
            raise IndexError(f"frame {index} of {self._count}")
        return position

    def _read_all(self, positions: Sequence[int]) -> np.ndarray:
        frames = np.empty((len(positions), self.height, self.width, 3), dtype=np.uint8)
        with self._lock:
            self._file.flush()
            for frame, position in zip(frames, positions, strict=True):
                self._file.seek(position * self._frame_bytes)
                if self._file.readinto(frame.data.cast("B")) != self._frame_bytes:
                    raise OSError("the temporary file of frames is shorter than it should be")
        return frames

    def close(self) -> None:
        """Delete the file; a second call does nothing."""
        with self._lock:
            self._file.close()

    def __enter__(self) -> FrameStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
