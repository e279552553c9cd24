"""Outputs of frozen networks that are computed before the training: latents, and part maps by the segmenter.

Letters in shape comments: ``I`` videos, ``K`` images of a video, ``B`` of a batch, ``H W`` pixels, ``C h w``
latents, ``M`` side of a kept part map.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap

from densepose_tools.arrays import map_array
from densepose_tools.segmenter import DEFAULT_FOLDER, PartSegmenter
from magicanimate.files import Unreadable, whole_file
from training.data.dancers import DancerVideos
from training.data.sources import Frames, VideoSet
from training.data.tensors import to_images

log = logging.getLogger(__name__)
LOGGED = 500
"""Videos between two lines of progress."""
PHOTO_LABELS_SIDE = 64
"""Side M of the kept part maps: 2 x 2 labels for each of 32 x 32 tokens."""
_COMPARED = 4  # videos of which a kept file is checked
_FRAMES_AT_ONCE = 64
_ROUNDING = 0.05
"""Largest mean difference of equal outputs, relative to their size; another network's differ by about 1."""


def compute_all(
    data: DancerVideos,
    path: Path,
    compute: Callable[[torch.Tensor], torch.Tensor],
    *,
    batch_size: int = 8,
    threads: int = 1,
) -> np.ndarray:
    """Compute a network's output for every image once, and keep it in a file.

    An existing file is reused, unless a check of a few images shows that it is another network's, or of other
    data.

    Args:
        data: the images.
        path: the ``.npy`` file.
        compute: the network, images float32 ``B 3 H W`` in [-1, 1] on the CPU -> ``B ...`` on any device. Its
            output is kept as float16 if it is a floating-point number, else in its own dtype.
        batch_size: images at once: few on a CPU, so that it keeps the activations in its caches, many on a
            GPU.
        threads: threads that read images ahead of the network.

    Returns:
        The outputs ``I K ...``, memory-mapped.
    """
    count, per = data.rgb.shape[:2]
    if not _is_made(path, data, compute):
        path.parent.mkdir(parents=True, exist_ok=True)
        # One image in advance, to learn the shape and dtype of the file.
        first = compute(to_images(data.pictures(0, [0]))).cpu()
        kind = np.float16 if first.is_floating_point() else first.numpy().dtype
        temporary = path.with_suffix(".tmp")
        values = open_memmap(temporary, mode="w+", dtype=kind, shape=(count, per, *first.shape[1:]))
        # Whole videos at a time, as the file is laid out by video.
        group = max(1, batch_size // per)
        for first, images in _read_ahead(data, group, threads):
            found = torch.cat([compute(part).cpu() for part in images.split(batch_size)])
            values[first : first + group] = found.unflatten(0, (-1, per)).numpy()
            if first % LOGGED < group:
                log.info("%s: computed %d of %d", path.name, first, count)
        values.flush()
        # The map is closed before the rename, which Windows would refuse otherwise.
        del values
        os.replace(temporary, path)
    return map_array(path)


def _read_ahead(data: DancerVideos, group: int, threads: int) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield a first video's number and all images ``B 3 H W`` of ``group`` videos, read by threads."""
    count, per = data.rgb.shape[:2]

    def read(first: int) -> tuple[int, torch.Tensor]:
        videos = range(first, min(first + group, count))
        return first, to_images(np.concatenate([data.pictures(video, range(per)) for video in videos]))

    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future] = deque()
        for first in range(0, count, group):
            waiting.append(pool.submit(read, first))
            # At most one group per thread waits, so memory does not grow with the data.
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _is_made(path: Path, data: DancerVideos, compute: Callable[[torch.Tensor], torch.Tensor]) -> bool:
    """Whether a file holds what would be computed, up to rounding, which depends on the batch size."""
    try:
        values = map_array(path)
    except Unreadable:
        return False
    if values.shape[:2] != data.rgb.shape[:2]:
        return False
    # A few images from all over the set: another autoencoder differs in all of them.
    some = np.linspace(0, len(values) - 1, _COMPARED).round().astype(int)
    images = to_images(np.concatenate([data.pictures(video, [0]) for video in some]))
    fresh, kept = compute(images).float().cpu().numpy(), values[some, 0].astype(np.float32)
    return fresh.shape == kept.shape and np.abs(fresh - kept).mean() <= _ROUNDING * np.abs(fresh).mean()


