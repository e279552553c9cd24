"""The kinds of output: H.264 and VP9 video, gif, and a folder of png frames, one frame at a time each."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Protocol

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from PIL import Image, PngImagePlugin

from magicanimate.media.file_metadata import PNG_KEY, PNG_SOFTWARE, insert_gif_comment
from magicanimate.media.sound import SoundTrack

_BT709 = 1
"""ITU-T H.273: primaries 1, transfer 1 and matrix 1 are those of BT.709."""

_RGB = 0
"""H.273, table 4: no matrix."""

_LIMITED_RANGE, _FULL_RANGE = 1, 2

_GIF_TICKS = 100
"""A gif counts time in hundredths of a second."""

_GIF_SHORTEST = 2
"""Browsers show delays of less than two hundredths much slower."""


class Encoder(Protocol):
    """Takes frames one after the other and finishes or gives up."""

    def write(self, frame: np.ndarray) -> None:
        """Encode uint8 (height, width, 3)."""

    def finish(self) -> None:
        """Write what is left and close the file."""

    def abandon(self) -> None:
        """Close the file without caring for its content."""


class ContainerEncoder:
    """mp4 (H.264, AAC) or webm (VP9, Opus), yuv420p in BT.709, tagged so; or mp4 that loses nothing.

    4:2:0 needs even sizes: an odd width or height grows by repeating the last column or row. Lossless files
    are H.264 in RGB (profile High 4:4:4 Predictive), which browsers and some players do not show.
    """

    def __init__(
        self,
        path: Path,
        *,
        kind: str,
        width: int,
        height: int,
        rate: Fraction,
        quality: int | None,
        comment: str | None,
        sound_from: Path | None,
        sound_start: float,
        lossless: bool,
    ) -> None:
        """Open the file.

        Args:
            path: to write.
            kind: "mp4" or "webm".
            width, height: of the frames given.
            rate: frames a second.
            quality: constant rate factor, lower is better; 17 (mp4) or 24 (webm) when ``None``.
            comment: text for the container's comment tag.
            sound_from, sound_start: file and second to take sound from.
            lossless: keep every pixel as it is; mp4 only.
        """
        self._rate = rate
        self._count = 0
        self._lossless = lossless
        self._pad = ((0, 0),) * 3 if lossless else ((0, height % 2), (0, width % 2), (0, 0))
        mp4 = kind == "mp4"
        # "+faststart" puts the index first, so that a browser plays while it loads.
        options = {"movflags": "+faststart"} if mp4 else {}
        self._container = av.open(str(path), mode="w", format=kind, options=options)
        if comment:
            self._container.metadata["comment"] = comment
        crf = str(quality if quality is not None else (17 if mp4 else 24))
        codec, codec_options = "libx264", {"crf": crf}
        if lossless:
            codec, codec_options = "libx264rgb", {"qp": "0"}
        elif not mp4:
            codec = "libvpx-vp9"
            codec_options = {"crf": crf, "deadline": "good", "cpu-used": "3", "row-mt": "1"}
        self._stream = self._container.add_stream(codec, rate=rate, options=codec_options)
        if not mp4:
            self._stream.bit_rate = 0
        self._stream.width = width + self._pad[1][1]
        self._stream.height = height + self._pad[0][1]
        self._stream.pix_fmt = "rgb24" if lossless else "yuv420p"
        context = self._stream.codec_context
        context.time_base = 1 / rate
        context.color_primaries = context.color_trc = _BT709
        context.colorspace = _RGB if lossless else _BT709
        context.color_range = _FULL_RANGE if lossless else _LIMITED_RANGE
        self._sound = None
        if sound_from is not None:
            codec = "aac" if mp4 else "libopus"
            self._sound = SoundTrack(self._container, sound_from, start=sound_start, codec=codec)

    def write(self, frame: np.ndarray) -> None:
        """Encode uint8 (height, width, 3), and the sound that goes with it."""
        if self._pad != ((0, 0), (0, 0), (0, 0)):
            frame = np.pad(frame, self._pad, mode="edge")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        if not self._lossless:
            picture = picture.reformat(
                format="yuv420p",
                src_colorspace=Colorspace.DEFAULT,
                dst_colorspace=Colorspace.ITU709,
                src_color_range=ColorRange.JPEG,
                dst_color_range=ColorRange.MPEG,
                interpolation=Interpolation.BICUBIC,
            )
            picture.color_primaries = picture.color_trc = picture.colorspace = _BT709
            picture.color_range = _LIMITED_RANGE
        picture.pts = self._count
        picture.time_base = 1 / self._rate
        self._count += 1
        self._container.mux(self._stream.encode(picture))
        if self._sound is not None:
            self._sound.advance(float(self._count / self._rate))

    def finish(self) -> None:
        """Flush both encoders and close the file."""
        self._container.mux(self._stream.encode(None))
        if self._sound is not None:
            self._sound.finish()
        self._container.close()

    def abandon(self) -> None:
        """Close the file."""
        if self._sound is not None:
            self._sound.close()
        self._container.close()


class GifEncoder:
    """An endless gif, a palette of its own for each frame, ordered dithering that does not crawl."""

    def __init__(self, path: Path, *, width: int, height: int, rate: Fraction, comment: str | None) -> None:
        """Open the file; see ``ContainerEncoder`` for the arguments."""
        self._path = path
        self._rate = rate
        self._comment = comment
        self._count = 0
        self._last: int | None = None
        self._container = av.open(str(path), mode="w", format="gif", options={"loop": "0"})
        self._stream = self._container.add_stream("gif", rate=_GIF_TICKS)
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = "pal8"
        self._stream.codec_context.time_base = Fraction(1, _GIF_TICKS)
        self._graph = _palette_graph(width, height)

    def write(self, frame: np.ndarray) -> None:
        """Encode uint8 (height, width, 3); frames beyond 50 a second are left out."""
        moment = round(self._count * _GIF_TICKS / self._rate)
        self._count += 1
        if self._last is not None and moment - self._last < _GIF_SHORTEST:
            return
        self._last = moment
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture.pts = moment
        picture.time_base = Fraction(1, _GIF_TICKS)
        self._graph.push(picture)
        self._drain()

    def finish(self) -> None:
        """Write what is left, close the file and put the comment in."""
        self._graph.push(None)
        self._drain()
        self._container.mux(self._stream.encode(None))
        self._container.close()
        if self._comment:
            insert_gif_comment(self._path, self._comment)

    def abandon(self) -> None:
        """Close the file."""
        self._container.close()

    def _drain(self) -> None:
        while True:
            try:
                frame = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            self._container.mux(self._stream.encode(frame))


def _palette_graph(width: int, height: int) -> av.filter.Graph:
    """A filter graph from RGB to 256 colours chosen for each frame."""
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=width, height=height, format="rgb24", time_base=Fraction(1, _GIF_TICKS), name="in"
    )
    split = graph.add("split", "2")
    choose = graph.add("palettegen", "stats_mode=single")
    use = graph.add("paletteuse", "new=1:dither=bayer:bayer_scale=4")
    sink = graph.add("buffersink")
    source.link_to(split)
    split.link_to(use, 0, 0)
    split.link_to(choose, 1, 0)
    choose.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    return graph


class FolderEncoder:
    """000000.png, 000001.png, ... with the settings in each."""

    def __init__(self, folder: Path, *, comment: str | None) -> None:
        """Make the folder."""
        self._folder = folder
        self._count = 0
        self._info = PngImagePlugin.PngInfo()
        self._info.add_text("Software", PNG_SOFTWARE)
        if comment:
            self._info.add_itxt(PNG_KEY, comment)
        folder.mkdir()

    def write(self, frame: np.ndarray) -> None:
        """Write uint8 (height, width, 3) as the next file."""
        Image.fromarray(frame).save(self._folder / f"{self._count:06d}.png", pnginfo=self._info)
        self._count += 1

    def finish(self) -> None:
        """Nothing is left to do."""

    def abandon(self) -> None:
        """Nothing is open."""
