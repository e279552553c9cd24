"""The temporary folder of the page: uploads and copies for the browser, limited in size.

It is deleted when the program ends. A killed program leaves it behind, to be deleted at the next start: if
nobody holds its lock, its program no longer runs.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from magicanimate.checkpoints.disk import human_bytes
from magicanimate.errors import InputError
from magicanimate.files import keep_track, remove

log = logging.getLogger(__name__)

FOLDER_VARIABLE = "GRADIO_TEMP_DIR"
"""Environment variable by which Gradio, and `temporary_folder`, find the folder."""

_PREFIX, _LOCK = "magicanimate-", "owner.lock"
PER_VISITOR, _MOST_IN_ALL = 4 * 2**30, 16 * 2**30  # bytes
_SHARE_OF_FREE = 4  # of the free space at the start, at most a quarter
_LOOK_EVERY = 60.0  # seconds


class Scratch:
    """The temporary folder of one program, as a context manager.

    Args:
        base: the folder to make it in; the system's temporary folder when ``None``.
        per_visitor: bytes of one visitor's uploads, above which the oldest are deleted.
        in_all: bytes of all files, above which the oldest are deleted; when ``None``, 16 GB or a quarter of
            the free space, whichever is less.

    Attributes:
        folder: its path.
    """

    def __init__(
        self, base: Path | None = None, *, per_visitor: int = PER_VISITOR, in_all: int | None = None
    ):
        base = Path(base or tempfile.gettempdir())
        remove_abandoned(base)
        try:
            self.folder = keep_track(Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base)))
            self._lock = FileLock(self.folder / _LOCK)
            self._lock.acquire(timeout=0)
            self.in_all = room_in_all(self.folder) if in_all is None else in_all
        except OSError as error:
            raise InputError(
                f"The temporary folder {base} cannot be used ({error.strerror}); set TMPDIR to another."
            ) from error
        self.per_visitor = min(per_visitor, self.in_all)
        self._uploads: dict[Path, str] = {}  # file -> visitor, the oldest first
        self._coming: Counter[str] = Counter()  # bytes of uploads on their way, by visitor
        self._guard = threading.Lock()
        self._closed = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="scratch", daemon=True)
        self._watcher.start()

    @contextlib.contextmanager
    def upload(self, visitor: str, size: int) -> Iterator[None]:
        """Reserve room for an upload while it arrives.

        Args:
            visitor: whose it is.
            size: bytes.

        Raises:
            InputError: it is too large, or too much is arriving at the same time.
        """
        with self._guard:
            most = self.per_visitor
            if size > most:
                raise InputError(
                    f"This is too large: {human_bytes(most)} are the most that is kept of one visitor."
                )
            if self._coming[visitor] + size > most or self._coming.total() + size > self.in_all:
                raise InputError("Too much is being uploaded at the same time; try again in a moment.")
            self._coming[visitor] += size
        try:
            yield
        finally:
            with self._guard:
                self._coming[visitor] -= size
                if not self._coming[visitor]:
                    del self._coming[visitor]

    def uploaded(self, visitor: str, files: Iterable[Path]) -> None:
        """Note files that have arrived; to make room the oldest of this visitor, then of all, are deleted."""
        with self._guard:
            for file in files:
                self._uploads.pop(file, None)
                self._uploads[file] = visitor
            sizes = {file: size for file in self._uploads if (size := _size(file)) is not None}
            self._uploads = {file: whose for file, whose in self._uploads.items() if file in sizes}
            own = [file for file, whose in self._uploads.items() if whose == visitor]
            total = sum(sizes[file] for file in own)
            for file in own[:-1]:
                if total > self.per_visitor:
                    total -= sizes[file]
                    self._remove(file)
        self.trim()

    def trim(self) -> None:
        """Delete the oldest files until the folder is within its limit."""
        found = []
        for folder, _, names in os.walk(self.folder):
            for path in (Path(folder, name) for name in names if name != _LOCK):
                with contextlib.suppress(OSError):
                    status = path.lstat()
                    # A hard link has its file's mtime, which may be old, but its ctime is when it was made.
                    found.append((max(status.st_mtime, status.st_ctime), status.st_size, path))
        total = sum(size for _, size, _ in found)
        with self._guard:
            for _, size, path in sorted(found):
                if total <= self.in_all:
                    return
                total -= size
                self._remove(path)

    def _remove(self, file: Path) -> None:
        self._uploads.pop(file, None)
        log.info("%s makes room for newer uploads", file.name)
        with contextlib.suppress(OSError):
            file.unlink()
            file.parent.rmdir()  # if it is empty now

    def _watch(self) -> None:
        while not self._closed.wait(_LOOK_EVERY):
            self.trim()

    def close(self) -> None:
        """Remove the folder."""
        self._closed.set()
        self._watcher.join()
        self._lock.release()
        remove(self.folder)

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def room_in_all(folder: Path) -> int:
    """Bytes that visitors' files may take on the disk of a folder.

    Raises:
        OSError: the folder cannot be looked at.
    """
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    return min(_MOST_IN_ALL, shutil.disk_usage(there).free // _SHARE_OF_FREE)


def temporary_folder() -> tempfile.TemporaryDirectory:
    """A folder that is deleted when the program ends, within `Scratch` if there is one."""
    scratch = os.environ.get(FOLDER_VARIABLE)
    folder = scratch if scratch and os.path.isdir(scratch) else None
    return tempfile.TemporaryDirectory(prefix=_PREFIX, dir=folder, ignore_cleanup_errors=True)


def remove_abandoned(base: Path) -> None:
    """Delete the folders of this user's programs that no longer run."""
    for folder in base.glob(f"{_PREFIX}*"):
        lock = folder / _LOCK
        try:
            status = folder.lstat()
            is_own = os.name == "nt" or status.st_uid == os.getuid()
            if folder.is_symlink() or not is_own or not lock.is_file() or lock.is_symlink():
                continue
            with FileLock(lock, timeout=0):
                pass
        except (Timeout, OSError):
            continue
        log.info("removing %s, which a program that is no more left behind", folder)
        shutil.rmtree(folder, ignore_errors=True)


def _size(file: Path) -> int | None:
    try:
        return file.lstat().st_size
    except OSError:
        return None
