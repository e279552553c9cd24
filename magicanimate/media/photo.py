"""Read one photo of any kind that Pillow opens as plain RGB."""

from __future__ import annotations

import io
import logging
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from magicanimate.config import MediaLimits
from magicanimate.errors import InputError
from magicanimate.media.file_checks import check_file, check_pixels, looks_like_text, looks_like_video

logger = logging.getLogger(__name__)

_DECODING_ERRORS = (OSError, ValueError, SyntaxError, EOFError, OverflowError, IndexError, TypeError)
_DECODING_ERRORS = (*_DECODING_ERRORS, KeyError, MemoryError, struct.error, zlib.error)
"""What Pillow's decoders raise on broken files; there is no common base class."""


def load_photo(
    source: Path | str | Image.Image,
    *,
    limits: MediaLimits | None = None,
    what: str = "photo",
    alpha_over: tuple[int, int, int] = (255, 255, 255),
) -> np.ndarray:
    """Read a photo: turned as its EXIF says, alpha over white, in sRGB, first frame of an animation.

    Args:
        source: file, or an opened Pillow image.
        limits: bounds on file and pixels, checked before pixels are decoded; the defaults when ``None``.
        what: what the file is to the user, for error sentences.
        alpha_over: RGB that shows through transparent parts.

    Returns:
        uint8 (H, W, 3) RGB.

    Raises:
        InputError: missing, empty, truncated, too large, or not a picture.
    """
    limits = limits or MediaLimits()
    if isinstance(source, Image.Image):
        return _to_rgb(source, name="given", what=what, limits=limits, alpha_over=alpha_over)
    path = Path(source)
    header = check_file(path, what=what, limits=limits)
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures; the limit below decides instead.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path)
    except UnidentifiedImageError as error:
        raise InputError(_not_a_picture(path, header, what)) from error
    except Image.DecompressionBombError as error:
        raise InputError(
            f"The {what} {path} has far too many pixels (the limit is {limits.max_pixels}); scale it down."
        ) from error
    except _DECODING_ERRORS as error:
        raise InputError(_broken(path, what)) from error
    with image:
        return _to_rgb(image, name=str(path), what=what, limits=limits, alpha_over=alpha_over)


def _to_rgb(
    image: Image.Image, *, name: str, what: str, limits: MediaLimits, alpha_over: tuple[int, int, int]
) -> np.ndarray:
    """Check the size, decode, and bring any mode to upright RGB uint8 (H, W, 3)."""
    check_pixels(name, image.width, image.height, what=what, limits=limits)
    try:
        if getattr(image, "n_frames", 1) > 1:
            image.seek(0)
        image.load()
        image = _upright(image)
        return np.array(_flatten(_in_srgb(_in_eight_bits(image)), alpha_over))
    except Image.DecompressionBombError as error:
        raise InputError(
            f"The {what} {name} unpacks to far too much data; save it anew as PNG or JPEG."
        ) from error
    except _DECODING_ERRORS as error:
        raise InputError(_broken(name, what)) from error


def _upright(image: Image.Image) -> Image.Image:
    """Turn the picture as its EXIF orientation says; a broken EXIF block is no reason to refuse it."""
    try:
        return ImageOps.exif_transpose(image)
    except (SyntaxError, ValueError, struct.error, KeyError, TypeError, OSError) as error:
        logger.warning("EXIF data cannot be read (%s); the picture is taken as it is", error)
        return image


def _in_eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit, 32-bit and floating-point grey to mode L; other modes have 8 bits already."""
    if not image.mode.startswith("I") and image.mode != "F":
        return image
    grey = np.nan_to_num(np.asarray(image).astype(np.float64))
    if image.mode == "F":
        # By convention 0..1; files with larger values hold 0..255 or 0..65535.
        top = next((top for top in (1.0, 255.0, 65535.0) if grey.max(initial=0.0) <= top), grey.max())
    else:
        top = 65535.0 if grey.max(initial=0.0) <= 65535 else float(2**31 - 1)
    return Image.fromarray(np.clip(grey * (255.0 / top) + 0.5, 0, 255).astype(np.uint8))


def _in_srgb(image: Image.Image) -> Image.Image:
    """Convert colours from the embedded profile to sRGB; without one they are taken as sRGB."""
    data = image.info.get("icc_profile")
    if not data or image.mode not in ("RGB", "RGBA", "CMYK", "L"):
        return image
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        if "srgb" in ImageCms.getProfileDescription(profile).lower():
            return image
        mode = image.mode if image.mode in ("RGB", "RGBA") else "RGB"
        converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode=mode)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        logger.warning("The colour profile cannot be used (%s); colours are taken as sRGB", error)
        return image
    return image if converted is None else converted


def _flatten(image: Image.Image, alpha_over: tuple[int, int, int]) -> Image.Image:
    """Any 8-bit mode to RGB; the colour shows through transparent parts."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        behind = Image.new("RGBA", image.size, (*alpha_over, 255))
        return Image.alpha_composite(behind, image).convert("RGB")
    return image.convert("RGB")


def _not_a_picture(path: Path, header: bytes, what: str) -> str:
    if looks_like_video(header):
        return f"The {what} {path} is a video; give a picture such as JPEG or PNG."
    if header[4:8] == b"ftyp":
        return f"The {what} {path} is in a format that Pillow cannot read here; save it as JPEG or PNG."
    if looks_like_text(header):
        return f"The {what} {path} holds text, not a picture; download or export the picture itself."
    return f"The {what} {path} is not a picture that can be read; save it as JPEG or PNG."


def _broken(name: Path | str, what: str) -> str:
    return f"The {what} {name} is damaged or cut off; copy or download it again."
