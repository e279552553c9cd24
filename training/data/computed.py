"""What is computed once of every picture of a fixed set: latents, and the part map that the segmenter sees.

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
LOGGED = 500  # videos between two lines of progress
PHOTO_LABELS_SIDE = 64  # two labels each way for a token of 32 x 32
_COMPARED = 4  # videos
_FRAMES_AT_ONCE = 64
_ROUNDING = 0.05  # of the values' size; those of another network are about as far away as they are large


def compute_all(
    data: DancerVideos,
    path: Path,
    compute: Callable[[torch.Tensor], torch.Tensor],
    *,
    batch_size: int = 8,
    threads: int = 1,
) -> np.ndarray:
    """A network's view of every image, computed once: ``I K ...`` at ``path``, memory-mapped.

    A file that plainly holds another's, as a look at a few images shows, is made anew.

    Args:
        data: the images.
        path: ``.npy`` file to make or reuse.
        compute: images ``B 3 H W`` in [-1, 1] on the CPU -> ``B ...`` on any device; kept as float16 if it
            has fractions, else in its own type.
        batch_size: images at once; few, so that a CPU keeps them in its caches, many for a GPU.
        threads: that read the images, ahead of the network.
    """
    count, per = data.rgb.shape[:2]
    if not _is_made(path, data, compute):
        path.parent.mkdir(parents=True, exist_ok=True)
        first = compute(to_images(data.pictures(0, [0]))).cpu()
        kind = np.float16 if first.is_floating_point() else first.numpy().dtype
        temporary = path.with_suffix(".tmp")
        values = open_memmap(temporary, mode="w+", dtype=kind, shape=(count, per, *first.shape[1:]))
        group = max(1, batch_size // per)
        for first, images in _read_ahead(data, group, threads):
            found = torch.cat([compute(part).cpu() for part in images.split(batch_size)])
            values[first : first + group] = found.unflatten(0, (-1, per)).numpy()
            if first % LOGGED < group:
                log.info("%s: computed %d of %d", path.name, first, count)
        values.flush()
        del values
        os.replace(temporary, path)
    return map_array(path)


def _read_ahead(data: DancerVideos, group: int, threads: int) -> Iterator[tuple[int, torch.Tensor]]:
    """All images of so many videos at a time, ``B 3 H W``, and the first video's number."""
    count, per = data.rgb.shape[:2]

    def read(first: int) -> tuple[int, torch.Tensor]:
        videos = range(first, min(first + group, count))
        return first, to_images(np.concatenate([data.pictures(video, range(per)) for video in videos]))

    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future] = deque()
        for first in range(0, count, group):
            waiting.append(pool.submit(read, first))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _is_made(path: Path, data: DancerVideos, compute: Callable[[torch.Tensor], torch.Tensor]) -> bool:
    """Whether a file holds what would be computed; one that cannot be read is made anew."""
    try:
        return _agree(map_array(path), data, compute)
    except Unreadable:
        return False


def _agree(values: np.ndarray, data: DancerVideos, compute: Callable[[torch.Tensor], torch.Tensor]) -> bool:
    """Whether some of the values are those of the images; rounding may differ with the size of a batch."""
    if values.shape[:2] != data.rgb.shape[:2]:
        return False
    some = np.linspace(0, len(values) - 1, _COMPARED).round().astype(int)
    images = to_images(np.concatenate([data.pictures(video, [0]) for video in some]))
    fresh, kept = compute(images).float().cpu().numpy(), values[some, 0].astype(np.float32)
    return fresh.shape == kept.shape and np.abs(fresh - kept).mean() <= _ROUNDING * np.abs(fresh).mean()


class PhotoLabels:
    """Finds the parts in training pictures, with the mistakes that the segmenter makes.

    An encoder that had learned with exact maps would trust those of a user's photo too much.
    """

    def __init__(self, device: torch.device, folder: Path = DEFAULT_FOLDER) -> None:
        self.segmenter = PartSegmenter.load(folder)
        self.segmenter.network.to(device)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Pictures ``B 3 H W`` in [-1, 1] -> part ids uint8 ``B M M``, of every so many-th pixel."""
        pixels = ((images + 1) * 127.5).round().byte().movedim(1, -1).cpu().numpy()
        labels = torch.from_numpy(self.segmenter.labels(pixels))
        middles = (2 * torch.arange(PHOTO_LABELS_SIDE) + 1) * labels.shape[-1] // (2 * PHOTO_LABELS_SIDE)
        return labels[:, middles][:, :, middles]


class _OfVideos:
    """As many videos, as long and of the same names as ``videos``."""

    videos: VideoSet

    def __len__(self) -> int:
        return len(self.videos)

    def num_frames(self, video: int) -> int:
        return self.videos.num_frames(video)

    def name(self, video: int) -> str:
        return self.videos.name(video)


class ComputedVideos(_OfVideos):
    """Rendered dancers with latents, labels and body points in place of pictures and drawn part maps.

    A ``VideoSet``; it reads a tenth of the bytes that the pictures are.

    Args:
        videos: the dancers.
        files: what `compute_all` wrote: "latents", and "photo_labels" if the appearance encoder takes them.
        pixels: whether the pictures and drawn maps are wanted nevertheless, to look at.
    """

    def __init__(self, videos: DancerVideos, files: Mapping[str, Path], *, pixels: bool = False):
        self.videos, self.files, self.pixels, self.stills = videos, dict(files), pixels, videos.stills
        self._map_arrays()

    def _map_arrays(self) -> None:
        self._arrays = {name: map_array(path) for name, path in self.files.items()}
        self._arrays |= {"labels": self.videos.labels, "points": self.videos.points}

    def __getstate__(self) -> dict[str, Any]:
        """Without the arrays, which another process maps itself."""
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
    """Real videos with their latents, which are computed once, in place of pictures; a ``VideoSet``.

    Each video has a file, float16 ``K C h w`` of its ``K`` frames, whose name tells the video as it is, the
    size, the crop and the autoencoder; what is there already is not computed again.

    Args:
        videos: real videos.
        folder: for the files.
        encode: images ``B 3 H W`` in [-1, 1] -> latents ``B C h w`` on any device.
        key: tells everything that the latents depend on besides the video file.
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
        status = path.stat()
        known = f"{path.resolve()} {status.st_size} {status.st_mtime_ns} {key}"
        return folder / f"{path.stem}.{hashlib.sha256(known.encode()).hexdigest()[:16]}.npy"

    def _compute(self, video: int, encode: Callable[[torch.Tensor], torch.Tensor]) -> None:
        count, parts = self.videos.num_frames(video), []
        for first in range(0, count, _FRAMES_AT_ONCE):
            frames = range(first, min(first + _FRAMES_AT_ONCE, count))
            pixels = self.videos.read(video, frames).pixels
            parts.append(encode(to_images(pixels)).cpu().numpy().astype(np.float16))
        with whole_file(self.files[video]) as partial, partial.open("wb") as file:
            np.save(file, np.concatenate(parts))

    def read(self, video: int, frames: Sequence[int]) -> Frames:
        frames = list(frames)
        latents = map_array(self.files[video])[frames]
        return Frames(None, self.videos.signals_of(video, frames), latents=latents)
