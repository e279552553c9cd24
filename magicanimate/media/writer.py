"""Write a video, gif or folder of frames: streaming, and complete or not at all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.codec.codec import UnknownCodecError

from magicanimate.errors import InputError
from magicanimate.files import partial_path, put_in_place, remove
from magicanimate.media.encoders import ContainerEncoder, Encoder, FolderEncoder, GifEncoder
from magicanimate.media.file_metadata import encode_settings, read_metadata
from magicanimate.media.outputs import PROGRAM, SUFFIXES, check_output
from magicanimate.media.sound import has_sound
from magicanimate.media.timing import as_rate

__all__ = ["SUFFIXES", "VideoWriter", "check_output", "close_together", "read_metadata"]

logger = logging.getLogger(__name__)


class VideoWriter:
    """Writes frames one by one; use it as a context.

    It writes under a temporary name beside the target. Leaving the context normally puts the finished output
    in its place, replacing an older one; leaving it by an exception removes everything written. What may be
    replaced is not asked here but in `magicanimate.media.outputs`, before the work.
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
            metadata: JSON-ready settings, stored inside the file with the mark of this program; they name
                photo and clip without their folders, and ``read_metadata`` gives them back.
            sound_from: file whose sound is added; one without sound is no error.
            sound_start: where in it the first frame lies, seconds.
            quality: constant rate factor of mp4 and webm, lower is better.
            lossless: keep every pixel of an mp4 (frames of a folder always are); sizes do not grow then.
            seal: called with the finished output, still under its temporary name; may change the file.

        Raises:
            InputError: the file cannot be opened, or a folder holds what this program did not make.
        """
        self.path = check_output(path, overwrite=True)
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
        self._partial = partial_path(self.path)
        self._open = True
        comment = encode_settings({"program": PROGRAM, **(metadata or {})})
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
        except UnknownCodecError as error:  # some distributions build ffmpeg without H.264
            remove(self._partial)
            raise InputError(
                f"{self.path} cannot be written: the installed PyAV has no encoder {error}; install av from "
                "PyPI, or write a .gif or a folder of frames."
            ) from error
        except (av.FFmpegError, OSError) as error:
            remove(self._partial)
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
        close_together([self])
        return self.path

    def _finish(self) -> None:
        """Complete the output under its temporary name."""
        if self.num_frames == 0:
            raise ValueError(f"no frame was written to {self.path}")
        self._encoder.finish()
        self._open = False
        if self._seal is not None:
            self._seal(self._partial)

    def discard(self) -> None:
        """Give up and remove what was written; an older output stays as it was."""
        if self._open:
            self._open = False
            try:
                self._encoder.abandon()
            except (av.FFmpegError, OSError) as error:
                logger.debug("closing %s: %s", self._partial, error)
        remove(self._partial)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def _failed(self, error: Exception) -> InputError:
        reason = getattr(error, "strerror", None) or str(error)
        return InputError(
            f"The output {self.path} cannot be written ({reason}); free some room or choose another place."
        )


def close_together(
    writers: Sequence[VideoWriter], files: Mapping[Path, Callable[[Path], object]] | None = None
) -> None:
    """Finish several outputs and put them in their places, and other files with them: all of them or none.

    Args:
        writers: those that are closed already are passed over.
        files: path -> function that writes the file that goes there to a temporary path.

    Raises:
        ValueError: no frame was written to one of them.
        InputError: something cannot be completed.
    """
    writers = [writer for writer in writers if writer._open]
    pairs = [(writer._partial, writer.path) for writer in writers]
    current = None
    try:
        for writer in writers:
            current = writer
            writer._finish()
        for path, write in (files or {}).items():
            pairs.append((partial_path(path), path))
            write(pairs[-1][0])
        put_in_place(pairs)
    except BaseException as error:
        for writer in writers:
            writer.discard()
        for partial, _ in pairs:
            remove(partial)
        if isinstance(error, (av.FFmpegError, OSError)) and current is not None:
            raise current._failed(error) from error
        raise
