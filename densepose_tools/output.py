"""Where part maps go: a video in their colours, as large and fast as the clip."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from densepose_tools.archive import ClipInfo, is_archive
from magicanimate.config import ShouldStop
from magicanimate.errors import Cancelled, InputError
from magicanimate.media.writer import VideoWriter, check_output
from magicanimate.palette import colourise
from magicanimate.progress import ProgressMeter

CODECS = ("lossless", "h264")
SUFFIXES = (".mp4", "")


@dataclass(frozen=True)
class Output:
    """Where results go and how.

    Attributes:
        video: the motion video, ``.mp4``, or without a suffix a folder of png frames.
        archive: ``.npz`` with what was found, or ``None``.
        codec: "lossless" keeps the colours to the last bit; "h264" plays everywhere.
        sound: keep the clip's sound.
    """

    video: Path
    archive: Path | None = None
    codec: str = "lossless"
    sound: bool = False

    def check(self) -> None:
        """Refuse what cannot be written, before any work.

        Raises:
            InputError: see ``magicanimate.media.writer.check_output``; or another kind of file.
        """
        if self.video.suffix.lower() not in SUFFIXES:
            raise InputError(
                f"The output {self.video} must be an .mp4, or have no suffix for a folder of png frames."
            )
        if self.codec not in CODECS:
            raise InputError(f"The codec {self.codec!r} is unknown; choose one of: {', '.join(CODECS)}.")
        check_output(self.video)
        if self.archive is not None:
            if self.archive.suffix != ".npz" or self.archive.is_dir():
                raise InputError(f"The archive {self.archive} must be a file that ends in .npz.")
            if self.archive.exists() and not is_archive(self.archive):
                raise InputError(f"{self.archive} exists and is something else; choose another output.")
            self.archive.parent.mkdir(parents=True, exist_ok=True)


def write_maps(
    maps: Iterable[np.ndarray],
    info: ClipInfo,
    output: Output,
    meter: ProgressMeter,
    stop: ShouldStop,
    **sound: Any,
) -> int:
    """Write part maps as a video; returns how many there were."""
    meter.begin("write", info.num_frames)
    writer = VideoWriter(
        output.video,
        width=info.width,
        height=info.height,
        fps=info.rate,
        metadata=info.settings,
        lossless=output.codec == "lossless",
        **sound,
    )
    with writer:
        for labels in maps:
            if stop():
                raise Cancelled
            writer.write(colourise(labels))
            meter.update(writer.num_frames, max(info.num_frames, writer.num_frames))
    return writer.num_frames
