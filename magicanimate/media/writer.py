"""Write a video, gif or folder of frames: streaming, and complete or not at all."""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from magicanimate.errors import InputError
from magicanimate.media.encoders import ContainerEncoder, Encoder, FolderEncoder, GifEncoder
from magicanimate.media.file_metadata import encode_settings, is_our_frame, read_metadata
from magicanimate.media.sound import has_sound
from magicanimate.media.timing import as_rate

__all__ = ["SUFFIXES", "VideoWriter", "check_output", "read_metadata"]

logger = logging.getLogger(__name__)

SUFFIXES = (".mp4", ".webm", ".gif", "")
"""What can be written; no suffix is a folder of png frames."""

_OUR_FRAME = re.compile(r"\d{6}\.png")


def check_output(path: Path | str) -> Path:
    """Refuse a place that nothing can be written to, before any work is done. Makes missing folders.

    An existing file of the same kind is fine, and so is a folder with nothing but frames written by this
    program: they are replaced when the new output is complete.

    Raises:
        InputError: unknown suffix, a folder where a file should go or the reverse, foreign files, no rights.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"The output {path} has the unknown suffix {path.suffix!r}; "
            "use .mp4, .webm, .gif, or none for a folder of png frames."
        )
    if path.suffix and path.is_dir():
        raise InputError(f"The output {path} is a folder; choose another name for the file.")
    if not path.suffix and path.exists():
        if not path.is_dir():
            raise InputError(f"The output {path} is a file; choose another name for the folder of frames.")
        entries = sorted(path.iterdir())
        if not all(_OUR_FRAME.fullmatch(entry.name) and is_our_frame(entry) for entry in entries):
            raise InputError(f"The output {path} is a folder that holds other files; choose a new folder.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"The folder {path.parent} cannot be made ({error.strerror}); choose another place."
        ) from error
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"The folder {path.parent} cannot be written to; choose another place.")
    return path


class VideoWriter:
    """Writes frames one by one; use it as a context.

    It writes under a temporary name beside the target. Leaving the context normally puts the finished output
    in its place, replacing an older one; leaving it by an exception removes everything written.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        width: int,
        height: int,
        fps: float | Fraction,
        metadata: Mapping[str, Any] | None = None,
        sound_from: Path | None = None,
        sound_start: float = 0.0,
        quality: int | None = None,
        lossless: bool = False,
        seal: Callable[[Path], None] | None = None,
    ) -> None:
        """Open the output; its kind follows the suffix of ``path``.

        - .mp4: H.264, yuv420p, BT.709 and tagged so, index first, AAC sound; odd sizes grow by one pixel.
        - .webm: VP9 and Opus, otherwise the same.
        - .gif: endless, at most 50 frames a second, no sound.
        - no suffix: a folder of 000000.png, 000001.png, ..., no sound.

        Args:
            path: where the output goes.
            width, height: of the frames, pixels.
            fps: frames a second; 29.97003 is written as 30000/1001.
            metadata: JSON-ready settings, stored inside the file, which names photo and clip without their
                folders; ``read_metadata`` gives them back.
            sound_from: file whose sound is added; one without sound is no error.
            sound_start: where in it the first frame lies, seconds.
            quality: constant rate factor of mp4 and webm, lower is better.
            lossless: keep every pixel of an mp4 (frames of a folder always are); sizes do not grow then.
            seal: called with the finished output, still under its temporary name; may change the file.

        Raises:
            InputError: see ``check_output``; or the file cannot be opened.
        """
        self.path = check_output(path)
        self.width = width
        self.height = height
        self.rate = as_rate(fps)
        if lossless and self.path.suffix.lower() not in (".mp4", ""):
            raise ValueError(f"{self.path.suffix} cannot be written without loss")
        if width < 1 or height < 1 or self.rate <= 0:
            raise ValueError(f"cannot write {width}x{height} pixels at {fps} frames a second")
        self.num_frames = 0
        self._seal = seal
        suffix = self.path.suffix.lower()
        self._partial = self.path.with_name(f".{self.path.stem}.{secrets.token_hex(4)}.partial{suffix}")
        self._open = True
        comment = encode_settings(metadata) if metadata is not None else None
        if sound_from is not None and (suffix not in (".mp4", ".webm") or not has_sound(sound_from)):
            logger.warning("%s is written without sound", self.path)
            sound_from = None
        self._encoder: Encoder
        try:
            if suffix == "":
                self._encoder = FolderEncoder(self._partial, comment=comment)
            elif suffix == ".gif":
                self._encoder = GifEncoder(
                    self._partial, width=width, height=height, rate=self.rate, comment=comment
                )
            else:
                self._encoder = ContainerEncoder(
                    self._partial,
                    kind=suffix[1:],
                    width=width,
                    height=height,
                    rate=self.rate,
                    quality=quality,
                    comment=comment,
                    sound_from=sound_from,
                    sound_start=sound_start,
                    lossless=lossless,
                )
        except (av.FFmpegError, OSError) as error:
            self._remove_partial()
            raise self._failed(error) from error

    def write(self, frame: np.ndarray) -> None:
        """Add uint8 (height, width, 3).

        Raises:
            ValueError: another shape or type, or the writer is closed.
            InputError: the disk is full or gone.
        """
        if not self._open:
            raise ValueError(f"{self.path} is closed")
        if frame.shape != (self.height, self.width, 3) or frame.dtype != np.uint8:
            raise ValueError(
                f"expected uint8 {(self.height, self.width, 3)}, not {frame.dtype} {tuple(frame.shape)}"
            )
        try:
            self._encoder.write(frame)
        except (av.FFmpegError, OSError) as error:
            self.discard()
            raise self._failed(error) from error
        self.num_frames += 1

    def close(self) -> Path:
        """Finish the output and put it in its place; returns the path.

        Raises:
            ValueError: no frame was written.
            InputError: it cannot be completed.
        """
        if not self._open:
            return self.path
        if self.num_frames == 0:
            self.discard()
            raise ValueError(f"no frame was written to {self.path}")
        try:
            self._encoder.finish()
            self._open = False
            if self._seal is not None:
                self._seal(self._partial)
            self._put_in_place()
        except (av.FFmpegError, OSError) as error:
            self.discard()
            raise self._failed(error) from error
        return self.path

    def discard(self) -> None:
        """Give up and remove what was written; an older output stays as it was."""
        if self._open:
            self._open = False
            try:
                self._encoder.abandon()
            except (av.FFmpegError, OSError) as error:
                logger.debug("closing %s: %s", self._partial, error)
        self._remove_partial()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def _put_in_place(self) -> None:
        if self._partial.is_dir() and self.path.is_dir():
            # A folder cannot replace another in one step; the old one is kept until the new one is there.
            old = self._partial.with_name(self._partial.name + ".old")
            os.replace(self.path, old)
            os.replace(self._partial, self.path)
            shutil.rmtree(old)
        else:
            os.replace(self._partial, self.path)

    def _remove_partial(self) -> None:
        if self._partial.is_dir():
            shutil.rmtree(self._partial, ignore_errors=True)
        else:
            self._partial.unlink(missing_ok=True)

    def _failed(self, error: Exception) -> InputError:
        reason = getattr(error, "strerror", None) or str(error)
        return InputError(
            f"The output {self.path} cannot be written ({reason}); free some room or choose another place."
        )
