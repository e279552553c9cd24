"""The one place that opens pictures: which formats, how large, and as plain RGB; and what any file must be.

Pillow knows formats that start other programs (EPS starts Ghostscript, which runs what is in the file) and
tells them by content, whatever a file is called. Only the formats listed here are opened.

The ffmpeg program of imageio-ffmpeg reads JPEG XL, which Pillow cannot, and clips that PyAV has no decoder
for (`magicanimate.media.video_file`).
"""

from __future__ import annotations

import io
import logging
import math
import struct
import subprocess
import warnings
import zlib
from functools import cache
from pathlib import Path

import numpy as np
from PIL import EpsImagePlugin, Image, ImageCms, ImageOps, UnidentifiedImageError

from magicanimate.config import MediaLimits
from magicanimate.errors import InputError
from magicanimate.files import human_bytes

logger = logging.getLogger(__name__)
_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "QOI", "TGA")
_HEIF = "HEIF"

# JPEG photos of up to this many times ``max_pixels`` are scaled down while they are decoded.
_SCALED_PIXELS = 4

# What Pillow's decoders raise on broken files; there is no common base class.
_DECODING_ERRORS = (
    *(OSError, ValueError, SyntaxError, EOFError, OverflowError, IndexError, TypeError),
    *(KeyError, MemoryError, NotImplementedError, struct.error, zlib.error),
)
# Libraries that open uploads with Pillow on their own must not reach Ghostscript either.
EpsImagePlugin.gs_binary = False
# Pillow refuses twice this many pixels on its own; `open_picture` decides earlier.
Image.MAX_IMAGE_PIXELS = _SCALED_PIXELS * MediaLimits().max_pixels
HEADER_BYTES = 64
_FFMPEG_SECONDS = 60  # the largest pictures that are accepted need a fraction of that


@cache
def _formats() -> tuple[str, ...]:
    """Names of the formats that are opened; those of phones as well where their library is installed."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return _FORMATS
    register_heif_opener(thumbnails=False)
    return (*_FORMATS, _HEIF)


def open_picture(
    source: Path | bytes, *, limits: MediaLimits | None = None, what: str = "photo", name: str | None = None
) -> Image.Image:
    """Open a picture by its header; its pixels are decoded on access.

    A JPEG of more than ``limits.max_pixels`` (up to four times as many) is set to be decoded at 1/2, 1/4 or
    1/8 of its size. Use the result as a context, which closes the file.

    Args:
        source: the file, or its content.
        limits: bounds on bytes and pixels; the defaults when ``None``.
        what: what the file is to the user, for error sentences.
        name: of content that is given as bytes, for error sentences.

    Raises:
        InputError: missing, empty, too large, no picture, or of a format that is not opened.
    """
    limits = limits or MediaLimits()
    name = name or (str(source) if isinstance(source, Path) else "given")
    # Bytes that are given have no size on a disk to check.
    header = check_file(source, what=what, limits=limits) if isinstance(source, Path) else source[:64]
    if is_jpeg_xl(header):  # which Pillow does not know
        source = as_png(source, max_pixels=limits.max_pixels)
        if source is None:
            raise InputError(_no_jpeg_xl(name, what, limits))
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures; the limit below decides instead.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(
                io.BytesIO(source) if isinstance(source, bytes) else source, formats=_formats()
            )
    except UnidentifiedImageError as error:
        raise InputError(_not_a_picture(name, header, what)) from error
    except Image.DecompressionBombError as error:
        raise InputError(
            f"The {what} {name} has far too many pixels (the limit is {limits.max_pixels}); scale it down."
        ) from error
    except _DECODING_ERRORS as error:
        raise InputError(_broken(name, what)) from error
    try:
        _scale_while_decoding(image, limits)
        check_pixels(name, *image.size, what=what, limits=limits)
    except BaseException:
        image.close()
        raise
    return image


def _scale_while_decoding(image: Image.Image, limits: MediaLimits) -> None:
    """Let a JPEG that is too large, though not absurdly so, come out at a fraction of its size."""
    width, height = image.size
    # Only JPEG can be decoded at a fraction of its size without decoding all of it.
    if image.format not in ("JPEG", "MPO") or width * height > _SCALED_PIXELS * limits.max_pixels:
        return
    for factor in (2, 4, 8):
        if image.width * image.height <= limits.max_pixels:
            break
        image.draft(None, (width // factor, height // factor))


def load_photo(
    source: Path | str | bytes | Image.Image,
    *,
    limits: MediaLimits | None = None,
    what: str = "photo",
    name: str | None = None,
    alpha_over: tuple[int, int, int] = (255, 255, 255),
) -> np.ndarray:
    """Read a photo as uint8 (H, W, 3): turned as its EXIF says, alpha over white, sRGB, the first frame.

    Args:
        source: file, its content, or an opened Pillow image.
        limits: bounds on file and pixels, checked before pixels are decoded; the defaults when ``None``.
        what, name: for error sentences, see `open_picture`.
        alpha_over: RGB that shows through transparent parts.

    Raises:
        InputError: missing, empty, truncated, too large, or not a picture.
    """
    limits = limits or MediaLimits()
    if isinstance(source, Image.Image):
        check_pixels(name or "given", *source.size, what=what, limits=limits)
        return _to_rgb(source, name=name or "given", what=what, alpha_over=alpha_over)
    source = source if isinstance(source, bytes) else Path(source)
    with open_picture(source, limits=limits, what=what, name=name) as image:
        named = name or (str(source) if isinstance(source, Path) else "given")
        return _to_rgb(image, name=named, what=what, alpha_over=alpha_over)


def _to_rgb(image: Image.Image, *, name: str, what: str, alpha_over: tuple[int, int, int]) -> np.ndarray:
    """Decode, and bring any mode to upright RGB uint8 (H, W, 3)."""
    try:
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
        # Profiles convert between colours only; transparency has to be carried along.
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


def _not_a_picture(name: str, header: bytes, what: str) -> str:
    if looks_like_video(header):
        return f"The {what} {name} is a video; give a picture such as JPEG or PNG."
    if header[4:8] == b"ftyp":
        missing = "" if _HEIF in _formats() else ", or install the package pillow-heif"
        return f"The {what} {name} is in a format that cannot be read here; save it as JPEG or PNG{missing}."
    if header[:2] == b"%!" or header[:4] == b"\xc5\xd0\xd3\xc6":
        return f"The {what} {name} is PostScript, which is a program and not opened; save it as JPEG or PNG."
    if looks_like_text(header):
        return f"The {what} {name} holds text, not a picture; download or export the picture itself."
    return f"The {what} {name} is not a picture that can be read; save it as JPEG or PNG."


def _no_jpeg_xl(name: str, what: str, limits: MediaLimits) -> str:
    if ffmpeg_program() is None:
        return f"The {what} {name} is JPEG XL, which is not read here; save it as JPEG or PNG."
    return (
        f"The {what} {name} is a JPEG XL file that is damaged or has more than {limits.max_pixels} pixels; "
        "save it as JPEG or PNG."
    )


@cache
def ffmpeg_program() -> str | None:
    """Path of imageio-ffmpeg's program; ``None`` where it has none for this kind of computer."""
    try:
        import imageio_ffmpeg

        return imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        return None


