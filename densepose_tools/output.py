"""Writes part maps as a motion video, with its copies and archive."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densepose_tools.archive import ClipInfo, is_archive
from densepose_tools.deflicker import FlickerMeter
from densepose_tools.postprocess import PartMaps
from magicanimate.config import ShouldStop
from magicanimate.errors import Cancelled, InputError
from magicanimate.media.outputs import check_file_output, check_output
from magicanimate.media.writer import VideoWriter, close_together
from magicanimate.palette import colourise
from magicanimate.progress import ProgressMeter

CODECS = ("lossless", "h264")
SUFFIXES = (".mp4", "")


@dataclass(frozen=True)
class Output:
    """Where results are written, and in which form.

    Attributes:
        video: path of the motion video: ``.mp4``, or no suffix for a folder of png frames.
        archive: ``.npz`` for the people found, or ``None``.
        codec: "lossless" keeps the exact colours; "h264" plays everywhere.
        sound: keep the clip's sound.
        playable: ``.mp4`` for a copy that browsers play, with approximate colours, or ``None``.
        playable_plain: the same without deflickering and retargeting, written only if either was done.
        overwrite: replace files that this program did not make.
        key_every: frames between key frames, see `VideoWriter`.
    """

    video: Path
    archive: Path | None = None
    codec: str = "lossless"
    sound: bool = False
    playable: Path | None = None
    playable_plain: Path | None = None
    overwrite: bool = False
    key_every: int | None = None

    def check(self, *inputs: Path | None) -> None:
        """Check the paths, before any work is done.

        Args:
            inputs: files that are read, and so must not be overwritten.

        Raises:
            InputError: see `magicanimate.media.outputs.check_output`; or the archive is no ``.npz``.
        """
        if self.codec not in CODECS:
            raise InputError(f"The codec {self.codec!r} is unknown; choose one of: {', '.join(CODECS)}.")
        how = {"inputs": inputs, "overwrite": self.overwrite}
        check_output(self.video, suffixes=SUFFIXES, **how)
        if self.archive is not None:
            if self.archive.suffix != ".npz":
                raise InputError(f"The archive {self.archive} must be a file that ends in .npz.")
            check_file_output(self.archive, is_archive, **how)


@dataclass(frozen=True)
class Written:
    """What `write_maps` wrote.

    Attributes:
        num_frames: number of maps.
        plain: path of the copy without deflickering and retargeting, or ``None``.
        flicker: flicker of the maps before and after, as `FlickerMeter.score`, or ``None``.
    """

    num_frames: int
    plain: Path | None
    flicker: tuple[float, float] | None


def write_maps(
    part_maps: PartMaps,
    info: ClipInfo,
    output: Output,
    meter: ProgressMeter,
    stop: ShouldStop,
    *,
    beside: Mapping[Path, Callable[[Path], object]] | None = None,
    **sound: Any,
) -> Written:
    """Write part maps as a video, with the requested copies; either all files appear, or none.

    ``beside`` are other files to appear with them, see `magicanimate.media.writer.close_together`.
    """
    meter.begin("write", info.num_frames)
    plain_copy = output.playable_plain if part_maps.plain is not None else None
    after, before = FlickerMeter(), FlickerMeter()
    size = {"width": part_maps.width, "height": part_maps.height, "fps": info.rate}
    with ExitStack() as stack:
        add = stack.enter_context
        lossless = output.codec == "lossless"
        # Only the video itself carries settings and exact colours; copies are for looking at.
        kept = {"metadata": info.settings, "lossless": lossless, "key_every": output.key_every}
        video = add(VideoWriter(output.video, **size, **kept, **sound))
        copies = [video]
        if output.playable is not None:
            copies.append(add(VideoWriter(output.playable, **size, **sound)))
        # Without retargeting the maps have the clip's size, not the photo's aspect.
        plain_size = size | {"width": info.width, "height": info.height}
        plain_writer = add(VideoWriter(plain_copy, **plain_size)) if plain_copy is not None else None
        if part_maps.plain is None:
            pairs = ((labels, None) for labels in part_maps.maps)
        else:
            # Both versions in one pass, as each is made frame by frame.
            pairs = zip(after.watch(part_maps.maps), before.watch(part_maps.plain), strict=True)
        for labels, plain in pairs:
            if stop():
                raise Cancelled
            # Coloured once for all writers.
            picture = colourise(labels)
            for copy in copies:
                copy.write(picture)
            if plain_writer is not None:
                plain_writer.write(colourise(plain))
            meter.update(video.num_frames, max(info.num_frames, video.num_frames))
        close_together([*copies, *([plain_writer] if plain_writer is not None else [])], beside)
    # Without a plain version there is nothing to compare with.
    flicker = None if part_maps.plain is None else (before.score, after.score)
    return Written(video.num_frames, plain_copy, flicker)
