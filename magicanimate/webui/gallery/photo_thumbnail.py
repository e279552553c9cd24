"""Small pictures of photos, made once and kept in memory."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path

from PIL import Image

from magicanimate.errors import InputError

_SIDE = 112  # pixels, twice what the page shows


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
            picture.draft("RGB", (2 * _SIDE, 2 * _SIDE))  # of a JPEG no more is decoded than is needed
            small = Image.fromarray(load_photo(picture))
    except InputError:
        return None
    small.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    small.save(file, "WEBP", quality=80)
    return file.getvalue()
