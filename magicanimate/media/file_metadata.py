"""Settings inside the result: written by the encoders, read back here."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import av

from magicanimate.errors import InputError
from magicanimate.files import file_name, parse_json
from magicanimate.media.photo import open_picture
from magicanimate.media.video_file import open_container

PNG_KEY = "magicanimate"
"""Keyword of the text chunk in png frames; other files have the JSON as their comment."""


PNG_SOFTWARE = "MagicAnimate"
"""Software text of every png frame written here; a folder is replaced only if its frames have it."""


FRAME_NAME = re.compile(r"\d{6,}\.png")
"""Names of the png frames written here."""


PATHS = ("photo", "motion", "keypoints", "output", "weights")
"""Settings that name files."""


def names_only(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a file may carry them that goes to others: of paths, which name people, the last part."""
    return {
        name: file_name(value) if name in PATHS and value is not None else value
        for name, value in settings.items()
    }


def encode_settings(settings: Mapping[str, Any]) -> str:
    """Settings as one line of ASCII JSON, which every container keeps unchanged; files without folders."""
    return json.dumps(names_only(settings), default=str)


def read_metadata(path: Path | str) -> dict[str, Any] | None:
    """The settings inside a result, or ``None`` if it has none or is not one of ours.

    Args:
        path: mp4, webm, gif, a png frame, or a folder of png frames.
    """
    path = Path(path)
    if path.is_dir():
        path = min(path.glob("*.png"), default=path)
    if not path.is_file():
        return None
    try:
        text = _text(path)
        settings = parse_json(text) if text else None
    except (InputError, av.FFmpegError, OSError, ValueError, SyntaxError):
        return None
    return settings if isinstance(settings, dict) else None


def is_our_frame(path: Path) -> bool:
    """Whether a png file was written by this program."""
    if not path.is_file():
        return False
    try:
        with open_picture(path, what="frame") as image:
            return image.info.get("Software") == PNG_SOFTWARE
    except InputError:
        return False


def _text(path: Path) -> str | None:
    if path.suffix.lower() in (".png", ".gif"):
        with open_picture(path, what="file") as image:
            found = image.info.get(PNG_KEY) or image.info.get("comment")
        return found.decode("utf-8", "replace") if isinstance(found, bytes) else found
    with open_container(path) as container:
        tags = {key.lower(): value for key, value in container.metadata.items()}
    return tags.get("comment")


def insert_gif_comment(path: Path, text: str) -> None:
    """Put a comment extension (GIF89a specification, section 24) behind the header of a gif file."""
    data = path.read_bytes()
    packed = data[10]
    head = 13 + (3 * 2 ** ((packed & 7) + 1) if packed & 0x80 else 0)
    raw = text.encode("utf-8")
    blocks = b"".join(bytes([len(raw[i : i + 255])]) + raw[i : i + 255] for i in range(0, len(raw), 255))
    path.write_bytes(data[:head] + b"\x21\xfe" + blocks + b"\x00" + data[head:])