def ffmpeg_input(source: str, max_pixels: int, *options: str) -> list[str]:
    """The beginning of a command of `ffmpeg_program` that reads one plain file and nothing else.

    ``source`` is "file:" and a path, or "pipe:0".
    """
    # Playlists and the like could name other files or hosts, so only two protocols are allowed. Without
    # "-xerror" the decoder of JPEG XL reports the same damage without end.
    own = ["-v", "error", "-xerror", "-protocol_whitelist", "file,pipe", "-max_pixels", str(max_pixels)]
    no_keys = [] if source == "pipe:0" else ["-nostdin"]
    return [ffmpeg_program() or "", "-hide_banner", *no_keys, *own, *options, "-i", source]


def as_png(source: Path | bytes, *, max_pixels: int) -> bytes | None:
    """The first picture of a file, or of its content, as PNG of 8 bits; ``None`` if that fails."""
    if ffmpeg_program() is None:
        return None
    given, name = (None, f"file:{source}") if isinstance(source, Path) else (source, "pipe:0")
    output = ["-frames:v", "1", "-c:v", "png", "-pix_fmt", "rgba", "-f", "image2pipe", "pipe:1"]
    command = [*ffmpeg_input(name, max_pixels), *output]
    try:
        ran = subprocess.run(command, input=given, capture_output=True, timeout=_FFMPEG_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ran.stdout if ran.returncode == 0 and ran.stdout else None


def _broken(name: Path | str, what: str) -> str:
    return f"The {what} {name} is damaged or cut off; copy or download it again."


def check_file(path: Path, *, what: str, limits: MediaLimits) -> bytes:
    """Refuse a file that is missing, no file, unreadable, empty or too large; returns its first 64 bytes.

    Raises:
        InputError: with ``what`` it is to the user, the reason and the way out.
    """
    if not path.exists():
        raise InputError(f"The {what} {path} does not exist; check the name.")
    if not path.is_file():
        raise InputError(f"The {what} {path} is not a file; give an ordinary file.")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = file.read(HEADER_BYTES)
    except OSError as error:
        raise InputError(
            f"The {what} {path} cannot be read ({error.strerror}); check its permissions."
        ) from error
    if size == 0:
        raise InputError(f"The {what} {path} is empty; copy or download it again.")
    if size > limits.max_file_bytes:
        raise InputError(
            f"The {what} {path} has {human_bytes(size)} and the limit is "
            f"{human_bytes(limits.max_file_bytes)}; make it smaller or raise max_file_bytes."
        )
    return header


def check_pixels(path: Path | str, width: int, height: int, *, what: str, limits: MediaLimits) -> None:
    """Refuse a picture of more than ``limits.max_pixels`` pixels with an ``InputError``."""
    if width * height > limits.max_pixels:
        side = math.isqrt(limits.max_pixels)
        raise InputError(
            f"The {what} {path} has {width}x{height} pixels and the limit is {limits.max_pixels} "
            f"(for instance {side}x{side}); scale it down or raise max_pixels."
        )


def looks_like_video(header: bytes) -> bool:
    """Whether the first bytes are those of mp4, mov, Matroska, WebM or AVI (HEIF pictures are not)."""
    if header[4:8] == b"ftyp":
        return header[8:12] not in (b"heic", b"heix", b"mif1", b"msf1", b"avif", b"avis", b"hevc")
    return (
        header[4:8] in (b"moov", b"mdat", b"wide")
        or header[:4] == b"\x1a\x45\xdf\xa3"
        or (header[:4] == b"RIFF" and header[8:12] == b"AVI ")
    )


def looks_like_text(header: bytes) -> bool:
    """Whether the first bytes are printable text, as of a web page saved under a wrong name."""
    return bool(header) and all(byte in b"\t\n\r" or 32 <= byte < 127 or byte >= 128 for byte in header)


def is_jpeg_xl(header: bytes) -> bool:
    """Whether the first bytes are those of JPEG XL, bare or in its container (ISO/IEC 18181-2)."""
    return header[:2] == b"\xff\x0a" or header[:12] == b"\x00\x00\x00\x0cJXL \r\n\x87\n"
