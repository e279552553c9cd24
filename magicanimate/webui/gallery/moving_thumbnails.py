"""Small moving pictures of results, made when they are looked at and kept in the folder of results."""

from __future__ import annotations

import hashlib
import logging
from itertools import islice
from pathlib import Path

from magicanimate.errors import InputError
from magicanimate.files import write_bytes
from magicanimate.webui.gallery.results import StoredResult

log = logging.getLogger(__name__)

FOLDER = ".thumbnails"
_SIDE = 192  # pixels of the longer side
_SECONDS = 3.0
_FPS = 10.0


class Thumbnails:
    """Thumbnails of the results of a folder.

    Args:
        folder: of the results; the pictures are in ``.thumbnails`` in it.
    """

    def __init__(self, folder: Path):
        self.folder = folder / FOLDER

    def ready(self, result: StoredResult) -> Path | None:
        """The thumbnail, if it was made before."""
        path = self._path(result)
        return path if path is not None and path.is_file() else None

    def make(self, result: StoredResult) -> Path | None:
        """The thumbnail, made now if need be; ``None`` if the result cannot be read."""
        path = self._path(result)
        if path is None or path.is_file():
            return path
        try:
            self.folder.mkdir(exist_ok=True)
            write_bytes(path, _encoded(result))
        except (OSError, InputError) as error:
            log.warning("no thumbnail of %s: %s", result.name, error)
            return None
        return path

    def sweep(self, results: list[StoredResult]) -> None:
        """Remove the thumbnails of results that are no more."""
        wanted = {self._path(result) for result in results}
        for path in self.folder.glob("[!.]*.webp"):
            if path not in wanted:
                path.unlink(missing_ok=True)

    def _path(self, result: StoredResult) -> Path | None:
        """Named by file and time of change, so that a result that was made anew has another."""
        try:
            changed = result.output.stat().st_mtime_ns
        except OSError:
            return None
        key = f"{result.output.relative_to(self.folder.parent).as_posix()} {changed}"
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.webp"


def _encoded(result: StoredResult) -> bytes:
    """The first seconds as an endless WebP.

    Raises:
        InputError: the result cannot be read.
    """
    from magicanimate.media.motion import open_motion
    from magicanimate.webui.gallery.moving_picture import encode_webp

    clip = open_motion(result.output, fps=result.fps if result.output.is_dir() else None)
    stride = max(1, round(clip.fps / _FPS))
    first = islice(clip.frames(), 0, round(_SECONDS * clip.fps), stride)
    return encode_webp(list(first), fps=clip.fps / stride, side=_SIDE)
