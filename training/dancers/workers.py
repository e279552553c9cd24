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

from training.dancers.body import Body
from training.dancers.clip import render_identity
from training.dancers.dataset import DatasetInfo, write_identity


class Renderer:
    """Renders and writes single identities of one data set; made once per process, uses one thread."""

    def __init__(self, folder: Path, info: DatasetInfo) -> None:
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        self.folder, self.info, self.body = folder, info, Body()

    def __call__(self, index: int) -> int:
        identity = render_identity(self.body, (self.info.seed, index), self.info.spec)
        write_identity(self.folder, index, identity)
        return index


_renderer: Renderer | None = None


def _start_worker(folder: Path, info: DatasetInfo) -> None:
    global _renderer
    _renderer = Renderer(folder, info)


def _render_in_worker(index: int) -> int:
    return _renderer(index)


def render_all(folder: Path, info: DatasetInfo, todo: list[int], workers: int) -> Iterator[int]:
    """Render the identities of `todo` on `workers` processes; yields each one's index when it is on disk."""
    renderer = Renderer(folder, info)  # the first construction fills anny's cache, which all workers share
    if workers <= 1:
        yield from map(renderer, todo)
        return
    del renderer
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker, (folder, info)) as pool:
        for done in as_completed([pool.submit(_render_in_worker, index) for index in todo]):
            yield done.result()
