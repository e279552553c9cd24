"""Files that somebody puts in who means no good."""

from __future__ import annotations

ELF = b"\x7fELF\x02\x01\x01" + bytes(range(256)) * 8
"""The beginning of a program for Linux."""

_SCRIPT = b"<script>window.ran = true; fetch('/ran')</script>"
HTML = b"<!DOCTYPE html><title>x</title>" + _SCRIPT
SVG = b"<svg xmlns='http://www.w3.org/2000/svg'>" + _SCRIPT + b"</svg>"
"""Pages with a script that leaves traces."""


def gif_of(width: int, height: int, frames: int) -> bytes:
    """A gif of a large canvas whose frames are a pixel each, in a few bytes."""
    size = width.to_bytes(2, "little") + height.to_bytes(2, "little")
    frame = b"\x21\xf9\x04\0\x04\0\0\0" + b"\x2c\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0"
    return b"GIF89a" + size + b"\xf0\0\0" + bytes(6) + frame * frames + b"\x3b"
