"""Latents of a fixed set of pictures, computed once."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap

from training.data.dancers import DancerVideos
from training.data.tensors import to_images

log = logging.getLogger(__name__)
LOGGED = 8192  # images between two lines of progress
_COMPARED = 4  # images
_ROUNDING = 0.05  # of the latents' size; those of other autoencoders are about as far away as they are large


def encode_all(
    data: DancerVideos,
    path: Path,
    encode: Callable[[torch.Tensor], torch.Tensor],
    *,
    batch_size: int = 8,
) -> np.ndarray:
    """Latents of every image, computed once: float16 ``I K C h w`` at ``path``, memory-mapped.

    A file that plainly holds others, as a look at a few images shows, is made anew.

    Args:
        data: the images.
        path: ``.npy`` file to make or reuse.
        encode: images ``B 3 H W`` on the CPU -> latents ``B C h w`` on any device.
        batch_size: images at once; few, so that a CPU keeps them in its caches.
    """
    count, per = data.rgb.shape[:2]
    flat = data.rgb.reshape(count * per, *data.rgb.shape[2:])
    if not (path.exists() and _agree(np.load(path, mmap_mode="r"), flat, encode)):
        path.parent.mkdir(parents=True, exist_ok=True)
        first = encode(to_images(flat[:1]))
        temporary = path.with_suffix(".tmp")
        latents = open_memmap(temporary, mode="w+", dtype=np.float16, shape=(count * per, *first.shape[1:]))
        for i in range(0, len(flat), batch_size):
            latents[i : i + batch_size] = encode(to_images(flat[i : i + batch_size])).cpu().numpy()
            if i % LOGGED == 0:
                log.info("encoded %d of %d images", i, len(flat))
        latents.flush()
        del latents
        os.replace(temporary, path)
    latents = np.load(path, mmap_mode="r")
    return latents.reshape(*data.rgb.shape[:2], *latents.shape[1:])


def _agree(latents: np.ndarray, images: np.ndarray, encode: Callable[[torch.Tensor], torch.Tensor]) -> bool:
    """Whether some of the latents are those of the images; rounding may differ with the size of a batch."""
    if len(latents) != len(images):
        return False
    some = np.linspace(0, len(images) - 1, _COMPARED).round().astype(int)
    fresh = encode(to_images(images[some])).cpu().numpy()
    if fresh.shape != latents[some].shape:
        return False
    return np.abs(fresh - latents[some]).mean() <= _ROUNDING * np.abs(fresh).mean()
