"""Small moving pictures of results, made when they are looked at and kept in the folder of results."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
from pathlib import Path

from magicanimate.errors import InputError
from magicanimate.studio.results import StoredResult

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
        partial = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.webp")
        try:
            self.folder.mkdir(exist_ok=True)
            _write(result, partial)
            os.replace(partial, path)
        except (OSError, InputError) as error:
            partial.unlink(missing_ok=True)
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


def _write(result: StoredResult, path: Path) -> None:
    """The first seconds as an endless webp.

    Raises:
        InputError: the result cannot be read.
    """
    from PIL import Image

    from magicanimate.media.motion import open_motion

    is_folder = result.output.is_dir()
    clip = open_motion(result.output, fps=result.fps if is_folder else None)
    stride = max(1, round(clip.fps / _FPS))
    pictures = []
    for i, frame in enumerate(clip.frames()):
        if i > _SECONDS * clip.fps:
            break
        if i % stride == 0:
            picture = Image.fromarray(frame)
            picture.thumbnail((_SIDE, _SIDE), Image.Resampling.BICUBIC)
            pictures.append(picture)
    pictures[0].save(
        path,
        save_all=True,
        append_images=pictures[1:],
        duration=round(1000 * stride / clip.fps),
        loop=0,
        quality=60,
        method=2,
    )
