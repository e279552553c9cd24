"""Rendering on several processes: the same pixels on any number of them.

The workers are spawned, so what they run lives here and not in `__main__`, which they cannot import.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import cv2
import torch

from densepose_tools.keypoints import Keypoints, write_keypoints
from training.dancers.body import Body
from training.dancers.clip import identity_keypoints, render_identity
from training.dancers.dataset import DatasetInfo, is_written, keypoints_path, write_identity


class Renderer:
    """Renders and writes what is missing of single identities; made once per process, uses one thread."""

    def __init__(self, folder: Path, info: DatasetInfo, keypoints: bool) -> None:
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        self.folder, self.info, self.keypoints, self.body = folder, info, keypoints, Body()

    def __call__(self, index: int) -> int:
        seed, spec = (self.info.seed, index), self.info.spec
        if not is_written(self.folder, index):
            write_identity(self.folder, index, render_identity(self.body, seed, spec))
        path = keypoints_path(self.folder, index)
        if self.keypoints and not path.exists():
            points = identity_keypoints(self.body, seed, spec)
            write_keypoints(path, Keypoints(points, spec.size, spec.size))
        return index


_renderer: Renderer | None = None


def _start_worker(folder: Path, info: DatasetInfo, keypoints: bool) -> None:
    global _renderer
    _renderer = Renderer(folder, info, keypoints)


def _render_in_worker(index: int) -> int:
    return _renderer(index)


def render_all(
    folder: Path, info: DatasetInfo, todo: list[int], workers: int, *, keypoints: bool = False
) -> Iterator[int]:
    """Render what is missing of the identities of `todo` on `workers` processes.

    keypoints: write those too. Yields each identity's index when it is on disk.
    """
    # The first construction fills anny's cache, which all workers share.
    renderer = Renderer(folder, info, keypoints)
    if workers <= 1:
        yield from map(renderer, todo)
        return
    del renderer
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker, (folder, info, keypoints)) as pool:
        for done in as_completed([pool.submit(_render_in_worker, index) for index in todo]):
            yield done.result()
