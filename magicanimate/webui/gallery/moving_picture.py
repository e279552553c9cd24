"""A few frames as a small animated picture, for pages and for what is kept of cancelled work."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np


def encode_webp(frames: Sequence[np.ndarray], *, fps: float = 8.0, side: int = 384) -> bytes:
    """uint8 ``h w 3`` frames -> an endless WebP whose longer side has ``side`` pixels.

    Its EXIF says what the videos say: that a program made it.
    """
    from PIL import ExifTags, Image

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
        duration=round(1000 / fps),
        loop=0,
        quality=60,
        exif=exif,
    )
    return file.getvalue()
