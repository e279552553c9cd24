"""Small pictures: moving ones of results, kept in the folder of results, and still ones of photos."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

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
        """The thumbnail, if it exists."""
        path = self._path(result)
        return path if path is not None and path.is_file() else None

    def make(self, result: StoredResult) -> Path | None:
        """The thumbnail, made if it does not exist; ``None`` if the result cannot be read."""
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
        """Remove the thumbnails of other results."""
        wanted = {self._path(result) for result in results}
        for path in self.folder.glob("[!.]*.webp"):
            if path not in wanted:
                path.unlink(missing_ok=True)

    def _path(self, result: StoredResult) -> Path | None:
        """Named by the file and its time of change, so that a result that was made again gets a new one."""
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

    clip = open_motion(result.output, fps=result.fps if result.output.is_dir() else None)
    stride = max(1, round(clip.fps / _FPS))
    first = islice(clip.frames(), 0, round(_SECONDS * clip.fps), stride)
    return encode_webp(list(first), fps=clip.fps / stride, side=_SIDE)


def encode_webp(frames: Sequence[np.ndarray], *, fps: float | None = None, side: int = 384) -> bytes:
    """uint8 ``h w 3`` frames -> an endless WebP whose longer side has ``side`` pixels.

    It shows 8 frames a second unless told otherwise. Its EXIF says "AI-generated", as the metadata of the
    videos does.
    """
    pictures = []
    for frame in frames:
        picture = Image.fromarray(frame)
        scale = side / max(picture.size)
        size = (round(picture.width * scale), round(picture.height * scale))
        pictures.append(picture.resize(size, Image.Resampling.BICUBIC))
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = "AI-generated"
    exif[ExifTags.Base.Software] = "MagicAnimate"
    file = io.BytesIO()
    pictures[0].save(
        file,
        "WEBP",
        save_all=True,
        append_images=pictures[1:],
        duration=round(1000 / (fps or 8)),
        loop=0,
        quality=60,
        exif=exif,
    )
    return file.getvalue()


_PHOTO_SIDE = 112  # pixels, twice what the page shows


def thumbnail(photo: Path) -> bytes | None:
    """A photo as a WebP of at most 112 x 112 pixels; ``None`` if it is gone or no picture."""
    try:
        return _made(photo, photo.stat().st_mtime_ns)
    except OSError:
        return None


@lru_cache(maxsize=256)
def _made(photo: Path, mtime_ns: int) -> bytes | None:
    from magicanimate.media.photo import load_photo, open_picture

    try:
        with open_picture(photo) as picture:
            picture.draft(
                "RGB", (2 * _PHOTO_SIDE, 2 * _PHOTO_SIDE)
            )  # JPEG decodes to a smaller size for free
            small = Image.fromarray(load_photo(picture))
    except InputError:
        return None
    small.thumbnail((_PHOTO_SIDE, _PHOTO_SIDE))
    file = io.BytesIO()
    small.save(file, "WEBP", quality=80)
    return file.getvalue()
