"""``python -m training.data check``: what a training would use of a folder, told before it is started."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from magicanimate.errors import InputError
from magicanimate.media.outputs import read_metadata
from training.data.draws import clip_interval
from training.data.folders import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Entry, find_entries
from training.data.images import ImageFolder
from training.data.opening import holds_dancers, holds_shards
from training.data.shards import ImageShards
from training.data.sources import ImageSet
from training.data.videos import FRAME_RATE, counted_engines, has_other_rate, video_facts

_ANY_SIZE = 64
"""Size at which images are read to see whether they can be; the training has its own."""


def check_folder(folder: Path, *, signals: Sequence[str], length: int, interval: int) -> Iterator[str]:
    """Yield the lines of the report; problems begin with "left out: ".

    Videos are examined as a training does when it opens them, and the index is kept for it; every image is
    decoded.

    Args:
        folder: a data folder as `training.data.opening` opens it.
        signals: control signals that the training needs.
        length, interval: frames of its clips, and the interval between them.

    Raises:
        InputError: the folder holds nothing that can be used.
    """
    if not folder.is_dir():
        raise InputError(f"The data folder {folder} does not exist; check the name.")
    if holds_dancers(folder):
        yield from _dancers(folder, length)
        return
    usable = 0
    videos = find_entries(folder, suffixes=VIDEO_SUFFIXES, main="videos")
    if videos:
        # `yield from` passes the lines on, and its value is what the generator returns.
        usable += yield from _videos(folder, videos, signals, length, interval)
    if holds_shards(folder):
        shards = ImageShards(folder, size=_ANY_SIZE, signals=signals)
        usable += yield from _images("pictures in shards", shards)
        if shards.left_out:
            yield f"left out: {shards.left_out} pictures without {' and '.join(signals)}"
    elif images := find_entries(folder, suffixes=IMAGE_SUFFIXES, main="images"):
        yield from (
            f"left out: the picture {entry.pixels} has no {' and no '.join(missing)} file"
            for entry in images
            if (missing := entry.missing(signals))
        )
        # ImageFolder refuses a folder without a single usable image.
        if not all(entry.missing(signals) for entry in images):
            usable += yield from _images("pictures", ImageFolder(folder, size=_ANY_SIZE, signals=signals))
            maps = [entry.signals["densepose"] for entry in images if "densepose" in entry.signals]
            if maps and "densepose" in signals:
                found = ((read_metadata(path) or {}).get("engine") for path in maps)
                yield f"the pictures' part maps are by: {_engines(found)}"
    if not usable:
        raise InputError(f"{folder} holds nothing that can be used for training.")


def _dancers(folder: Path, length: int) -> Iterator[str]:
    from training.dancers.dataset import DancerFolder, keypoints_path

    dancers, broken = DancerFolder(folder), 0
    for i in range(len(dancers)):
        try:
            dancers[i]
        except InputError as error:
            broken += 1
            yield f"left out: {error}"
    # What was asked for, which a stopped renderer has not all done.
    info = dancers.info
    # Keypoints are rendered on request only, so there may be fewer of them.
    recorded = sum(keypoints_path(folder, i).exists() for i in dancers.indices)
    yield (
        f"{len(dancers) - broken} rendered people of {info.count} asked for, {info.size}x{info.size} pixels, "
        f"{info.stills} stills and {info.frames} frames each; keypoints of {recorded}"
    )
    if info.frames < length:
        yield f"their clips are shorter than the {length} frames of a training clip"
    if broken == len(dancers):
        raise InputError(f"{folder} holds no rendered dancers that can be read.")


def _videos(
    folder: Path, entries: Sequence[Entry], signals: Sequence[str], length: int, interval: int
) -> Iterator[str]:
    """Yield lines about videos; returns how many can be used."""
    used = []
    for entry, facts in zip(entries, video_facts(folder, entries), strict=True):
        if facts.problem:
            yield f"left out: {facts.problem}"
        elif missing := entry.missing(signals):
            yield f"left out: the video {entry.pixels} has no {' and no '.join(missing)} file"
        else:
            used.append(facts)
    if not used:
        return 0
    frames = [facts.frames for facts in used]
    counts = Counter(f"{facts.width}x{facts.height}" for facts in used)
    sizes = ", ".join(f"{size} ({count})" for size, count in counts.most_common(5))
    yield (
        f"{len(used)} videos with {' and '.join(signals)}, {sum(frames)} frames, "
        f"{min(frames)} to {max(frames)} each; sizes {sizes}"
    )
    # As the training will shrink the interval of short videos.
    steps = [clip_interval(count, length=length, interval=interval) for count in frames]
    if too_short := steps.count(0):
        yield f"{too_short} of them have fewer than the {length} frames of a clip and give pairs only"
    if closer := sum(0 < step < interval for step in steps):
        yield f"{closer} of them are too short for {length} frames {interval} apart and give them closer"
    if "densepose" in signals:
        yield f"their part maps are by: {_engines(facts.engine for facts in used)}"
    if other := sum(map(has_other_rate, used)):
        rates = Counter(f"{facts.rate:.4g}" for facts in used if has_other_rate(facts)).most_common(3)
        common = ", ".join(f"{rate} ({count})" for rate, count in rates)
        yield f"{other} of them do not have {FRAME_RATE:g} frames a second but {common}"
    if nobody := sum(facts.person is None for facts in used):
        yield f"in {nobody} of them nobody was found; their middle is used"
    return len(used)


def _engines(found: Iterable[str | None]) -> str:
    """The engines that made some part maps, with a warning if there are several."""
    engines = Counter(found)
    # Engines draw the same people slightly differently, and a ControlNet would learn both.
    mixed = "; do not mix them, make all with one" if len(engines) > 1 else ""
    return counted_engines(engines) + mixed


def _images(what: str, images: ImageSet) -> Iterator[str]:
    """Read all images and yield lines about them; returns how many can be used."""
    broken = 0
    for i in range(len(images)):
        try:
            images.read(i)
        except InputError as error:
            broken += 1
            yield f"left out: {error}"
    yield f"{len(images) - broken} {what}"
    return len(images) - broken