class PhotoLabels:
    """Segments body parts in training images, by the segmenter that also segments a user's photo.

    An appearance encoder trained on exact part maps would trust the segmenter's too much, so it is trained on
    those with all their mistakes.
    """

    def __init__(self, device: torch.device, folder: Path = DEFAULT_FOLDER) -> None:
        self.segmenter = PartSegmenter.load(folder)
        self.segmenter.network.to(device)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Images ``B 3 H W`` in [-1, 1] -> part ids, uint8 ``B M M``, sampled on a regular grid."""
        pixels = ((images + 1) * 127.5).round().byte().movedim(1, -1).cpu().numpy()
        labels = torch.from_numpy(self.segmenter.labels(pixels))
        # The pixel in the middle of each cell: labels cannot be averaged.
        middles = (2 * torch.arange(PHOTO_LABELS_SIDE) + 1) * labels.shape[-1] // (2 * PHOTO_LABELS_SIDE)
        return labels[:, middles][:, :, middles]


class _OfVideos:
    """Base of sets with the numbers, lengths and names of other ``videos``."""

    videos: VideoSet

    def __len__(self) -> int:
        return len(self.videos)

    def num_frames(self, video: int) -> int:
        return self.videos.num_frames(video)

    def name(self, video: int) -> str:
        return self.videos.name(video)


class ComputedVideos(_OfVideos):
    """A `VideoSet` of rendered dancers with latents, labels and points in place of images.

    It reads a tenth of the bytes.

    Args:
        videos: the dancers.
        files: written by `compute_all`: "latents", and "photo_labels" if the appearance encoder takes them.
        pixels: read the images and control images as well, for validation.
    """

    def __init__(self, videos: DancerVideos, files: Mapping[str, Path], *, pixels: bool = False):
        self.videos, self.files, self.pixels, self.stills = videos, dict(files), pixels, videos.stills
        self._map_arrays()

    def _map_arrays(self) -> None:
        self._arrays = {name: map_array(path) for name, path in self.files.items()}
        self._arrays |= {"labels": self.videos.labels, "points": self.videos.points}

    def __getstate__(self) -> dict[str, Any]:
        """The state without the memory maps, which a data loader's worker opens itself."""
        return {key: value for key, value in self.__dict__.items() if key != "_arrays"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map_arrays()

    def read(self, video: int, frames: Sequence[int]) -> Frames:
        frames = list(frames)
        if self.pixels:
            read = self.videos.read(video, frames)
            pixels, control = read.pixels, read.control
        else:
            pixels, control = None, self.videos.control_images(video, frames)
        return Frames(pixels, control, **{name: array[video, frames] for name, array in self._arrays.items()})


class LatentVideos(_OfVideos):
    """A `VideoSet` of real videos with cached latents in place of their images.

    Every video has a file of its latents, float16 ``K C h w`` for ``K`` frames. A hash of the video's path,
    size and time of change and of ``key`` is part of its name, so that nothing outdated is used.

    Args:
        videos: the real videos.
        folder: for the files.
        encode: images, float32 ``B 3 H W`` in [-1, 1] -> latents ``B C h w`` on any device.
        key: identifies everything else the latents depend on: autoencoder, size, crop.
    """

    def __init__(
        self,
        videos: VideoSet,
        folder: Path,
        encode: Callable[[torch.Tensor], torch.Tensor],
        *,
        key: str,
    ):
        self.videos, self.stills = videos, videos.stills
        folder.mkdir(parents=True, exist_ok=True)
        self.files = [self._file(video, folder, key) for video in range(len(videos))]
        todo = [video for video, file in enumerate(self.files) if not file.exists()]
        for done, video in enumerate(todo):
            self._compute(video, encode)
            if done % LOGGED == 0:
                log.info("%s: latents of %d of %d videos", folder, done, len(todo))

    def _file(self, video: int, folder: Path, key: str) -> Path:
        path = Path(self.videos.name(video))
        # By its status rather than its content, so that opening the set does not read every video.
        status = path.stat()
        known = f"{path.resolve()} {status.st_size} {status.st_mtime_ns} {key}"
        return folder / f"{path.stem}.{hashlib.sha256(known.encode()).hexdigest()[:16]}.npy"

    def _compute(self, video: int, encode: Callable[[torch.Tensor], torch.Tensor]) -> None:
        count, parts = self.videos.num_frames(video), []
        for first in range(0, count, _FRAMES_AT_ONCE):
            frames = range(first, min(first + _FRAMES_AT_ONCE, count))
            pixels = self.videos.read(video, frames).pixels
            # In blocks, so that a long video need not fit into memory.
            parts.append(encode(to_images(pixels)).cpu().numpy().astype(np.float16))
        with whole_file(self.files[video]) as partial, partial.open("wb") as file:
            np.save(file, np.concatenate(parts))

    def read(self, video: int, frames: Sequence[int]) -> Frames:
        frames = list(frames)
        latents = map_array(self.files[video])[frames]
        return Frames(None, self.videos.signals_of(video, frames), latents=latents)
