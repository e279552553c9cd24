"""Opens a folder of training data, whichever kind it holds. The kinds are imported when they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from magicanimate.errors import InputError
from training.config import Framing
from training.data.sources import SIGNALS, ImageSet, VideoSet


def holds_dancers(folder: Path) -> bool:
    """Whether the folder holds rendered dancers."""
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
    """Open a folder of rendered dancers or of real videos.

    Args:
        folder: as `DancerVideos` or `VideoFolder` reads it.
        size: side of the square images, pixels.
        signals: control signals to read: "densepose", "keypoints" or both.
        index_folder: where an index is kept if ``folder`` is read-only, for instance the run's folder.
        framing: which square is cut out: around the person, or the centre; rendered dancers are square
            already.

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
    """Open a folder of tar shards, of images, or of rendered dancers (all their images).

    The arguments are those of `open_videos`.
    """
    folder = _checked(folder, signals)
    # Before images: a folder with shards may still hold what was packed into them.
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
    # Names come from a plan or a call, not only from options that argparse has checked.
    if strange or not signals:
        raise InputError(f"{strange or 'nothing'} is no driving signal; choose from {', '.join(SIGNALS)}.")
    return folder
