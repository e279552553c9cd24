"""What must hold of any input file before it is opened."""

from __future__ import annotations

import math
from pathlib import Path

from magicanimate.config import MediaLimits
from magicanimate.errors import InputError

HEADER_BYTES = 64


def check_file(path: Path, *, what: str, limits: MediaLimits) -> bytes:
    """Refuse a file that is missing, not a file, unreadable, empty or too large.

    Args:
        path: the file.
        what: "photo" or "motion clip", for the sentence.
        limits: ``max_file_bytes`` is used.

    Returns:
        Its first 64 bytes.

    Raises:
        InputError: with the reason and the way out.
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
            f"The {what} {path} has {_size(size)} and the limit is {_size(limits.max_file_bytes)}; "
            "make it smaller or raise max_file_bytes."
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


def _size(count: int) -> str:
    """A byte count for people."""
    value = float(count)
    for unit in ("bytes", "KB", "MB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GB"
