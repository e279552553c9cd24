"""The ffmpeg program of imageio-ffmpeg, for what PyAV and Pillow cannot decode.

Its build has decoders that PyAV's lacks, of JPEG XL and of AVS2 and AVS3 among others. It runs as a process
of its own, reads one plain file, and what it has decoded comes back through a pipe.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import BinaryIO, cast

_PICTURE_SECONDS = 60
"""What the largest pictures that are taken need is a fraction of that."""


@cache
def ffmpeg_program() -> str | None:
    """Path of the program; ``None`` where there is none for this kind of computer."""
    try:
        import imageio_ffmpeg

        return imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        return None


def as_png(source: Path | bytes, *, max_pixels: int) -> bytes | None:
    """The first picture of a file, or of its content, as PNG with 8 bits a channel.

    Returns:
        ``None`` if it cannot be decoded, or has more pixels than that.
    """
    program = ffmpeg_program()
    if program is None:
        return None
    given, name = (None, f"file:{source}") if isinstance(source, Path) else (source, "pipe:0")
    words = ["-frames:v", "1", "-c:v", "png", "-pix_fmt", "rgba", "-f", "image2pipe", "pipe:1"]
    command = [*_reading(program, name, max_pixels), *words]
    try:
        ran = subprocess.run(command, input=given, capture_output=True, timeout=_PICTURE_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ran.stdout if ran.returncode == 0 and ran.stdout else None


@contextmanager
def as_matroska(path: Path, *, demuxers: str, max_pixels: int) -> Iterator[BinaryIO]:
    """A Matroska stream of the first moving pictures of a file, without loss, and of its first sound.

    Args:
        path: the file.
        demuxers: names of the containers that may be opened.
        max_pixels: of a picture.

    Raises:
        OSError: the program cannot be started.
    """
    words = ["-map", "0:v:0", "-map", "0:a:0?", "-c:v", "ffv1", "-c:a", "copy", "-fps_mode", "passthrough"]
    reading = _reading(ffmpeg_program() or "", f"file:{path}", max_pixels, "-format_whitelist", demuxers)
    command = [*reading, *words, "-f", "matroska", "pipe:1"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield cast(BinaryIO, process.stdout)  # which is a pipe, as asked for
        finally:
            process.kill()


def _reading(program: str, source: str, max_pixels: int, *options: str) -> list[str]:
    """The beginning of a command that reads a file, and nothing that the file may name."""
    # Without "-xerror" the decoder of JPEG XL reports the same damage for ever.
    own = ["-v", "error", "-xerror", "-protocol_whitelist", "file,pipe", "-max_pixels", str(max_pixels)]
    return [
        program,
        "-hide_banner",
        *([] if source == "pipe:0" else ["-nostdin"]),
        *own,
        *options,
        "-i",
        source,
    ]
