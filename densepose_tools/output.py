"""Where part maps go: a video in their colours, as large and fast as the clip."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densepose_tools.archive import ClipInfo, is_archive
from densepose_tools.steady import FlickerMeter
from densepose_tools.treatment import Sequel
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
        playable: ``.mp4`` for a copy in near colours that browsers play, or ``None``.
        playable_plain: the same of the maps without what was done to them, written only if something was.
    """

    video: Path
    archive: Path | None = None
    codec: str = "lossless"
    sound: bool = False
    playable: Path | None = None
    playable_plain: Path | None = None

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


@dataclass(frozen=True)
class Written:
    """What ``write_maps`` wrote.

    Attributes:
        num_frames: how many maps there were.
        plain: the copy of the maps without what was done to them, or ``None``.
        flicker: of the maps before and after what was done to them, as `FlickerMeter.score`; or ``None``.
    """

    num_frames: int
    plain: Path | None
    flicker: tuple[float, float] | None


def write_maps(
    sequel: Sequel, info: ClipInfo, output: Output, meter: ProgressMeter, stop: ShouldStop, **sound: Any
) -> Written:
    """Write part maps as a video, and the copies that are asked for."""
    meter.begin("write", info.num_frames)
    plain_copy = output.playable_plain if sequel.plain is not None else None
    after, before = FlickerMeter(), FlickerMeter()
    size = {"width": sequel.width, "height": sequel.height, "fps": info.rate}
    with ExitStack() as stack:
        add = stack.enter_context
        lossless = output.codec == "lossless"
        video = add(VideoWriter(output.video, **size, metadata=info.settings, lossless=lossless, **sound))
        copies = [video]
        if output.playable is not None:
            copies.append(add(VideoWriter(output.playable, **size, **sound)))
        plain_size = size | {"width": info.width, "height": info.height}
        plain_writer = add(VideoWriter(plain_copy, **plain_size)) if plain_copy is not None else None
        if sequel.plain is None:
            pairs = ((labels, None) for labels in sequel.maps)
        else:
            pairs = zip(after.watch(sequel.maps), before.watch(sequel.plain), strict=True)
        for labels, plain in pairs:
            if stop():
                raise Cancelled
            picture = colourise(labels)
            for copy in copies:
                copy.write(picture)
            if plain_writer is not None:
                plain_writer.write(colourise(plain))
            meter.update(video.num_frames, max(info.num_frames, video.num_frames))
    flicker = None if sequel.plain is None else (before.score, after.score)
    return Written(video.num_frames, plain_copy, flicker)
