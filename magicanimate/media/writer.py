"""Write a video, gif or folder of frames: streaming, with sound, and complete or not at all.

H.264 and VP9 video, gif, and a folder of png frames each have an encoder that takes one frame at a time.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
from av.codec.codec import UnknownCodecError
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from PIL import Image, PngImagePlugin

from magicanimate.errors import InputError
from magicanimate.files import keep_track, partial_path, put_in_place, remove
from magicanimate.media.motion import as_rate
from magicanimate.media.outputs import (
    PNG_KEY,
    PNG_SOFTWARE,
    PROGRAM,
    SUFFIXES,
    check_output,
    encode_settings,
    insert_gif_comment,
    read_metadata,
)
from magicanimate.media.video_file import decoded, open_container, picture_stream, sound_stream

__all__ = ["SUFFIXES", "VideoWriter", "check_output", "close_together", "read_metadata"]
logger = logging.getLogger(__name__)

# ITU-T H.273: primaries 1, transfer 1 and matrix 1 are those of BT.709.
_BT709 = 1

# H.273, table 4: no matrix.
_RGB = 0

_LIMITED_RANGE, _FULL_RANGE = 1, 2
_GIF_TICKS = 100  # a gif counts time in hundredths of a second

# Browsers show delays of less than two hundredths much slower.
_GIF_SHORTEST = 2

_SEEK_FROM = 5.0  # seconds; sound that begins later is reached by seeking, to a second before it
# Samples a second of the result: of the usual rates the one that Opus takes; AAC takes it too.
_RATE = 48_000
_BIT_RATES = {"aac": 192_000, "libopus": 128_000}
_LAYOUTS = {"aac": "fltp", "libopus": "flt", "pcm_s16le": "s16"}  # sample format of each encoder


class VideoWriter:
    """Writes frames one by one; use it as a context.

    It writes under a temporary name beside the target. Leaving the context normally puts the finished output
    in its place, replacing an older one; leaving it by an exception removes everything written. Whether a
    file may be replaced is checked in `magicanimate.media.outputs`, before the work begins.
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
        key_every: int | None = None,
        alpha: bool = False,
        seal: Callable[[Path], None] | None = None,
    ) -> None:
        """Open the output; its kind follows the suffix of ``path``.

        - .mp4: H.264, yuv420p, BT.709 and tagged so, index first, AAC sound; odd sizes grow by one pixel.
        - .webm: VP9 and Opus, otherwise the same; may have alpha.
        - .mov: ProRes 4444 of 10 bits, yuv444 in BT.709, with PCM sound, for editors; may have alpha.
        - .gif: endless, at most 50 frames a second, no sound.
        - no suffix: a folder of 000000.png, 000001.png, ..., no sound; may have alpha.

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
            key_every: frames between key frames of mp4 and webm, at most; few for a file that is read at
                random places; the encoder's choice when ``None``.
            alpha: frames have a fourth channel, how opaque they are; their colours are not multiplied by it.
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
        if alpha and self.path.suffix.lower() not in (".webm", ".mov", ""):
            raise ValueError(f"{self.path.suffix} has no alpha channel")
        if width < 1 or height < 1 or self.rate <= 0:
            raise ValueError(f"cannot write {width}x{height} pixels at {fps} frames a second")
        self.num_frames = 0
        self._channels = 4 if alpha else 3
        self._seal = seal
        suffix = self.path.suffix.lower()
        self._partial = partial_path(self.path)
        self._open = True
        # The mark by which `media.outputs` knows the file as one that may be replaced.
        comment = encode_settings({"program": PROGRAM, **(metadata or {})})
        # A silent clip is no reason to refuse a result; the log tells.
        if sound_from is not None and (suffix not in (".mp4", ".webm", ".mov") or not has_sound(sound_from)):
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
                    key_every=key_every,
                    alpha=alpha,
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
        """Add uint8 (height, width, 3), or 4 channels with ``alpha``.

        Raises:
            ValueError: another shape or type, or the writer is closed.
            InputError: the disk is full or gone.
        """
        if not self._open:
            raise ValueError(f"{self.path} is closed")
        shape = (self.height, self.width, self._channels)
        if frame.shape != shape or frame.dtype != np.uint8:
            raise ValueError(f"expected uint8 {shape}, not {frame.dtype} {tuple(frame.shape)}")
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
    """Finish several outputs and move them, and other files, into place: all of them or none.

    Writers that are closed already are passed over; ``files`` has a function for each path, which writes to a
    temporary one.

    Raises:
        ValueError: no frame was written to one of them.
        InputError: something cannot be completed.
    """
    writers = [writer for writer in writers if writer._open]
    pairs = [(writer._partial, writer.path) for writer in writers]
    current = None
    try:
        # Everything is complete under temporary names before the first old file is replaced.
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


class GrowingVideo:
    """An mp4 under its own name that plays while frames are added; use it as a context, which removes it.

    For what is done of a result while the rest is computed. Each frame is a fragment of its own (ISO
    14496-12), so that it plays up to the last but one.
    """

    def __init__(
        self, path: Path, *, width: int, height: int, fps: float | Fraction, metadata: Mapping[str, Any]
    ) -> None:
        """Open it; the arguments are those of `VideoWriter`.

        Raises:
            InputError: it cannot be opened, or is in the way and not of this program.
        """
        self.path = keep_track(check_output(path, overwrite=True))
        rate = as_rate(fps)
        comment = encode_settings({"program": PROGRAM, **metadata})
        kind = {"kind": "mp4", "quality": 20, "comment": comment, "growing": True}
        try:
            self._encoder = ContainerEncoder(self.path, width=width, height=height, rate=rate, **kind)
        except (av.FFmpegError, OSError) as error:
            remove(self.path)
            raise InputError(f"{self.path} cannot be written ({error}); choose another place.") from error

    def write(self, frame: np.ndarray) -> None:
        """Add uint8 (height, width, 3).

        Raises:
            InputError: the disk is full or gone.
        """
        try:
            self._encoder.write(frame)
        except (av.FFmpegError, OSError) as error:
            raise InputError(f"{self.path} cannot be written ({error}); free some room.") from error

    def __enter__(self) -> GrowingVideo:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(av.FFmpegError, OSError):  # it goes in any case
            self._encoder.abandon()
        remove(self.path)


class Encoder(Protocol):
    """What writes one kind of file: takes frames, then finishes or gives up."""

    def write(self, frame: np.ndarray) -> None:
        """Encode uint8 (height, width, 3), or 4 channels where the kind has alpha."""

    def finish(self) -> None:
        """Write what is left and close the file."""

    def abandon(self) -> None:
        """Close the file without caring for its content."""


class ContainerEncoder:
    """mp4 (H.264, AAC), webm (VP9, Opus) or mov (ProRes 4444, PCM) in BT.709, tagged so; or a lossless mp4.

    mp4 and webm are yuv420p, mov is yuv444p10; webm and mov may have an alpha channel. 4:2:0 needs even
    sizes: an odd width or height grows by repeating the last column or row. Lossless files are H.264 in RGB
    (profile High 4:4:4 Predictive), which browsers and some players do not show.
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
        sound_from: Path | None = None,
        sound_start: float = 0.0,
        lossless: bool = False,
        key_every: int | None = None,
        alpha: bool = False,
        growing: bool = False,
    ) -> None:
        """Open the file; ``kind`` is "mp4", "webm" or "mov", and the rest is as in `VideoWriter`.

        Without a ``quality`` it is 17 (mp4) or 24 (webm); ProRes has none. A file that is ``growing``, mp4
        only, can be opened by players before it is finished.
        """
        self._rate = rate
        self._count = 0
        self._lossless = lossless
        self._alpha = alpha
        webm, mov = kind == "webm", kind == "mov"
        self._pad = ((0, 0),) * 3 if lossless or mov else ((0, height % 2), (0, width % 2), (0, 0))
        # "+faststart" puts the index first, so that a browser plays while it loads.
        options = {} if webm else {"movflags": "+faststart"}
        if growing:
            fragments = "+frag_every_frame+empty_moov+default_base_moof"
            options = {"movflags": fragments, "flush_packets": "1"}
        self._container = av.open(str(path), mode="w", format=kind, options=options)
        if comment:
            self._container.metadata["comment"] = comment
        crf = str(quality if quality is not None else (24 if webm else 17))
        codec, codec_options = "libx264", {"crf": crf}
        if lossless:
            codec, codec_options = "libx264rgb", {"qp": "0"}
        elif mov:
            codec, codec_options = "prores_ks", {"profile": "4444", "vendor": "apl0"}
        elif webm:
            codec = "libvpx-vp9"
            codec_options = {"crf": crf, "deadline": "good", "cpu-used": "3", "row-mt": "1"}
        if key_every is not None:
            codec_options["g"] = str(key_every)
        if growing:
            # Each frame is a fragment that is on the disk at once: nothing waits in the encoder.
            codec_options |= {"tune": "zerolatency", "g": str(max(1, round(rate)))}
        if alpha and webm:
            codec_options["auto-alt-ref"] = "0"  # libvpx has no such frames with alpha
        self._stream = self._container.add_stream(codec, rate=rate, options=codec_options)
        if webm:
            # Without this libvpx takes crf as a bound only, and aims at a bit rate of its own.
            self._stream.bit_rate = 0
        if alpha and webm:
            self._stream.metadata["alpha_mode"] = "1"  # by which players know of the second stream
        self._stream.width = width + self._pad[1][1]
        self._stream.height = height + self._pad[0][1]
        a = "a" if alpha else ""
        self._format = "rgb24" if lossless else f"yuv{a}444p10le" if mov else f"yuv{a}420p"
        self._stream.pix_fmt = self._format
        context = self._stream.codec_context
        context.time_base = 1 / rate
        context.color_primaries = context.color_trc = _BT709
        context.colorspace = _RGB if lossless else _BT709
        context.color_range = _FULL_RANGE if lossless else _LIMITED_RANGE
        self._sound = None
        if sound_from is not None:
            codec = {"mp4": "aac", "webm": "libopus", "mov": "pcm_s16le"}[kind]
            self._sound = SoundTrack(self._container, sound_from, start=sound_start, codec=codec)

    def write(self, frame: np.ndarray) -> None:
        """Encode uint8 (height, width, 3 or 4), and the sound that goes with it."""
        if self._pad != ((0, 0), (0, 0), (0, 0)):
            # An edge of black would be seen; a repeated column is not.
            frame = np.pad(frame, self._pad, mode="edge")
        given = "rgba" if self._alpha else "rgb24"
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format=given)
        if not self._lossless:
            picture = picture.reformat(
                format=self._format,
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
            # Players expect sound and pictures of one moment near to each other in the file.
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
        # Rounded from the beginning, not added up, so that long gifs keep their speed.
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
        # The end of the input, after which the graph gives up what it holds back.
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


class SoundTrack:
    """Feeds the sound of a file into an output container, a little ahead of the pictures.

    Times are seconds since the first picture of the source; sound before ``start`` is left out.
    """

    def __init__(self, container: av.container.OutputContainer, source: Path, *, start: float, codec: str):
        """Add an audio stream, "aac", "libopus" or "pcm_s16le", to a container without a header so far.

        ``source`` has sound (`has_sound`), and its stretch begins at ``start``, seconds.
        """
        self._container = container
        self._stream = container.add_stream(codec, rate=_RATE)
        self._stream.codec_context.layout = "stereo"
        self._stream.codec_context.format = self._layout = _LAYOUTS[codec]
        if codec in _BIT_RATES:
            self._stream.codec_context.bit_rate = _BIT_RATES[codec]
        self._blocks = _samples(source, start)
        self._waiting: np.ndarray | None = next(self._blocks, None)
        self._written = 0

    def advance(self, seconds: float) -> None:
        """Encode what is heard before that moment of the result."""
        limit = round(seconds * _RATE)
        while self._waiting is not None and self._written < limit:
            block = self._waiting[:, : limit - self._written]
            rest = self._waiting[:, block.shape[1] :]
            self._encode(block)
            self._waiting = rest if rest.shape[1] else next(self._blocks, None)

    def finish(self) -> None:
        """Flush the encoder and close the source."""
        self.close()
        self._container.mux(self._stream.encode(None))

    def close(self) -> None:
        """Close the source."""
        self._blocks.close()

    def _encode(self, block: np.ndarray) -> None:
        """Encode float32 (2, samples)."""
        data = block if self._layout == "fltp" else block.T.reshape(1, -1)
        if self._layout == "s16":
            # ProRes files carry PCM, which is integers; the other encoders take floats.
            data = np.rint(data * 32767).clip(-32768, 32767).astype(np.int16)
        data = np.ascontiguousarray(data)
        frame = av.AudioFrame.from_ndarray(data, format=self._layout, layout="stereo")
        frame.sample_rate = _RATE
        # The stream counts in samples, so this is its time as well.
        frame.pts = self._written
        self._written += block.shape[1]
        self._container.mux(self._stream.encode(frame))


def has_sound(path: Path) -> bool:
    """Whether a media file has an audio stream; false for anything that cannot be opened."""
    if not path.is_file():
        return False
    try:
        with open_container(path) as container:
            return sound_stream(container) is not None
    except (av.FFmpegError, OSError, ValueError) as error:
        logger.warning("%s: no sound can be read (%s)", path, error)
        return False


def _samples(source: Path, start: float) -> Iterator[np.ndarray]:
    """Blocks of float32 (2, samples) at 48 kHz from ``start`` on; silence where sound begins later."""
    resampler = av.AudioResampler(format="fltp", layout="stereo", rate=_RATE)
    with open_container(source) as container:
        stream = sound_stream(container)
        if stream is None:
            return
        pictures = picture_stream(container)
        origin = 0.0
        if pictures is not None and pictures.start_time is not None:
            origin = float(pictures.start_time * pictures.time_base)
        begin = origin + start
        if start >= _SEEK_FROM:
            container.seek(int((begin - 1.0) * av.time_base))
        position: int | None = None
        for frame in decoded(container, stream, stream.codec_context):
            if position is None:
                position = round(((frame.time or 0.0) - begin) * _RATE)
                if position > 0:
                    # The sound begins later than the pictures, so silence goes before it.
                    yield np.zeros((2, position), dtype=np.float32)
            for piece in resampler.resample(frame):
                samples = piece.to_ndarray()
                # A seek ends before the wanted moment; samples until then are dropped.
                skip = max(0, -position)
                position += samples.shape[1]
                if skip < samples.shape[1]:
                    yield samples[:, skip:]
