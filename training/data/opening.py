"""Open a folder of training data, whichever kind it holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from magicanimate.errors import InputError
from training.config import Framing
from training.data.sources import SIGNALS, ImageSet, VideoSet


def holds_dancers(folder: Path) -> bool:
    """Whether the folder was written by ``python -m training.dancers``."""
    return (folder / "dataset.json").is_file()


def holds_shards(folder: Path) -> bool:
    """Whether the folder holds tar files."""
    return any(folder.glob("*.tar"))


def open_videos(
    folder: Path | str,
    *,
    size: int,
    signals: Sequence[str] = ("densepose",),
    index_folder: Path | None = None,
    framing: Framing = "person",
) -> VideoSet:
    """A folder of rendered dancers or of real videos.

    Args:
        folder: what ``DancerVideos`` or ``VideoFolder`` reads.
        size: side of the square pictures, pixels.
        signals: driving signals wanted: "densepose", "keypoints" or both.
        index_folder: where an index goes if the folder cannot be written to, for instance the run's.
        framing: the square that is cut out: around the person, or the centre; rendered dancers are square.

    Raises:
        InputError: the folder is missing or has nothing to train on.
    """
    folder = _checked(folder, signals)
    if holds_dancers(folder):
        from training.data.dancers import DancerVideos

        return DancerVideos(folder, size=size, signals=signals)
    from training.data.videos import VideoFolder

    return VideoFolder(folder, size=size, signals=signals, index_folder=index_folder, framing=framing)


def open_images(
    folder: Path | str,
    *,
    size: int,
    signals: Sequence[str] = ("densepose",),
    index_folder: Path | None = None,
    framing: Framing = "person",
) -> ImageSet:
    """A folder of tar shards or of pictures; a folder of dancers gives all its pictures.

    See ``open_videos`` for the arguments.
    """
    folder = _checked(folder, signals)
    if holds_shards(folder):
        from training.data.shards import ImageShards

        return ImageShards(folder, size=size, signals=signals, index_folder=index_folder, framing=framing)
    if holds_dancers(folder):
        from training.data.dancers import DancerVideos
        from training.data.sources import VideoFrames

        return VideoFrames(DancerVideos(folder, size=size, signals=signals))
    from training.data.images import ImageFolder

    return ImageFolder(folder, size=size, signals=signals, framing=framing)


def _checked(folder: Path | str, signals: Sequence[str]) -> Path:
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"The data folder {folder} does not exist; check the name.")
    strange = [signal for signal in signals if signal not in SIGNALS]
    if strange or not signals:
        raise InputError(f"{strange or 'nothing'} is no driving signal; choose from {', '.join(SIGNALS)}.")
    return folder
